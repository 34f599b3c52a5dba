"""How fast this machine can multiply matrices: the ceiling that a network's speed is held to."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np

SIDE = 1024
SECONDS = 1.5  # per precision; the best run counts
FLOPS = 2 * SIDE**3


def measure(threads: int | None = None) -> dict[str, Any]:
    """Measure square matrix products of SIDE with PyTorch, or in float32 with numpy without it.

    Args:
        threads: As for the competitors; None leaves the library's choice. numpy takes its own.

    Returns:
        "fp32", "bf16", "int8": 1e9 operations per second, None where it cannot be measured; and
        "with", the library.
    """
    try:
        import torch
    except ImportError:
        array = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
        return {"fp32": best(lambda: array @ array), "bf16": None, "int8": None, "with": "numpy"}
    if threads is not None:
        torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    with torch.inference_mode():
        a = torch.randn(SIDE, SIDE)
        out = torch.empty(SIDE, SIDE)
        found["fp32"] = best(lambda: torch.mm(a, a, out=out))
        b = a.bfloat16()
        found["bf16"] = best(lambda: torch.mm(b, b))
        c = torch.randint(-128, 127, (SIDE, SIDE), dtype=torch.int8)
        try:
            found["int8"] = best(lambda: torch._int_mm(c, c))
        except RuntimeError:  # not on every CPU
            found["int8"] = None
    return found | {"with": f"torch {torch.__version__}"}


def best(product: Callable[[], object], seconds: float = SECONDS) -> float:
    """Return the operations per nanosecond of the fastest of many products."""
    fastest, start = 2**63, perf_counter_ns()
    while perf_counter_ns() - start < seconds * 1e9:
        before = perf_counter_ns()
        product()
        fastest = min(fastest, perf_counter_ns() - before)
    return FLOPS / fastest


def share(
    macs: int | None,
    inference_ms: float,
    batch: int,
    precision: str,
    ceilings: dict[str, Any] | None,
) -> float | None:
    """Return which share of the ceiling of its precision a row reaches; None: not known.

    Args:
        macs: Multiply-accumulates of one image.
        inference_ms: Median, of one batch.
        batch: Images per batch.
        precision: "fp32", "bf16", "fp16" or "int8".
        ceilings: Of `measure`; for the CPU.
    """
    ceiling = (ceilings or {}).get(precision)
    if macs is None or not isinstance(ceiling, float):
        return None
    return 2 * macs * batch / (inference_ms * 1e6) / ceiling
