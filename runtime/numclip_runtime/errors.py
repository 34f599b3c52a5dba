"""What can go wrong, as one exception tree. Each class is also the builtin one would catch."""


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
