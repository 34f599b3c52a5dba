"""A fleet bundle: one folder with the artefacts of a model, and `bundle.json`, which lists them.

The manifest states for each file what runs it and its SHA-256, so that a machine can choose before
it opens anything. `numclip-export --bundle` writes it; `backends.bundle_choice` chooses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeVar

from numclip_runtime.console import json_text
from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.fields import JSON_LIMIT, parse_json, read_fields, shown
from numclip_runtime.files import read_limited
from numclip_runtime.metadata import InputKind, ModelMetadata, Precision
from numclip_runtime.model_files.given import BUNDLE_MANIFEST, is_model_name
from numclip_runtime.model_files.open_model import is_plan
from numclip_runtime.model_files.pin import check_pin, path_beside
from numclip_runtime.model_files.plan import EngineFacts, PlanInfo

_T = TypeVar("_T")

BUNDLE_FORMAT = "numclip bundle"  # the field "format", by which a manifest is told from other JSON
BUNDLE_SCHEMA_VERSION = 1
BUNDLE_REPORT = "report.json"  # of the exports, for people

ArtefactBackend = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
ArtefactDevice = Literal["any", "cpu", "gpu"]  # what a file was made for


@dataclass(frozen=True)
class Artefact:
    """A model file of a bundle, and what runs it.

    Raises:
        UsageError: if a field is out of range, or the name is more than that of a file.
    """

    file: str  # name, in the bundle's folder
    sha256: str
    size: int  # bytes
    target: str  # the one that asked for it, such as "tensorrt-rtx:86+120"
    backend: ArtefactBackend
    device: ArtefactDevice
    precision: Precision
    input: InputKind
    made_for: str | None = None  # version it is tied to, "onnxruntime 1.32.0"; None: to none
    opset: int | None = None  # ONNX operator set; None: a plan
    engine: EngineFacts | None = None  # of a plan: builder, compute capabilities, batches
    built_from: str | None = None  # of a plan: the ONNX file
    verified: bool | None = None  # compared with the checkpoint; None: not known
    # Differences to the checkpoint: value errors in label units. None: not compared
    parity: Mapping[str, float] | None = None
    int8_images: int | None = None  # that INT8 was calibrated with

    def __post_init__(self) -> None:
        plain = {PurePosixPath(self.file).name, PureWindowsPath(self.file).name} == {self.file}
        if not plain or not is_model_name(self.file):
            raise UsageError(f"file {shown(self.file)} is not the name of a model in the folder.")
        check_pin(self.sha256, "sha256")
        if (self.engine is not None) != is_plan(Path(self.file)):
            raise UsageError(f"file {shown(self.file)}: a plan has an engine, and no other has.")

    def plan_info(self, model: ModelMetadata) -> PlanInfo:
        """Return what the checks of plans ask for, from the manifest alone."""
        assert self.engine is not None
        return PlanInfo(self.engine.builder, None, self.size, model, self.engine)


@dataclass(frozen=True)
class Missing:
    """A target for which the bundle has no file."""

    target: str
    reason: str


@dataclass(frozen=True)
class Bundle:
    """The content of `bundle.json`."""

    numclip: str  # version that wrote it
    # Task, preprocessing, checkpoint and calibration, which all artefacts share
    model: ModelMetadata
    artefacts: tuple[Artefact, ...]
    missing: tuple[Missing, ...] = ()
    folder: Path = field(default=Path(), compare=False)
    sha256: str = ""  # of bundle.json; pins all of it. "": not written yet

    def path(self, artefact: Artefact) -> Path:
        """Return an artefact's file, which need not exist.

        Raises:
            ModelError: if it is a link that leads out of the folder.
        """
        path = self.folder / artefact.file
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder)):
            raise ModelError(
                f"{path}: is a link that leads out of the bundle; copy the file itself there."
            )
        return path

    @property
    def files(self) -> list[Path]:
        """All files that numclip wrote there."""
        models = [self.folder / artefact.file for artefact in self.artefacts]
        checksums = map(path_beside, models)
        return [self.folder / BUNDLE_MANIFEST, self.folder / BUNDLE_REPORT, *models, *checksums]

    def to_json(self) -> str:
        """Return the manifest's text."""
        plain: dict[str, Any] = {
            "format": BUNDLE_FORMAT,
            "schema_version": BUNDLE_SCHEMA_VERSION,
            "numclip": self.numclip,
            "model": json.loads(self.model.to_json()),
        }
        for name in ("artefacts", "missing"):
            plain[name] = [
                {key: value for key, value in asdict(item).items() if value is not None}
                for item in getattr(self, name)
            ]
        return json_text(plain, indent=2) + "\n"


def read_bundle(folder: Path) -> Bundle:
    """Read the manifest of a folder.

    Raises:
        ModelError: if it is none of numclip's, damaged, or of a newer numclip.
    """
    path = folder / BUNDLE_MANIFEST
    try:
        content = read_limited(path, JSON_LIMIT)
        data = parse_json(content.decode())
    except OSError as error:
        raise ModelError(f"{path}: cannot read this manifest ({error.strerror}).") from None
    except ValueError as error:  # UsageError is one
        raise _unreadable(path, str(error)) from None
    if not isinstance(data, Mapping) or data.get("format") != BUNDLE_FORMAT:
        raise ModelError(
            f"{path}: is not the manifest of a numclip bundle; write one with "
            "`numclip-export x.pt --bundle DIR --targets cpu,onnx`."
        )
    if data.get("schema_version") != BUNDLE_SCHEMA_VERSION:
        raise ModelError(
            f"{path}: manifest schema {shown(data.get('schema_version'))} is unknown, this numclip "
            f"reads schema {BUNDLE_SCHEMA_VERSION}; update numclip or write the bundle again."
        )
    model = ModelMetadata.from_dict(data.get("model"), source=str(path))
    from hashlib import sha256  # 3 ms

    try:
        found = Bundle(
            shown(data.get("numclip")).strip("'"),
            model,
            _list(Artefact, data, "artefacts"),
            _list(Missing, data, "missing"),
            folder,
            sha256(content).hexdigest(),
        )
    except UsageError as error:
        raise _unreadable(path, str(error)) from None
    if len({one.file for one in found.artefacts}) < len(found.artefacts):
        raise _unreadable(path, "a file stands twice in it")
    return found


def _list(kind: type[_T], data: Mapping[str, Any], name: str) -> tuple[_T, ...]:
    items = data.get(name, [])
    if not isinstance(items, list):
        raise UsageError(f"{name}: must be a list, got {shown(items)}.")
    return tuple(
        read_fields(kind, item, f"{name}, item {number}", newer=True)
        for number, item in enumerate(items, 1)
    )


def _unreadable(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path}: this manifest cannot be read ({reason.rstrip('.')}); copy the bundle again, or "
        "write it again."
    )
