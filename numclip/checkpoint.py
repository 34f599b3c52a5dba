"""Checkpoints that rebuild the model by themselves and load without executing anything."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from numclip.model import ModelConfig, NumClip
from numclip_runtime import ModelError, ModelMetadata, Preprocessing, Task, UsageError
from numclip_runtime.files import atomic_path

FORMAT = "numclip-checkpoint"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and what is known about it."""

    model: NumClip  # on the CPU, in eval mode after loading
    preprocessing: Preprocessing
    metrics: Mapping[str, float] = field(default_factory=dict)  # on the validation data
    validation_csv: str | None = None  # data that export verifies with, if still there
    versions: Mapping[str, str] = field(default_factory=dict)  # packages that trained it

    @property
    def task(self) -> Task:
        """Bins, phrases and unit."""
        return self.model.task

    @property
    def metadata(self) -> ModelMetadata:
        """What a model file made from this checkpoint says about itself."""
        return ModelMetadata(self.task, self.preprocessing, versions=self.versions)


def package_versions(*names: str) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {name: version(name) for name in ("numclip", *names)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; it appears under its name only when complete.

    Raises:
        UsageError: if the place cannot be written.
    """
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "config": asdict(checkpoint.model.config),
        "task": checkpoint.task.to_dict(),
        "preprocessing": asdict(checkpoint.preprocessing),
        "metrics": dict(checkpoint.metrics),
        "validation_csv": checkpoint.validation_csv,
        "versions": package_versions("torch", "open_clip_torch"),
        "state_dict": {k: v.detach().cpu() for k, v in checkpoint.model.state_dict().items()},
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint of `numclip-train`, with `weights_only=True`.

    Raises:
        ModelError: if the file is missing, no numclip checkpoint, or does not fit its own config.
    """
    content = _read(path)
    if content.get("format") != FORMAT:
        raise ModelError(f"{path}: not a numclip checkpoint; make one with `numclip-train`.")
    if (schema := content.get("schema_version")) != SCHEMA_VERSION:
        raise ModelError(
            f"{path}: checkpoint schema {schema!r} is unknown, this numclip "
            f"reads schema {SCHEMA_VERSION}; update numclip."
        )
    try:
        model = NumClip(ModelConfig.from_dict(content["config"]), Task.from_dict(content["task"]))
        model.load_state_dict(content["state_dict"])
        return Checkpoint(
            model.eval(),
            Preprocessing.from_dict(content["preprocessing"]),
            content["metrics"],
            content["validation_csv"],
            content["versions"],
        )
    except (AttributeError, KeyError, TypeError, RuntimeError, UsageError) as error:
        raise ModelError(f"{path}: this checkpoint does not fit its own config: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: refused, not plain weights and settings ({reason}).") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a readable checkpoint ({reason}).") from None
    return content if isinstance(content, dict) else {}
