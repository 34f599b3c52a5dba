"""State of the machine around a measurement: what it was, what it drew, what spoils the numbers.

`capture` before and after the run, `PowerSampler` during it, `warnings` of the three. All readers
take the folder that stands for `/`, so that they run on files recorded on other machines. What a
machine doesn't tell is None. Read on real machines: Linux on x86. Not verified on hardware: the
Jetson readers (written from recorded files) and the values that NVML gives.
"""

from benchmarks.bench.machine.disturbances import warnings
from benchmarks.bench.machine.energy import PowerSampler
from benchmarks.bench.machine.state import capture

__all__ = ["PowerSampler", "capture", "warnings"]
