"""Where a training logs its losses and metrics: a CSV file, TensorBoard, W&B, MLflow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from numclip_runtime.errors import MissingDependencyError, require_installed

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
_ALTERNATIVES = {"tensorboard": [("tensorboardX",)]}  # packages that Lightning takes as well
_SERVER = "MLFLOW_TRACKING_URI"
PROJECT = "numclip"  # of W&B, and the experiment of MLflow


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Refuse loggers whose packages are missing; imports nothing.

    Raises:
        MissingDependencyError: naming the pip command.
    """
    for name in names:
        alternatives = [(name,), *_ALTERNATIVES.get(name, ())]
        if name == "mlflow" and not os.environ.get(_SERVER):
            alternatives = [("mlflow", "sqlalchemy")]  # a database of its own
        if not any(all(map(_installed, packages)) for packages in alternatives):
            raise MissingDependencyError(
                f"{name} is not installed, so training cannot log to it; install with: "
                f"pip install {name}"
            )


def _installed(module: str) -> bool:
    try:
        require_installed("train", module)
    except MissingDependencyError:
        return False
    return True


def make_loggers(run_dir: Path | None, names: Sequence[LoggerName]) -> list[Logger]:
    """Return Lightning's loggers for a run folder: always the CSV file, and those by name.

    W&B asks for its own login (WANDB_MODE=offline does without). MLflow logs to the server in
    MLFLOW_TRACKING_URI or, without it, to mlflow.db in the run folder.

    Args:
        run_dir: Run folder; its name is the run's. None: log nowhere.
        names: Further loggers.
    """
    if run_dir is None:
        return []
    from pytorch_lightning import loggers as kinds

    made: list[Logger] = [kinds.CSVLogger(run_dir, name="logs")]
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            made.append(kinds.TensorBoardLogger(run_dir, name="tensorboard"))
        elif name == "wandb":
            made.append(kinds.WandbLogger(name=run_dir.stem, project=PROJECT, save_dir=run_dir))
        else:
            folder, server = run_dir.resolve(), os.environ.get(_SERVER)
            made.append(
                kinds.MLFlowLogger(
                    PROJECT,
                    run_name=run_dir.stem,
                    # no folder: MLflow 3 refuses to log to one
                    tracking_uri=server or f"sqlite:///{folder / 'mlflow.db'}",
                    artifact_location=None if server else folder.as_uri(),
                )
            )
    return made
