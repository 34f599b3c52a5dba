"""Training on tiny towers: it learns, repeats itself, freezes, and keeps the best weights."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from numclip.checkpoint import Checkpoint
from numclip.data.dataset import ImageDataset, evaluation_transform
from numclip.data.samples import Sample
from numclip.evaluation.metrics import validation_metrics
from numclip.evaluation.predictions import predictions_of_checkpoint
from numclip.model.numclip import NumClip
from numclip.training.config import LearningRates, TrainConfig
from numclip.training.fit import fit
from numclip.training.losses import batch_losses
from numclip_runtime import ImageError, UsageError
from tests.numclip.tiny import TASK, TOWERS, spec_of, tiny_model, write_photos

FAST = LearningRates(image=1e-3, rank=1e-3, adapter=1e-3, regressor=1e-2)
QUICK = TrainConfig(
    epochs=4, batch_size=8, rates=FAST, optimizer="adamw", schedule="constant", workers=0
)
FROZEN = LearningRates(image=0, rank=0, adapter=0, regressor=0)
PARTS = {  # learning rate -> what it moves, by prefix
    "image": "image_encoder.",
    "text": "text_encoder.",
    "context": "prompt_learner.context_embeds",
    "rank": "prompt_learner.rank_embeds",
    "adapter": "image_adapter.",
    "regressor": "regressor.",
    "logit_scale": "logit_scale",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Sample], list[Sample]]:
    """Return samples to train and to validate with."""
    folder = tmp_path_factory.mktemp("photos")
    return write_photos(folder, "train", 16), write_photos(folder, "val", 7)


Photos = tuple[list[Sample], list[Sample]]


def metrics_of(model: NumClip, samples: list[Sample]) -> dict[str, float]:
    found = predictions_of_checkpoint(Checkpoint(model, spec_of("vit")), samples)
    return validation_metrics(found)


def state_after(photos: Photos, config: TrainConfig, tower: str = "vit") -> dict[str, Tensor]:
    model = tiny_model(tower)
    fit(model, *photos, spec_of(tower), config)
    return model.state_dict()


def test_learns(photos: Photos) -> None:
    data = ImageDataset(photos[0], TASK, evaluation_transform(spec_of("vit")))
    batches = DataLoader(data, 16)
    model = tiny_model()

    @torch.no_grad()
    def loss() -> float:
        images, labels, bins = next(iter(batches))
        return batch_losses(model(images), labels, bins, QUICK)["loss"].item()

    before, mae_before = loss(), metrics_of(model, photos[0])["mae"]
    best = fit(model, *photos, spec_of("vit"), replace(QUICK, epochs=12))
    assert not model.training
    assert loss() < 0.7 * before
    assert metrics_of(model, photos[0])["mae"] < 0.7 * mae_before
    assert best["mae"] < 0.7 * mae_before


def test_same_seed_same_weights(photos: Photos) -> None:
    config = replace(QUICK, epochs=1)
    first, again, other = (
        state_after(photos, replace(config, seed=seed))["image_encoder.proj"] for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("tower", list(TOWERS))
def test_rate_0_freezes_bit_exactly(photos: Photos, tower: str) -> None:
    before = tiny_model(tower).state_dict()
    for part, prefix in PARTS.items():
        rates = replace(FROZEN, **{part: 1e-2})
        after = state_after(photos, replace(QUICK, epochs=1, rates=rates), tower)
        moved = {name for name, old in before.items() if not torch.equal(after[name], old)}
        assert moved, part
        assert all(name.startswith(prefix) for name in moved), part


def test_returns_the_weights_of_the_best_epoch(photos: Photos, tmp_path: Path) -> None:
    # Validation photos are brighter the smaller the label: learning makes it worse.
    val = write_photos(tmp_path, "reversed", 7, reverse=True)
    model = tiny_model()
    best = fit(model, photos[0], val, spec_of("vit"), QUICK, run_dir=tmp_path / "run")
    (log,) = (tmp_path / "run").rglob("metrics.csv")
    with log.open(newline="") as file:
        maes = [float(row["val_mae"]) for row in csv.DictReader(file) if row["val_mae"]]
    assert len(maes) == QUICK.epochs
    assert best["mae"] == pytest.approx(min(maes))
    assert maes[-1] > min(maes) + 0.1  # the last weights would not do
    assert metrics_of(model, val) == pytest.approx(best, rel=1e-4)


def test_divergence_is_an_error(photos: Photos) -> None:
    rates = replace(FAST, image=1e30)
    with pytest.raises(UsageError, match=r"diverged.*lower the learning rates"):
        fit(tiny_model(), *photos, spec_of("vit"), replace(QUICK, rates=rates))


def test_nothing_to_train_is_an_error(photos: Photos) -> None:
    with pytest.raises(UsageError, match="all learning rates are 0"):
        fit(tiny_model(), *photos, spec_of("vit"), replace(QUICK, rates=FROZEN))


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_is_an_error(tmp_path: Path, workers: int) -> None:
    train, val = (write_photos(tmp_path, name, 4) for name in ("train", "val"))
    train[2].path.write_bytes(b"no image")
    with pytest.raises(ImageError) as caught:
        fit(tiny_model(), train, val, spec_of("vit"), replace(QUICK, workers=workers))
    assert str(caught.value) == f"{train[2].path}: not an image that Pillow can read."
