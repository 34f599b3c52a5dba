"""Lean predictor for numclip models: numpy, Pillow, click and one inference backend.

>>> from numclip_runtime import load
>>> load("model.onnx").predict("a.jpg").value  # doctest: +SKIP
42.7
"""

from numclip_runtime.calibration import Calibration
from numclip_runtime.errors import (
    GpuError,
    GpuRequiredError,
    ImageError,
    MissingDependencyError,
    ModelError,
    NumclipError,
    UsageError,
)
from numclip_runtime.metadata import ModelMetadata, Preprocessing
from numclip_runtime.predictor import Prediction, Predictor, load
from numclip_runtime.task import Task

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
    "Task",
    "UsageError",
    "load",
]
__version__ = "0.1.0"
