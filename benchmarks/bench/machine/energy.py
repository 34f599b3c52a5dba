"""Power during a measurement, and with a GPU its clocks and why they fell."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from benchmarks.bench.machine.gpu_board import harmful, throttle_words
from benchmarks.state.meters import BoardMeter, GpuMeter, Meter, PackageMeter
from numclip_runtime.system import read_jetson


class PowerSampler:
    """Context manager that measures energy while its body runs.

    ```
    with PowerSampler("gpu") as power:
        ...  # measure
    power.joules, power.mean_watts  # None where not available; power.problem says why
    ```

    It counts all that the meter sees, other processes and the idle power included. A counter of
    energy is preferred; without one the power is read every `interval_s` and integrated.
    """

    def __init__(
        self,
        device: Literal["cpu", "gpu"] = "cpu",
        *,
        gpu: int = 0,
        root: Path = Path("/"),
        interval_s: float = 0.1,
    ) -> None:
        """Choose the meter: a Jetson's rails for either device, else the device's own.

        Args:
            device: Where the network runs.
            gpu: Number of the GPU, as NVML counts.
            root: Folder that stands for `/`.
            interval_s: Seconds between two readings.
        """
        self._meter: Meter
        if read_jetson(root) is not None:
            self._meter = BoardMeter(root)
        else:
            self._meter = GpuMeter(gpu) if device == "gpu" else PackageMeter(root)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="power sampler")
        self._readings: list[tuple[float, float | None, float | None]] = []  # s, J, W
        self._clocks: list[int] = []
        self._reasons: Counter[str] = Counter()
        self._harmful: Counter[str] = Counter()
        self.joules: float | None = None  # while the body ran
        self.mean_watts: float | None = None
        self.seconds = 0.0

    @property
    def source(self) -> str:
        """What was measured, in words."""
        return self._meter.source

    @property
    def problem(self) -> str | None:
        """Why there are no joules; None if there are."""
        if self._meter.problem is None and self.joules is None and self.seconds:
            return f"{self.source} tells neither energy nor power"
        return self._meter.problem

    def __enter__(self) -> PowerSampler:
        self._meter.__enter__()
        if self._meter.problem is None:
            self._read()
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            self._read()
            self._finish()
        self._meter.__exit__(*exc)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._read()

    def _read(self) -> None:
        meter = self._meter
        joules = meter.joules()
        watts = meter.watts() if joules is None else None
        self._readings.append((time.perf_counter(), joules, watts))
        if isinstance(meter, GpuMeter):
            clock, bits = meter.sm_mhz(), meter.reasons()
            if clock is not None:
                self._clocks.append(clock)
            if bits is not None:
                self._reasons.update(throttle_words(bits))
                self._harmful.update(harmful(bits))

    def _finish(self) -> None:
        times, counted, watts = zip(*self._readings, strict=True)
        self.seconds = times[-1] - times[0]
        if counted[0] is not None and counted[-1] is not None:
            self.joules = counted[-1] - counted[0]
        else:
            # A rail that can't be read once leaves a gap, which the line over it closes.
            known = [(t, w) for t, w in zip(times, watts, strict=True) if w is not None]
            if len(known) >= 2:
                area = sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(known))
                self.joules = area * self.seconds / (known[-1][0] - known[0][0])
        if self.joules is not None and self.seconds:
            self.mean_watts = self.joules / self.seconds

    def to_dict(self, *, images: int | None = None) -> dict[str, Any]:
        """Return the result for a report.

        Args:
            images: How many the body went through; gives the joules per image.
        """
        n = len(self._readings)
        per_image = self.joules / images if self.joules is not None and images else None
        return {
            "source": self.source,
            "seconds": round(self.seconds, 3),
            "joules": _rounded(self.joules),
            "mean_watts": _rounded(self.mean_watts),
            "joules_per_image": None if per_image is None else float(f"{per_image:.4g}"),
            "sm_mhz": {"min": min(self._clocks), "max": max(self._clocks)}
            if self._clocks
            else None,
            # share of the readings
            "throttle": {word: round(count / n, 3) for word, count in self._reasons.items()},
            "harmful": {word: round(count / n, 3) for word, count in self._harmful.items()},
            "problem": self.problem,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
