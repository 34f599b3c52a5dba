"""The exception tree of numclip; each class is also a fitting built-in exception."""

from typing import Any


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


class MissingDependencyError(NumclipError, ImportError):
    """An optional package is needed; the message names the pip command that installs it."""


class GpuError(NumclipError, RuntimeError):
    """The GPU, its driver or TensorRT failed."""


class GpuRequiredError(GpuError):
    """A GPU is needed, and no suitable one can be used."""


def require(extra: str, *modules: str) -> None:
    """Check that optional packages are installed, without importing them.

    Args:
        extra: Extra of numclip that installs them.
        modules: Names as they are imported.

    Raises:
        MissingDependencyError: naming the pip command that installs them.
    """
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingDependencyError(
            f"{', '.join(missing)} {verb} not installed; "
            f"install with: pip install 'numclip[{extra}]'"
        )


def import_extra(extra: str, module: str) -> Any:
    """Import an optional package, and return it.

    Raises:
        MissingDependencyError: if it is not installed, or installed and broken.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        require(extra, module.partition(".")[0])
        # installed, but for example a shared library is missing
        raise MissingDependencyError(
            f"{module} is installed, and cannot be imported ({first_line(error)}); "
            f"install it again with: pip install 'numclip[{extra}]'"
        ) from None


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
