"""State of the machine around a measurement: what it was, what it drew, what spoils the numbers.

`capture` before and after the run, `PowerSampler` during it, `warnings` of the three. All readers
take the folder that stands for `/`, so that they run on files recorded on other machines. What a
machine doesn't tell is None. Read on real machines: Linux on x86. Not verified on hardware: the
Jetson readers (written from recorded files) and the values that NVML gives.
"""

from benchmarks.state.capture import capture
from benchmarks.state.power import PowerSampler
from benchmarks.state.warn import warnings

__all__ = ["PowerSampler", "capture", "warnings"]
