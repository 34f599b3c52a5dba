"""The losses that are logged per epoch: what Lightning makes of a log of every batch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from numclip.data.dataset import Batch
from numclip.training.config import LearningRates, TrainConfig
from numclip.training.fit import fit
from numclip.training.lightning_module import NumClipModule
from tests.numclip.tiny import spec_of, tiny_model, write_photos

NAMES = ("image_to_text", "text_to_image", "l1", "loss")
CONFIG = TrainConfig(
    epochs=3,
    batch_size=6,  # of 16 images: the last batch of 4 must weigh less
    rates=LearningRates(image=1e-3, rank=1e-3),
    optimizer="adamw",
    workers=0,
)


class EachBatch(NumClipModule):
    """Logs every batch and leaves the mean to Lightning."""

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Log four values."""
        parts = self.global_losses(batch)
        for name, value in parts.items():
            bar, size = name == "l1", len(batch[0])
            self.log(name, value, prog_bar=bar, on_step=False, on_epoch=True, batch_size=size)
        return parts["loss"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_equal_those_of_a_log_of_every_batch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    accumulate: int,
) -> None:
    train, val = write_photos(tmp_path, "train", 16), write_photos(tmp_path, "val", 4)
    config = TrainConfig(**{**vars(CONFIG), "accumulate": accumulate})

    def trained(kind: type[NumClipModule]) -> tuple[list[dict[str, str]], Any, list[str], Tensor]:
        shown = []

        class Spy(kind):  # type: ignore[misc,valid-type]
            def on_train_end(self) -> None:
                shown.append(set(self.trainer.progress_bar_metrics))

        monkeypatch.setattr("numclip.training.fit.NumClipModule", Spy)
        model, run_dir = tiny_model(), tmp_path / kind.__name__
        fit(model, train, val, spec_of("vit"), config, run_dir=run_dir)
        (log,) = run_dir.rglob("metrics.csv")
        rows = list(csv.DictReader(log.read_text("utf-8").splitlines()))
        lines = capsys.readouterr().out.splitlines()
        return rows, shown, lines, model.state_dict()["image_encoder.proj"]

    rows, shown, lines, weights = trained(NumClipModule)
    former_rows, former_shown, former_lines, former_weights = trained(EachBatch)
    assert len([row for row in rows if row["loss"]]) == config.epochs
    assert [row.keys() for row in rows] == [row.keys() for row in former_rows]
    for row, former in zip(rows, former_rows, strict=True):
        for name, text in former.items():
            if name in NAMES and text:
                assert float(row[name]) == pytest.approx(float(text), rel=1e-6), name
            else:
                assert row[name] == text, name
    assert lines == former_lines
    assert len(lines) == config.epochs
    assert shown == former_shown
    assert "l1" in shown[0]
    assert torch.equal(weights, former_weights)
