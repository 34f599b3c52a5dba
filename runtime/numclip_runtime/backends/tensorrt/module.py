"""The Python packages of TensorRT: how they are installed, loaded, and report errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Literal

from numclip_runtime.errors import MissingDependencyError, import_optional

# tensorrt_lean runs version-compatible engines only, and builds none.
Module = Literal["tensorrt", "tensorrt_rtx", "tensorrt_lean"]

INSTALL: dict[Module, str] = {
    "tensorrt": (
        "on a PC with: pip install 'numclip[tensorrt]'; on a Jetson it comes with JetPack, and a "
        "virtual environment sees it when made with --system-site-packages"
    ),
    "tensorrt_rtx": "with: pip install 'numclip[rtx]' (x86-64)",
    "tensorrt_lean": "with: pip install tensorrt-lean-cu13 (x86-64)",
}

# Distributions of which one provides the package; JetPack's is the first
DISTRIBUTIONS: dict[Module, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "tensorrt_lean": ("tensorrt-lean", "tensorrt-lean-cu13", "tensorrt-lean-cu12"),
}


def installed_version(module: Module) -> str | None:
    """Return a package's version without loading it; None: it is not known."""
    from importlib import metadata  # 10 ms

    for name in DISTRIBUTIONS[module]:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def installed(module: Module) -> bool:
    """Return whether a package is installed, without loading it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # a module that is None in sys.modules
        return False


def load_module(module: Module) -> Any:
    """Import a package.

    Raises:
        MissingDependencyError: if it is not installed, or does not load.
    """
    again = f"install it again {INSTALL[module]}."
    loaded = import_optional(module, install=f"install it {INSTALL[module]}.", again=again)
    if not getattr(loaded, "__version__", ""):  # a folder left by an uninstall
        raise MissingDependencyError(
            f"{module} is installed but does not load (it has no version); {again}"
        )
    return loaded


def collecting_logger(trt: Any, errors: list[str]) -> Any:
    """Return a TensorRT logger that appends error messages to a list and drops the rest."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                errors.append(message)

    return Logger()


def reason_of(errors: list[str], advice: Mapping[str, str] | None = None) -> str:
    """Return TensorRT's errors as part of a sentence.

    Args:
        errors: Messages that the logger collected.
        advice: Part of a message -> remedy; the first that occurs is appended.
    """
    if not errors:
        return "TensorRT gave no reason"
    telling = [error for error in errors if not _is_echo(error)] or errors
    text = "; ".join(dict.fromkeys(map(_short, telling)))
    joined = " ".join(telling)
    hint = next((hint for sign, hint in (advice or {}).items() if sign in joined), None)
    return f"{text}; {hint}" if hint else text


def _is_echo(message: str) -> bool:
    """Return whether it is the CUDA error that follows every other one without a driver."""
    return "catchCudaError" in message and "out of memory" not in message


def _short(message: str) -> str:
    """Leave out the place in TensorRT's own source."""
    message = re.sub(r"\[\w+\.(cpp|h):[^]]*\] ?|[.\s]*\bIn \S+ at /\S+:\d+", "", message)
    return " ".join(message.split()).rstrip(". ")
