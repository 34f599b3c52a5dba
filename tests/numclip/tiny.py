"""Tiny stand-ins for the real thing: towers of random weights, a task, photos of one grey each."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from numclip.data.samples import Sample
from numclip.model.model_config import ModelConfig
from numclip.model.numclip import NumClip
from numclip_runtime import Preprocessing, Task

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
RESNET = {"image_size": 64, "patch_size": None, "width": 8, "layers": [1, 1, 1, 1]}
TOWERS: dict[str, dict[str, Any]] = {  # open_clip configurations
    "vit": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "resnet": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": RESNET, "text_cfg": TEXT},
}
TASK = Task(
    name="brightness",
    unit="points",
    bin_edges=(0, 10, 20, 30),
    phrases=("dark", "neither dark nor bright", "bright"),
    context="the photo is",
)


def tiny_model(
    tower: str = "vit",
    *,
    task: Task = TASK,
    seed: int = 0,
    clip: dict[str, Any] | None = None,
    **config: Any,
) -> NumClip:
    """Build a model in eval mode whose every part matters to its values."""
    torch.manual_seed(seed)
    model = NumClip(ModelConfig(clip or TOWERS[tower], **config), task)
    with torch.no_grad():
        for layer in model.regressor.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.normal_(std=0.1)
                layer.bias.normal_(std=0.1)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        model.image_encoder(images_of(tower, 16, seed=seed))  # so that signals keep their size
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def spec_of(tower: str) -> Preprocessing:
    """Return the preprocessing that fits a tower."""
    side = TOWERS[tower]["vision_cfg"]["image_size"]
    return Preprocessing(crop=side, resize=side + 4)


def images_of(tower: str, count: int, *, seed: int = 0) -> torch.Tensor:
    """Return random network inputs, (count, 3, H, W) float32."""
    side = TOWERS[tower]["vision_cfg"]["image_size"]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, side, side, generator=generator)
    return noise + torch.randn(count, 3, 1, 1, generator=generator)  # each of another colour


def write_photos(folder: Path, name: str, count: int, *, reverse: bool = False) -> list[Sample]:
    """Write `name`.csv and its photos; the brighter, the larger the label (reverse: smaller)."""
    (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(count)
    rows = []
    for i in range(count):
        label = 30 * i / (count - 1)
        grey = 8 * (30 - label if reverse else label)
        pixels = grey + rng.uniform(0, 10, (40, 36, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
        rows.append((f"{name}/{i}.png", label))
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return [Sample(folder / path, label) for path, label in rows]
