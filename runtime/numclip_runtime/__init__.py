"""Lean predictor for numclip models: numpy, Pillow, click and one inference backend.

>>> from numclip_runtime import load
>>> load("model.onnx").predict("a.jpg").value  # doctest: +SKIP
42.7

No data is sent anywhere, except to a server that the caller names (triton://, s3://). onnxruntime's
wheels from 1.29 on report their use to their maker, and keep a database for that in the home
folder, unless ORT_DISABLE_TELEMETRY forbids it when they are imported; numclip sets it to 1 if it
is not set.

Names are imported at first use: the commands begin to handle signals before they load numpy.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numclip_runtime.calibration import Calibration
    from numclip_runtime.errors import (
        GpuError,
        GpuRequiredError,
        ImageError,
        MissingDependencyError,
        ModelError,
        NumclipError,
        StoreError,
        UsageError,
    )
    from numclip_runtime.metadata import ModelMetadata, Preprocessing
    from numclip_runtime.model_files.model_file import read_metadata
    from numclip_runtime.predictor import Predictor, load
    from numclip_runtime.results.prediction import Prediction
    from numclip_runtime.results.table import to_pandas
    from numclip_runtime.task import Task

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime is not imported yet

__all__ = [
    "Calibration",
    "GpuError",
    "GpuRequiredError",
    "ImageError",
    "MissingDependencyError",
    "ModelError",
    "ModelMetadata",
    "NumclipError",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "StoreError",
    "Task",
    "UsageError",
    "load",
    "read_metadata",
    "to_pandas",
]
__version__ = "0.1.0"
_HOMES = {
    "calibration": ("Calibration",),
    "errors": (
        *("GpuError", "GpuRequiredError", "ImageError", "MissingDependencyError", "ModelError"),
        *("NumclipError", "StoreError", "UsageError"),
    ),
    "metadata": ("ModelMetadata", "Preprocessing"),
    "model_files.model_file": ("read_metadata",),
    "predictor": ("Predictor", "load"),
    "results.prediction": ("Prediction",),
    "results.table": ("to_pandas",),
    "task": ("Task",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
