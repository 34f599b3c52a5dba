"""The tower of cosine coefficients: what it starts from, and that it is kept and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip.model.backbone import clip_config, image_config
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip.model.spectrum import GREY_LEVELS, SpectrumTower, cosine_basis
from numclip_export.fold import FoldedModel
from numclip_runtime import Preprocessing, UsageError
from tests.numclip.tiny import TASK

CONFIG = {"embed_dim": 384, "vision_cfg": {"image_size": 16, "spectrum": 8}}


def test_the_basis_is_orthonormal_and_its_first_filter_the_mean() -> None:
    basis = cosine_basis(8).flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis[0], torch.full((64,), 1 / 8))


@torch.no_grad()
def test_grey_has_no_colour_and_a_flat_picture_one_coefficient() -> None:
    tower = SpectrumTower(8)
    planes = GREY_LEVELS * tower.colour(torch.full((1, 3, 16, 16), 0.5))
    assert planes[:, 1:].abs().max() < 0.02
    found = tower.light(planes[:, :1])[0, :, 0, 0]
    assert found[0].item() == pytest.approx(8 * GREY_LEVELS * 0.5, rel=1e-5)  # 64 pixels / 8
    assert found[1:].abs().max() < 1e-4


@torch.no_grad()
def test_a_checkpoint_of_it_is_loaded_and_folded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NumClip(ModelConfig(CONFIG, head="probe"), TASK).eval()
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model, Preprocessing(16, 16)))
    loaded = load_checkpoint(tmp_path / "a.pt").model
    images = torch.randn(2, 3, 32, 32)  # mosaics of 2 x 2
    wanted = model(images)
    assert torch.equal(loaded(images).values, wanted.values)
    torch.testing.assert_close(FoldedModel(loaded)(images)[0], wanted.values, atol=1e-4, rtol=0)


def test_a_configuration_file_names_it_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"embed_dim": 8, "vision_cfg": {"spectrum": 33}, "text_cfg": {}}', "utf-8")
    with pytest.raises(UsageError, match="must be a whole number from 1 to 32"):
        NumClip(ModelConfig(image_config(clip_config(str(path))), head="probe"), TASK)


def test_a_wrong_width_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs 4 or more, and embed_dim 384, got 100"):
        NumClip(ModelConfig(CONFIG | {"embed_dim": 100}, head="probe"), TASK)
