"""Checkpoints that rebuild the model by themselves and load without executing anything."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from numclip.data.columns import PLAIN_TABLE, TableOptions
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip.weights.reading import (
    CHECKPOINT_FORMAT,
    SAFETENSORS,
    check_fit,
    is_checkpoint,
    named,
    read_content,
    state_of,
)
from numclip.weights.writing import write_safetensors, write_torch
from numclip_runtime import (
    Calibration,
    ModelError,
    ModelMetadata,
    Preprocessing,
    Task,
    UsageError,
    __version__,
)
from numclip_runtime.fields import read_value, shown
from numclip_runtime.files import atomic_path
from numclip_runtime.monitor.reference import MonitorReference

FORMAT = CHECKPOINT_FORMAT
SCHEMA_VERSION = 1
MAX_METRICS = 100


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with its task, preprocessing, calibration and metrics."""

    model: NumClip  # on the CPU, in eval mode after loading
    preprocessing: Preprocessing
    metrics: Mapping[str, float] = field(default_factory=dict)  # on the validation data
    # Data that export verifies with, if still there, and where its relative image paths start from
    # (None: its own folder). In the file, both are relative to the checkpoint's folder.
    validation_csv: str | None = None
    validation_root: str | None = None
    validation_table: TableOptions = PLAIN_TABLE  # how to read it
    versions: Mapping[str, str] = field(default_factory=dict)  # packages that trained it
    calibration: Calibration | None = None  # None: probabilities as trained, no intervals
    reference: MonitorReference | None = None  # of the same images; None: nothing to compare with

    @property
    def task(self) -> Task:
        """Bins, phrases and unit."""
        return self.model.task

    @property
    def metadata(self) -> ModelMetadata:
        """The metadata of a model file made from this checkpoint."""
        return ModelMetadata(
            self.task,
            self.preprocessing,
            versions=self.versions,
            calibration=self.calibration,
            reference=self.reference,
        )

    @property
    def temperature(self) -> float:
        """Divisor of the logits before they become bin_probs; 1 if not calibrated."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def outputs(self, images: Tensor, text_features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return values (B,) and calibrated bin_probs (B, K), which every exported file must equal.

        The temperature does not change the values: the regressor uses the probabilities that it
        was trained with. For the arguments, see `NumClip.forward`.
        """
        out = self.model(images, text_features)
        return out.values, (out.logits / self.temperature).softmax(-1)


def package_versions(*names: str) -> dict[str, str]:
    """Return the versions of installed packages."""
    # numclip's own is in the code: it also runs from its source, where nothing is installed
    return {"numclip": __version__, **{name: version(name) for name in names}}


def check_output(path: Path) -> None:
    """Check that a checkpoint's name ends in .pt or .safetensors.

    Raises:
        UsageError: if it ends otherwise.
    """
    if path.suffix not in (".pt", SAFETENSORS):
        raise UsageError(f"{path}: the name must end in .pt or .safetensors.")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; it appears under its name only when complete.

    Args:
        path: A name ending in .safetensors selects that format; all but weights is in its metadata.
        checkpoint: Content.

    Raises:
        UsageError: if the folder does not exist or cannot be written.
        OSError: of the system, such as a full disk.
    """
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "config": asdict(checkpoint.model.config),
        "task": checkpoint.task.to_dict(),
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "metrics": dict(checkpoint.metrics),
        "validation_csv": _beside(checkpoint.validation_csv, path),
        "validation_root": _beside(checkpoint.validation_root, path),
        "validation_table": asdict(checkpoint.validation_table),
        "versions": package_versions("torch", "open_clip_torch"),
        "calibration": checkpoint.calibration and checkpoint.calibration.to_dict(),
        "reference": checkpoint.reference and checkpoint.reference.to_dict(),
        "state_dict": {k: v.detach().cpu() for k, v in checkpoint.model.state_dict().items()},
    }
    with atomic_path(path, sync=True) as temporary:
        if path.suffix == SAFETENSORS:
            write_safetensors(temporary, content)
        else:
            write_torch(temporary, content)


def _beside(place: str | None, checkpoint: Path) -> str | None:
    """Return a path relative to the checkpoint's folder: published files reveal no user's path."""
    return None if place is None else os.path.relpath(place, checkpoint.parent)


def _from(place: str | None, checkpoint: Path) -> str | None:
    return None if place is None else str((checkpoint.parent / place).resolve())


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint of `numclip-train` or `numclip-convert`; executes nothing in it.

    Raises:
        ModelError: if the file is missing, not a numclip checkpoint, or does not fit its config.
    """
    content = read_content(path)
    if not is_checkpoint(content):
        raise ModelError(
            f"{path}: not a numclip checkpoint; make one with `numclip-train`, or from files of "
            "NumCLIP, OrdinalCLIP and CoOp with `numclip-convert`."
        )
    return checkpoint_from_content(content, path)


def checkpoint_from_content(content: Mapping[str, Any], path: Path) -> Checkpoint:
    """Rebuild a checkpoint from the return value of `read_content` for the file `path`.

    Raises:
        ModelError: if its schema is unknown or it does not fit its own config.
    """
    if (schema := content.get("schema_version")) != SCHEMA_VERSION:
        raise ModelError(
            f"{path}: checkpoint schema {shown(schema)} is unknown, this numclip "
            f"reads schema {SCHEMA_VERSION}; update numclip."
        )
    try:
        state = state_of({"state_dict": content["state_dict"]}, path)
        config = ModelConfig.from_dict(content["config"])
        task = Task.from_dict(content["task"])
        with torch.device("meta"):  # shapes only: no memory until they are those of the file
            expected = NumClip(config, task).state_dict()
        check_fit(expected, state, path, "it")
        if odd := [key for key, tensor in state.items() if not _is_finite(tensor)]:
            raise ModelError(f"{path}: NaN or infinity in {named(odd, 'weight', 'weights')}.")
        model = NumClip(config, task)
        model.load_state_dict(state)
        # absent in files from before they existed
        calibration, table = content.get("calibration"), content.get("validation_table") or {}
        reference = content.get("reference")
        return Checkpoint(
            model.eval(),
            Preprocessing.from_dict(content["preprocessing"]),
            _metrics(content["metrics"]),
            _from(read_value(str | None, content["validation_csv"], "'validation_csv'"), path),
            _from(
                read_value(str | None, content.get("validation_root"), "'validation_root'"), path
            ),
            read_value(TableOptions, table, "'validation_table'"),
            read_value(Mapping[str, str], content["versions"], "'versions'"),
            None if calibration is None else Calibration.from_dict(calibration),
            None if reference is None else MonitorReference.from_dict(reference),
        )
    except (KeyError, ModelError, UsageError) as error:
        reason = f"it lacks {shown(error.args[0])}." if isinstance(error, KeyError) else str(error)
        reason = reason.removeprefix(f"{path}: ").removeprefix("does not fit it: ")
        raise ModelError(f"{path}: this checkpoint does not fit its own config: {reason}") from None


def _is_finite(tensor: Tensor) -> bool:
    # a sum takes a tenth of the time, and is finite only where all numbers are
    return math.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())


def _metrics(given: object) -> dict[str, float]:
    """Return metrics; a correlation may be NaN."""
    if not isinstance(given, Mapping) or len(given) > MAX_METRICS:
        raise UsageError(f"'metrics' must be a table of numbers, got {shown(given)}.")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, float | int) or len(name) > 100:
            raise UsageError(f"'metrics' must be a table of numbers, got {shown(value)} in it.")
    return {name: float(value) for name, value in given.items()}
