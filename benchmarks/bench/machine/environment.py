"""What a number depends on besides the model: machine, versions, load, command."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numclip_runtime
from numclip_runtime.system import cpu_name

# Module -> name in the report. Only those that the run really loaded are reported.
_PACKAGES = {
    "numpy": "numpy",
    "PIL": "pillow",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "open_clip": "open_clip_torch",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}


def describe_environment(*, argv: Sequence[str], load_before: list[float] | None) -> dict[str, Any]:
    """Describe machine and software; call it after the run, when all packages are loaded.

    Args:
        argv: Command line, script first.
        load_before: `load_average()` before the run.
    """
    return {
        "command": command_line(argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "numclip": numclip_runtime.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "logical_cores": os.cpu_count(),
        "load_average_before": load_before,
        "load_average_after": load_average(),
        "versions": loaded_versions(),
    }


def command_line(argv: Sequence[str]) -> str:
    """Return the command as text, absolute paths cut down to their last part."""
    script, *arguments = argv
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *map(_shorten, arguments)])


def _shorten(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def load_average() -> list[float] | None:
    """Return the 1, 5 and 15 minute load averages; None where the system has none."""
    if not hasattr(os, "getloadavg"):
        return None
    return [round(value, 2) for value in os.getloadavg()]


def loaded_versions() -> dict[str, str]:
    """Return the versions of the packages that this process has imported."""
    return {
        name: str(sys.modules[module].__version__)
        for module, name in _PACKAGES.items()
        if module in sys.modules
    }
