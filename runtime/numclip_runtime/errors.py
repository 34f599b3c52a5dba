"""The exception tree of numclip; each class is also a fitting built-in exception."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

# How libraries of C++ say that memory ran out: torch, oneDNN, onnxruntime, the standard library
_NO_MEMORY = (
    "can't allocate memory",
    "could not create a primitive",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "Failed to allocate memory",
    "Cannot allocate memory",
)


class NumclipError(Exception):
    """Base of every error that numclip raises on purpose; names cause, place and remedy."""

    # Of a message that is meant to have several lines; any other line break is part of a name
    lines: tuple[str, ...] = ()


class UsageError(NumclipError, ValueError):
    """An argument, flag or configuration that cannot be used as given."""


class ModelError(NumclipError, ValueError):
    """The model file is missing, broken, or was not exported by numclip."""


class ImageError(NumclipError, OSError):
    """An image that cannot be read or decoded."""

    path: str | None = None  # of the image, where a stream knows it


class StoreError(NumclipError, RuntimeError):
    """An object store or web server that cannot be read, or no longer: no object of it can be."""


class MissingDependencyError(NumclipError, ImportError):
    """An optional package is needed; the message names the pip command that installs it."""


class GpuError(NumclipError, RuntimeError):
    """The GPU, its driver or TensorRT failed."""


class GpuRequiredError(GpuError):
    """A GPU is needed, and no suitable one can be used."""


def require(extra: str, *modules: str) -> None:
    """Import optional packages that a command is about to use, so that a missing one is named.

    Args:
        extra: Extra of numclip that installs them.
        modules: Names as they are imported.

    Raises:
        MissingDependencyError: naming those that are not installed, or the first that does not
            load, and the pip command that helps.
    """
    require_installed(extra, *modules)
    for module in modules:
        import_extra(extra, module)


def require_installed(extra: str, *modules: str) -> None:
    """Check that optional packages are installed, without the seconds that importing them takes.

    Args:
        extra: Extra of numclip that installs them.
        modules: Names as they are imported.

    Raises:
        MissingDependencyError: naming those that are not, and the pip command that installs them.
    """
    if missing := [module for module in modules if not _found(module)]:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingDependencyError(
            f"{', '.join(missing)} {verb} not installed; "
            f"install with: pip install 'numclip[{extra}]'"
        )


def _found(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ValueError:  # None, or something without a specification, in sys.modules
        return False


def import_extra(extra: str, module: str) -> Any:
    """Import an optional package, and return it.

    Raises:
        MissingDependencyError: if it is not installed, or installed and broken.
    """
    return import_optional(
        module,
        install=f"install with: pip install 'numclip[{extra}]'",
        again=f"install it again with: pip install --force-reinstall 'numclip[{extra}]'",
    )


def import_optional(module: str, *, install: str, again: str) -> Any:
    """Import an optional package, and return it.

    Args:
        module: Name as it is imported.
        install: The remedy if it is not there.
        again: The remedy if it is there and does not load.

    Raises:
        MissingDependencyError: if it is not installed, or fails on import, with the reason.
        KeyboardInterrupt: after Ctrl-C, also if the package turned that into another exception.
        MemoryError: if memory runs out.
    """
    from importlib import import_module

    package = module.partition(".")[0]
    try:
        with _without_reports(package):
            loaded = import_module(module)
        if getattr(loaded, "__file__", "") is None:  # no package, but a folder of that name
            raise ImportError("only an empty folder of it is left")
    except Exception as error:  # a foreign numpy, CUDA or libc: ImportError, OSError, any
        for cause in causes(error):
            if isinstance(cause, (KeyboardInterrupt, MemoryError)):
                raise cause from None
        if isinstance(error, ModuleNotFoundError) and (
            error.name == package or not _found(package)
        ):
            raise MissingDependencyError(f"{package} is not installed; {install}") from None
        raise MissingDependencyError(
            f"{module} is installed but does not load ({first_line(error)}); {again}"
        ) from None
    return loaded


@contextmanager
def _without_reports(package: str) -> Iterator[None]:
    """Hide the module with which OpenVINO reports its use to its maker, on import, in a process."""
    reporter, modules = f"{package}_telemetry", cast("dict[str, Any]", sys.modules)
    hidden = package == "openvino" and reporter not in modules
    if hidden:
        modules[reporter] = None
    try:
        yield
    finally:
        if hidden:
            del modules[reporter]


def lacks_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out; in its text, if a library raised it."""
    if isinstance(error, (NumclipError, OSError)):  # their texts name files
        return False
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def causes(error: BaseException) -> list[BaseException]:
    """Return an exception and those that it was raised from or during."""
    found = [error]
    while (more := found[-1].__cause__ or found[-1].__context__) is not None and more not in found:
        found.append(more)
    return found


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
