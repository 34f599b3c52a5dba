"""The state of the machine before and after a run."""

from __future__ import annotations

from typing import Any

from benchmarks.environment import load_average


def capture() -> dict[str, Any]:
    """Return what can be read of clocks, load and temperature now."""
    return {"load_average": load_average()}


def warnings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what makes the numbers between two states worthless, one sentence each."""
    return []
