"""The ceiling of a network's speed: how fast this machine multiplies matrices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

SIDE = 1024
SECONDS = 1.5  # per precision; the best run counts
OPERATIONS = 2 * SIDE**3


@dataclass(frozen=True)
class Ceilings:
    """Speed of square matrix products of SIDE."""

    gflops: dict[str, float | None]  # precision -> 1e9 operations/s; None: not measured
    library: str

    def share(
        self, macs: int | None, inference_ms: float, *, batch: int, precision: str
    ) -> float | None:
        """Return the share of the ceiling of its precision that a row reaches; None: not known.

        `macs` are the multiply-accumulates of one image, `inference_ms` the median time of a batch.
        """
        ceiling = self.gflops.get(precision)
        if macs is None or ceiling is None:
            return None
        return 2 * macs * batch / (inference_ms * 1e6) / ceiling


def measure_ceilings(threads: int | None = None) -> Ceilings:
    """Multiply matrices with PyTorch, or in float32 with numpy, which ignores `threads`."""
    found: dict[str, float | None] = {"fp32": None, "bf16": None, "int8": None}
    try:
        import torch
    except ImportError:
        array = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
        return Ceilings(found | {"fp32": best(lambda: array @ array)}, "numpy")
    if threads is not None:
        torch.set_num_threads(threads)
    with torch.inference_mode():
        a = torch.randn(SIDE, SIDE)
        out = torch.empty(SIDE, SIDE)
        found["fp32"] = best(lambda: torch.mm(a, a, out=out))
        b = a.bfloat16()
        found["bf16"] = best(lambda: torch.mm(b, b))
        c = torch.randint(-128, 127, (SIDE, SIDE), dtype=torch.int8)
        with suppress(RuntimeError):  # not on every CPU
            found["int8"] = best(lambda: torch._int_mm(c, c))
    return Ceilings(found, f"torch {torch.__version__}")


def best(product: Callable[[], object], seconds: float | None = None) -> float:
    """Return the operations per nanosecond of the fastest of many products."""
    limit, fastest, start = SECONDS if seconds is None else seconds, 2**63, perf_counter_ns()
    while perf_counter_ns() - start < limit * 1e9:
        before = perf_counter_ns()
        product()
        fastest = min(fastest, perf_counter_ns() - before)
    return OPERATIONS / fastest
