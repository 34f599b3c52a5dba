"""A ViT of two blocks that computes what it always did, in numbers that float16 cannot hold."""

from __future__ import annotations

from pathlib import Path

import torch

from numclip.checkpoint import Checkpoint, save_checkpoint
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from tests.numclip.tiny import TASK, TEXT, VIT, spec_of, write_photos

CLIP = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": VIT | {"layers": 2},
    "text_cfg": TEXT,
}
FIRST_BLOCK = "image_encoder.transformer.resblocks.0"


def fragile_model(gain: float) -> NumClip:
    """Build a model whose first block multiplies by `gain` in ln_2, and divides in c_fc."""
    torch.manual_seed(0)
    model = NumClip(ModelConfig(CLIP), TASK)
    with torch.no_grad():
        for layer in ("fc", "delta"):
            model.regressor.get_parameter(f"{layer}.weight").normal_(std=0.1)
        block = model.get_submodule(FIRST_BLOCK)
        block.ln_2.weight.mul_(gain)  # type: ignore[union-attr, operator]
        block.ln_2.bias.mul_(gain)  # type: ignore[union-attr, operator]
        block.mlp.c_fc.weight.div_(gain)  # type: ignore[union-attr, operator]
    return model.eval()


def save_fragile(folder: Path, gain: float, metrics: dict[str, float] | None = None) -> Path:
    """Write x.pt and 5 validation photos."""
    write_photos(folder, "val", 5)
    path = folder / "x.pt"
    checkpoint = Checkpoint(
        fragile_model(gain), spec_of("vit"), metrics or {}, str(folder / "val.csv")
    )
    save_checkpoint(path, checkpoint)
    return path
