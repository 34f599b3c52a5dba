"""The exception tree of numclip. Each class is also the builtin exception that one would catch."""


class NumclipError(Exception):
    """Base of every error that numclip raises on purpose: says what, where and the way out."""


class UsageError(NumclipError, ValueError):
    """An argument, flag or configuration that cannot be used as given."""


class ModelError(NumclipError, ValueError):
    """The model file is missing, broken, or not one that numclip exported."""


class ImageError(NumclipError, OSError):
    """An image that cannot be read or decoded."""


class MissingDependencyError(NumclipError, ImportError):
    """An optional package is needed; the message names the pip command that installs it."""


class GpuError(NumclipError, RuntimeError):
    """The GPU, its driver or TensorRT failed."""


class GpuRequiredError(GpuError):
    """A GPU is needed, and none that fits can be used."""


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


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class where there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
