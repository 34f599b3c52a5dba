"""THE contract: the metadata inside every model file, from training to the device.

Training writes them into the checkpoint, export into the ONNX file (`metadata_props`), and the
runtime reads nothing else. They are defined in the lightest package, so
that all others can share them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from numclip_runtime.calibration import Calibration
from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.task import Task

SCHEMA_VERSION = 1
METADATA_KEY = "numclip"  # key in ONNX `metadata_props`
INPUT_NAME = "images"  # (B, 3, H, W) float32, normalised RGB; or (B, H, W, 3) uint8, see `input`
VALUES_NAME = "values"  # (B,) float32, label units
BIN_PROBS_NAME = "bin_probs"  # (B, K) float32, rows sum to 1

Precision = Literal["fp32", "fp16", "int8"]
Interpolation = Literal["bilinear", "bicubic"]
ResizeMode = Literal["squash", "shortest"]
InputKind = Literal["float32", "uint8"]


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a photo to the network's input: RGB, resize, centre crop, normalise.

    Raises:
        UsageError: if a field is out of range.
    """

    crop: int = 224  # side of the network's input, pixels
    resize: int = 256  # side (squash) or shortest side (shortest) before the crop, pixels
    resize_mode: ResizeMode = "squash"  # squash: to resize x resize, aspect ratio not kept
    interpolation: Interpolation = "bilinear"  # Pillow's antialiased filter of that name
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # RGB, of pixels in [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # RGB, of pixels in [0, 1]

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise UsageError(
                f"preprocessing: crop ({self.crop}) must be between 1 and resize ({self.resize})."
            )
        if self.resize_mode not in get_args(ResizeMode):
            raise UsageError(f"preprocessing: unknown resize_mode {self.resize_mode!r}.")
        if self.interpolation not in get_args(Interpolation):
            raise UsageError(f"preprocessing: unknown interpolation {self.interpolation!r}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UsageError("preprocessing: mean and std need 3 numbers each, std above 0.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Build from plain data (lists become tuples)."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        try:
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"preprocessing: {error}.") from None


@dataclass(frozen=True)
class ModelMetadata:
    """The facts about a model that its users need."""

    task: Task
    preprocessing: Preprocessing
    precision: Precision = "fp32"  # of the network's weights and matmuls
    checkpoint_sha256: str | None = None  # of the checkpoint the file was made from
    # Differences to the checkpoint, see export; None: not compared, or no exported file.
    parity: Mapping[str, float] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)  # packages that made the file
    calibration: Calibration | None = None  # None: intervals are not known
    # The rest is absent in files older than the field, and if it has its default.
    # float32: normalised planes (B, 3, H, W); uint8: RGB pixels (B, H, W, 3), the graph normalises
    input: InputKind = "float32"
    verified: bool | None = None  # compared with the checkpoint, and within budget; None: not known
    source_sha256: str | None = None  # of the fp32 ONNX file this one was made from
    fp32_nodes: tuple[str, ...] = ()  # parts of the network that stayed fp32: modules or nodes
    # "onnxruntime 1.32.0": the graph was optimised by it beforehand, and has operators of its own
    optimized_by: str | None = None

    def to_json(self) -> str:
        """Return the metadata as compact JSON text, schema version included."""
        plain = {"schema_version": SCHEMA_VERSION, **asdict(self), "task": self.task.to_dict()}
        if self.input == "float32":  # as in older files, which lack the field
            del plain["input"]
        for name in ("calibration", "verified", "source_sha256", "fp32_nodes", "optimized_by"):
            if plain[name] in (None, ()):
                del plain[name]
        return json.dumps(plain, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, source: str = "model") -> ModelMetadata:
        """Read the text that `to_json` returned.

        Args:
            text: JSON text.
            source: File named in errors.

        Raises:
            ModelError: if the text is not metadata, or of a schema this version cannot read.
        """
        try:
            data = json.loads(text)
            version = data.pop("schema_version")
        except (ValueError, AttributeError, KeyError, TypeError):
            raise ModelError(
                f"{source}: its numclip metadata cannot be read; export the model again."
            ) from None
        if version != SCHEMA_VERSION:
            raise ModelError(
                f"{source}: metadata schema {version!r} is unknown, this numclip reads "
                f"schema {SCHEMA_VERSION}; update numclip or export the model again."
            )
        try:
            data["task"] = Task.from_dict(data["task"])
            data["preprocessing"] = Preprocessing.from_dict(data["preprocessing"])
            if data.get("calibration") is not None:
                data["calibration"] = Calibration.from_dict(data["calibration"])
            if data.get("input", "float32") not in get_args(InputKind):
                raise UsageError(f"unknown kind of input {data['input']!r}")
            data["fp32_nodes"] = tuple(data.get("fp32_nodes", ()))
            return cls(**data)
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise ModelError(
                f"{source}: incomplete numclip metadata ({error}); export the model again."
            ) from None
