"""A picture of the monitor's measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_monitor_plot(path: Path, report: dict[str, Any]) -> None:
    raise NotImplementedError
