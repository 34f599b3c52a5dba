"""Each image's augmentation: seeded by itself, without a trace elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from numclip.data.dataset import ImageDataset, SeededDataset, training_transform
from tests.numclip.tiny import TASK, spec_of, write_photos


def test_draws_what_its_seed_says_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = write_photos(tmp_path, "train", 4)
    data = ImageDataset(samples, TASK, training_transform(spec_of("vit")), draw=True)
    indices = (0, 1, 5, 4 * 10**9 + 1)  # the last three are one image in three epochs
    wanted = []
    for index in indices:
        torch.manual_seed((7 << 40) + index)
        wanted.append(data[index % 4][0])
    assert not torch.equal(wanted[1], wanted[2]), "the augmentation must draw"

    def touched(seed: int) -> None:
        raise AssertionError("a GPU's own random numbers would begin anew at every image")

    monkeypatch.setattr("torch.cuda.manual_seed_all", touched)
    before = torch.get_rng_state()
    seeded = SeededDataset(data, seed=7)
    for index, want in zip(indices, wanted, strict=True):
        assert torch.equal(seeded[index][0], want)
    assert torch.equal(torch.get_rng_state(), before)
