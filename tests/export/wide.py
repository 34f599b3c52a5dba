"""A model wide enough for INT8 to pay, and its export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

from numclip.checkpoint import Checkpoint, save_checkpoint
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_export.cli import main
from numclip_runtime import Preprocessing
from tests.numclip.tiny import TASK, TEXT, write_photos

WIDE = {"image_size": 64, "patch_size": 8, "width": 512, "head_width": 64, "layers": 2}
OUTLIERS = 30  # times the other channels, as in trained towers
LAYERS = 2 * 4 + 1  # that INT8 quantises: the last block's queries are apart


def save_wide(folder: Path) -> Path:
    """Write x.pt, whose channels are uneven, beside 20 validation photos; return the folder."""
    write_photos(folder, "val", 20)
    torch.manual_seed(0)
    config = {"embed_dim": 64, "quick_gelu": True, "vision_cfg": WIDE, "text_cfg": TEXT}
    model = NumClip(ModelConfig(config), TASK)
    with torch.no_grad():
        for layer in ("fc", "delta"):
            model.regressor.get_parameter(f"{layer}.weight").normal_(std=0.1)
        blocks: Any = model.image_encoder.get_submodule("transformer.resblocks")
        for block in blocks:
            chosen = torch.randperm(512)[:6]
            block.ln_1.weight[chosen] *= OUTLIERS
            block.attn.in_proj_weight[:, chosen] /= OUTLIERS
            block.ln_2.weight[chosen] *= OUTLIERS
            block.mlp.c_fc.weight[:, chosen] /= OUTLIERS
    checkpoint = Checkpoint(model.eval(), Preprocessing(64, 72), {}, str(folder / "val.csv"))
    save_checkpoint(folder / "x.pt", checkpoint)
    return folder


def run(folder: Path, *args: object) -> Result:
    """Run `numclip-export --int8` on a folder's x.pt."""
    return CliRunner().invoke(
        main, ["--ckpt", str(folder / "x.pt"), "--int8", "--max-batch", "4", *map(str, args)]
    )


def names(folder: Path) -> set[str]:
    """Return the names of what is in a folder."""
    return {path.name for path in folder.iterdir()}


def report_of(folder: Path) -> dict[str, Any]:
    """Return the export's report."""
    report: dict[str, Any] = json.loads((folder / "x.report.json").read_text("utf-8"))
    return report
