"""Lightning callbacks of a training: the epochs' lines, the progress of the run, its files."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from numclip.torchvision_compat import import_torchvision
from numclip.training.history import Epoch
from numclip.training.run_folder import BEST_FILE, RESUME_FILE
from numclip_runtime import ModelError, Task, UsageError
from numclip_runtime.errors import first_line
from numclip_runtime.signals import signals_held

import_torchvision()
import pytorch_lightning as pl  # noqa: E402

from numclip.training.resume_files import read_back  # noqa: E402

RUN_BAR = "{desc}  {percentage:3.0f}% |{bar}| {elapsed} passed, {remaining} left"


class EpochLines(pl.Callback):
    """One line per epoch; on a terminal it stays above the progress bar.

    Args:
        task: Determines the digits of its errors.
        baselines: Validation MAE that the model has to beat, by name; label units.
    """

    def __init__(self, task: Task, baselines: Mapping[str, float]) -> None:
        self.task = task
        beside = [f"{name} {task.number(mae, 3)}" for name, mae in baselines.items()]
        self.beside = f" ({', '.join(beside)})" if beside else ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        got = {k: float(v) for k, v in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            tqdm.write(
                f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}  "
                f"loss {got['loss']:.3f}  val MAE {self.task.number(got['val_mae'], 3)}"
                f"{self.beside}  bin accuracy {got['val_bin_accuracy']:.1%}",
                file=sys.stdout,
            )
            sys.stdout.flush()


class RunProgress(pl.Callback):
    """A bar on stderr over the whole run, not an epoch, with the time that is left of it."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar; after a resume it begins at the finished epochs."""
        batches, epochs = int(trainer.num_training_batches), trainer.max_epochs or 0
        if trainer.is_global_zero:
            self.bar = tqdm(
                total=epochs * batches,
                initial=trainer.current_epoch * batches,
                bar_format=RUN_BAR,
                smoothing=0,  # the mean since the start, which holds validation as well
                dynamic_ncols=True,
                leave=False,
                file=sys.stderr,
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Advance by a batch."""
        if self.bar is not None:
            self.bar.set_description_str(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False
            )
            self.bar.update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self.close()

    def on_exception(self, *args: Any) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar, if there is one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class RunFolder(pl.Callback):
    """Save the best weights, and the state for a resume, once per epoch.

    Args:
        folder: Run folder.
        settings: Settings of the run; a resume with others is refused.
        patience: Epochs without a better validation MAE before stopping; 0: never stop.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], patience: int) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.patience = patience
        self.best: dict[str, float] = {}
        self.best_epoch = -1
        self.history: list[Epoch] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resume needs."""
        return {
            "settings": self.settings,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": self.history,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the return value of `state_dict`."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]
        self.history = state_dict["history"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the handlers of this program, before Lightning installs its own."""
        self._sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put SIGTERM's handler back: Lightning's waits for other processes, and may hang."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the epoch's validation; a signal waits until both files are written."""
        got = {name: value.item() for name, value in trainer.callback_metrics.items()}
        metrics = {k.removeprefix("val_"): v for k, v in got.items() if k[:4] == "val_"}
        self.history.append({"epoch": trainer.current_epoch + 1, **got})
        if best := metrics["mae"] < self.best.get("mae", math.inf):
            self.best, self.best_epoch = metrics, trainer.current_epoch
        with signals_held():
            if best:
                trainer.save_checkpoint(self.folder / BEST_FILE, weights_only=True)
            trainer.save_checkpoint(self.folder / RESUME_FILE)
        if self.patience and trainer.current_epoch - self.best_epoch >= self.patience:
            trainer.should_stop = True

    def check(self, file: Path) -> None:
        """Compare with the settings of the run that wrote a file.

        Raises:
            UsageError: naming the settings that differ.
            ModelError: if the file cannot be read.
        """
        try:
            stored = read_back(file, mmap=True)
            before = stored["callbacks"][self.state_key]["settings"]
        except (KeyError, TypeError) as error:
            raise ModelError(f"{file}: cannot be resumed from ({first_line(error)}).") from None
        differing = sorted(k for k, v in flat(self.settings).items() if flat(before).get(k) != v)
        if differing:
            raise UsageError(
                f"{file}: belongs to a run with other settings ({', '.join(differing)[:300]}); "
                "give the same settings, or start anew with --restart."
            )


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to {"recipe.epochs": 3, ...}."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        out.update({f"{prefix}{key}": value} if inner is None else inner)
    return out
