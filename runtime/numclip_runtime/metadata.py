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
from numclip_runtime.fields import parse_json, read_fields, shown
from numclip_runtime.monitor.reference import MonitorReference
from numclip_runtime.task import Task

SCHEMA_VERSION = 1
METADATA_KEY = "numclip"  # key in ONNX `metadata_props`
INPUT_NAME = "images"  # (B, 3, H, W) float32, normalised RGB; or (B, H, W, 3) uint8, see `input`
VALUES_NAME = "values"  # (B,) float32, label units
BIN_PROBS_NAME = "bin_probs"  # (B, K) float32, rows sum to 1

Precision = Literal["fp32", "fp16", "int8"]
# Of products as they are computed: a CPU may compute in bf16 what is float32 in a file
Arithmetic = Literal["fp32", "fp16", "int8", "bf16", "int8+bf16"]
Interpolation = Literal["bilinear", "bicubic"]
ResizeMode = Literal["squash", "shortest", "fragments"]
InputKind = Literal["float32", "uint8"]

MAX_FRAGMENTS = 64  # along a side
LARGEST_SIDE = 4096  # pixels of a resized image: 50 MB; networks have up to 1,024


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a photo to the network's input: RGB, resize, centre crop, normalise.

    With "fragments", nothing is resized: the input is a mosaic of `fragments` x `fragments` pieces
    of the photo at full resolution, one from each cell of a grid over the photo (see
    `preprocess.mosaic`). It shows blur, noise and compression, which a smaller photo hides.

    Raises:
        UsageError: if a field is out of range.

    Source:
        Grid mini-patch sampling: Wu et al., "FAST-VQA" (arXiv 2207.02595), section 3.1.
    """

    crop: int = 224  # side of the network's input, pixels
    resize: int = 256  # side (squash) or shortest side (shortest) before the crop, pixels
    resize_mode: ResizeMode = "squash"  # squash: to resize x resize, aspect ratio not kept
    interpolation: Interpolation = "bilinear"  # Pillow's antialiased filter of that name
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # RGB, of pixels in [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # RGB, of pixels in [0, 1]
    # Pieces along a side, of crop / fragments pixels. Absent in files older than the field, and
    # if it has its default.
    fragments: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise UsageError(f"crop ({self.crop}) must be between 1 and resize ({self.resize}).")
        if self.resize > LARGEST_SIDE:
            raise UsageError(f"resize ({self.resize}) must be at most {LARGEST_SIDE} pixels.")
        if self.resize_mode not in get_args(ResizeMode):
            raise UsageError(f"unknown resize_mode {shown(self.resize_mode)}.")
        if self.interpolation not in get_args(Interpolation):
            raise UsageError(f"unknown interpolation {shown(self.interpolation)}.")
        self._check_fragments()
        if len(self.mean) != 3 or len(self.std) != 3:
            raise UsageError("mean and std need 3 numbers each.")
        if not all(abs(mean) <= 1e6 for mean in self.mean):
            raise UsageError("mean must be made of finite numbers, at most 1e+06 in size.")
        if not all(1e-6 <= std <= 1e6 for std in self.std):
            raise UsageError("std must be made of finite numbers above 0, 1e-06 to 1e+06.")

    def _check_fragments(self) -> None:
        if self.resize_mode != "fragments":
            if self.fragments != 1:
                raise UsageError(
                    f"fragments ({self.fragments}) are of resize_mode 'fragments', not of "
                    f"{self.resize_mode!r}."
                )
            return
        if not 1 <= self.fragments <= MAX_FRAGMENTS or self.crop % self.fragments:
            raise UsageError(
                f"fragments ({self.fragments}) must be from 1 to {MAX_FRAGMENTS}, and divide the "
                f"input's side of {self.crop} pixels."
            )
        if self.resize != self.crop:
            raise UsageError(
                f"fragments are not resized: leave resize out, or let it be {self.crop}, the "
                f"input's side (got {self.resize})."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; older numclips read it unless it has fragments."""
        plain = asdict(self)
        if self.fragments == 1:
            del plain["fragments"]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Build from plain data (lists become tuples).

        Raises:
            UsageError: if a field is unknown, of another type or out of range.
        """
        return read_fields(cls, data, "preprocessing")


@dataclass(frozen=True)
class Bf16Proof:
    """How far bfloat16 takes a file from its checkpoint; the export found it in budget.

    Of an INT8 file: what is not INT8 may be computed in bfloat16.
    """

    # Tensor that leaves the image encoder. Up to it a CPU may compute in bfloat16; the head stays
    # float32: it multiplies rounding by about 100.
    features: str
    max_value_error: float  # label units
    mean_value_error: float  # label units; the budget is for it
    max_prob_error: float  # absolute, of a probability
    by: Literal["openvino", "emulation"]  # emulation: each tensor rounded, on a CPU without bf16


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
    bf16: Bf16Proof | None = None  # None: not proved, so all but INT8 is computed in float32
    # The backend that it was made for, which runs it by default; others can. None: onnxruntime
    backend: Literal["openvino"] | None = None
    reference: MonitorReference | None = None  # None: a monitor has nothing to compare with

    @property
    def int8_for_engines(self) -> bool:
        """Whether it is INT8 in the form for engines, which has float16 around it.

        A CPU's is optimised by onnxruntime, or has nothing but INT8 and float32; neither names
        parts that stayed float32.
        """
        return self.precision == "int8" and bool(self.fp32_nodes)

    def to_json(self) -> str:
        """Return the metadata as compact JSON text, schema version included."""
        plain = {"schema_version": SCHEMA_VERSION, **asdict(self), "task": self.task.to_dict()}
        plain["preprocessing"] = self.preprocessing.to_dict()
        if self.input == "float32":  # as in older files, which lack the field
            del plain["input"]
        if self.calibration is not None:
            plain["calibration"] = self.calibration.to_dict()
        for name in (
            *("calibration", "verified", "source_sha256", "fp32_nodes", "optimized_by"),
            *("bf16", "backend", "reference"),
        ):
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
            data = parse_json(text)
        except ValueError as error:
            raise _unreadable(source, str(error)) from None
        return cls.from_dict(data, source=source)

    @classmethod
    def from_dict(cls, data: object, *, source: str = "model") -> ModelMetadata:
        """Read the plain data that `to_json` wrote as JSON.

        Args:
            data: Fields and their values, schema version included.
            source: File named in errors.

        Raises:
            ModelError: if the data are not metadata, or of a schema this version cannot read.
        """
        if not isinstance(data, Mapping) or "schema_version" not in data:
            raise _unreadable(source, "they have no schema_version")
        version = data["schema_version"]
        if isinstance(version, bool) or version != SCHEMA_VERSION:
            raise ModelError(
                f"{source}: metadata schema {shown(version)} is unknown, this numclip reads "
                f"schema {SCHEMA_VERSION}; update numclip or export the model again."
            )
        try:
            plain = {key: value for key, value in data.items() if key != "schema_version"}
            return read_fields(cls, plain, "metadata")
        except UsageError as error:
            reason = str(error).removesuffix(".")
            raise ModelError(
                f"{source}: incomplete numclip metadata ({reason}); export the model again."
            ) from None


def _unreadable(source: str, reason: str) -> ModelError:
    return ModelError(
        f"{source}: its numclip metadata cannot be read ({reason}); export the model again."
    )
