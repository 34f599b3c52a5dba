"""The file of `--monitor`, for people and programs, which later runs go on with; and references."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.fields import parse_json, read_fields
from numclip_runtime.files import atomic_text, read_limited
from numclip_runtime.monitor.monitor import Monitor
from numclip_runtime.monitor.reference import MonitorReference
from numclip_runtime.monitor.verdict import MonitorState

_T = TypeVar("_T")

FORMAT = 1
WRITE_EVERY_S = 5.0
_LIMIT = 1 << 20  # bytes of a file that is read; one has 20,000


@dataclass(frozen=True)
class MonitoredModel:
    """The model that a file is about."""

    name: str
    sha256: str


@dataclass(frozen=True)
class _Head:
    """The fields that tell whether a file can be gone on with."""

    format: int
    model: MonitoredModel
    every: int
    reference_sha256: str
    started: str
    state: MonitorState


@dataclass(frozen=True)
class _ReferenceFile:
    format: int
    model: MonitoredModel
    reference: MonitorReference


class MonitorFile:
    """A monitor whose state is in a file.

    Args:
        path: The file; one that is there is gone on with.
        model: That the monitor follows.
        reference: Of the model, or another one.
        every: See `Monitor`.

    Raises:
        UsageError: if the file is of another kind, or of another model, reference or `every`.
    """

    def __init__(
        self, path: Path, model: MonitoredModel, reference: MonitorReference, *, every: int = 1
    ) -> None:
        self.path, self.model = path, model
        self.monitor = Monitor(reference, every=every)
        self._reference = _digest(reference)
        self._started = _now()
        self._due = 0.0
        self._saved = 0  # images in the file
        if path.exists() and path.stat().st_size:
            self._go_on()

    def _go_on(self) -> None:
        head = _read(self.path, _Head, "--monitor")
        anew = f"give another file, or delete {self.path} to begin anew."
        if head.model.sha256 != self.model.sha256:
            raise UsageError(
                f"{self.path}: follows another model, {head.model.name} with SHA-256 "
                f"{head.model.sha256[:12]}..., and this one has {self.model.sha256[:12]}...; {anew}"
            )
        if head.reference_sha256 != self._reference:
            raise UsageError(f"{self.path}: compares with another reference; {anew}")
        if head.every != self.monitor.every:
            raise UsageError(
                f"{self.path}: counts one of {head.every} images, and --monitor-every is "
                f"{self.monitor.every} now; {anew}"
            )
        try:
            self.monitor.restore(head.state)
        except UsageError as error:
            raise UsageError(f"{self.path}: {error} {anew.capitalize()}") from None
        self._started = head.started

    @property
    def is_due(self) -> bool:
        """Whether the file was written some seconds ago, and images came since."""
        return time.monotonic() >= self._due and self.monitor.images != self._saved

    def save_if_due(self) -> None:
        """Write the file if it is due."""
        if self.is_due:
            self.save()

    def save(self) -> None:
        """Write the file; it is replaced as a whole.

        Raises:
            UsageError: if the folder cannot be written.
            OSError: of the system, such as a full disk.
        """
        content = {
            "format": FORMAT,
            "model": asdict(self.model),
            "every": self.monitor.every,
            "reference_sha256": self._reference,
            "started": self._started,
            "updated": _now(),
            "moved": self.monitor.change is not None,
            "verdict": asdict(self.monitor.verdict()),
            "state": asdict(self.monitor.state()),
        }
        with atomic_text(self.path) as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")
        self._due, self._saved = time.monotonic() + WRITE_EVERY_S, self.monitor.images


def model_in(path: Path) -> MonitoredModel | None:
    """Return the model that a file follows; None: there is no file, or it is empty.

    Raises:
        UsageError: if it is of another kind.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    return _read(path, _Head, "--monitor").model


def write_reference(path: Path, model: MonitoredModel, reference: MonitorReference) -> None:
    """Write a reference to a file of its own, for a model that has none or another world."""
    content = {"format": FORMAT, "model": asdict(model), "reference": reference.to_dict()}
    with atomic_text(path) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def read_reference(path: Path, model: MonitoredModel) -> MonitorReference:
    """Read a reference that `write_reference` wrote.

    Raises:
        UsageError: if it is no such file, or of another model.
        OSError: if it cannot be read.
    """
    found = _read(path, _ReferenceFile, "--write-reference")
    if found.model.sha256 != model.sha256:
        raise UsageError(
            f"{path}: is the reference of another model, {found.model.name} with SHA-256 "
            f"{found.model.sha256[:12]}...; write one of this model with --write-reference."
        )
    return found.reference


def reference_for(
    model: MonitoredModel, own: MonitorReference | None, other: Path | None, *, needed: bool
) -> MonitorReference | None:
    """Return what a monitor of a model compares with.

    Args:
        model: The model.
        own: That of its metadata; None: it has none.
        other: A file of `write_reference`, in place of its own.
        needed: Whether there must be one.

    Raises:
        ModelError: if it is needed, and the model has none.
        UsageError: see `read_reference`.
        OSError: if the file cannot be read.
    """
    found = own if other is None else read_reference(other, model)
    if found is None and needed:
        raise ModelError(
            f"{model.name}: has no reference to compare with, as models have that are trained with "
            "this version; write one from images as they should be, `numclip-run "
            f"{model.name} IMAGES --write-reference reference.json`, and add "
            "--monitor-reference reference.json."
        )
    return found


def _read(path: Path, kind: type[_T], option: str) -> _T:
    try:
        text = read_limited(path, _LIMIT).decode()
        data = parse_json(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"it has no format {FORMAT}")
        return read_fields(kind, data, "its fields", newer=True)
    except ValueError as error:  # UsageError is one, and UnicodeDecodeError
        reason = str(error).removesuffix(".")
        raise UsageError(
            f"{path}: is not a file of {option} ({reason}); give another name."
        ) from None


def _digest(reference: MonitorReference) -> str:
    return hashlib.sha256(json.dumps(reference.to_dict()).encode()).hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
