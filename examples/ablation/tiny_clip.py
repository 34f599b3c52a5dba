"""A small CLIP, trained from scratch on rendered pictures and their vague captions.

Its logits lie where those of OpenAI's CLIP lie: the scale grows from 14 to 100 and stays there, and
the mean cosine of pictures and captions is held near .2, so logits are about +20. The contrastive
loss does not see a common level; the released FCRC, which multiplies logits, does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.ablation.scenes import SIDE, Picture, caption, draw_pictures
from numclip.model.backbone import build_clip, open_clip
from numclip.model.model_config import ClipConfig

CONTEXT_LENGTH = 24  # tokens: the longest caption has 17
CLIP: ClipConfig = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": 64, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": CONTEXT_LENGTH, "width": 48, "heads": 4, "layers": 2},
}
BATCH = 128
SCALES = (1 / 0.07, 100.0)  # of the first step, and from half of the steps on, as OpenAI's CLIP
LEVEL = 0.2  # mean cosine; OpenAI's CLIP has .15 to .35 on pictures and captions
PULL = 10.0  # weight of (mean cosine - LEVEL)^2: a distance of .1 costs .1 nats


def pixels(pictures: Sequence[Picture]) -> Tensor:
    """Return (N, 3, SIDE, SIDE) float32 in [-1, 1]."""
    stacked = np.stack([picture.pixels for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def pretrain(pictures: int, epochs: int, seed: int = 0) -> tuple[nn.Module, list[float]]:
    """Train a CLIP contrastively.

    Args:
        pictures: How many pictures; each gets a new caption in every epoch.
        epochs: How often each is seen.
        seed: Of weights, pictures, captions and order.

    Returns:
        The model (open_clip `CLIP`), and the mean contrastive loss of each epoch, nats.
    """
    torch.manual_seed(seed)
    clip: Any = build_clip(CLIP)
    clip.logit_scale.requires_grad_(False)
    drawn = draw_pictures(pictures, seed + 1_000)
    images, rng = pixels(drawn), np.random.default_rng(seed)
    tokenize = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    trained = [parameter for parameter in clip.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.1, betas=(0.9, 0.98))
    steps = epochs * (pictures // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    history: list[float] = []
    for epoch in range(epochs):
        captions = [caption(picture, rng) for picture in drawn]
        unique = {text: index for index, text in enumerate(dict.fromkeys(captions))}
        tokens, which = tokenize(list(unique)), torch.tensor([unique[text] for text in captions])
        order = torch.randperm(pictures)
        losses: list[float] = []
        for chosen in torch.split(order[: pictures - pictures % BATCH], BATCH):
            done = (epoch * (pictures // BATCH) + len(losses)) / steps
            clip.logit_scale.fill_(np.interp(done, (0, 0.5), np.log(SCALES)))
            cosines = all_cosines(clip, images[chosen], tokens[which[chosen]])
            loss = contrastive_loss(clip.logit_scale.exp() * cosines, which[chosen])
            optimizer.zero_grad()
            (loss + PULL * (cosines.mean() - LEVEL) ** 2).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        history.append(float(np.mean(losses)))
    clip.logit_scale.fill_(math.log(SCALES[1]))
    return clip.eval(), history


def all_cosines(clip: Any, images: Tensor, tokens: Tensor) -> Tensor:
    """Return the cosine of each image (B, 3, H, W) and each text (B, L) int64, (B, B)."""
    image = clip.encode_image(images, normalize=True)
    return image @ clip.encode_text(tokens, normalize=True).T  # type: ignore[no-any-return]


def contrastive_loss(logits: Tensor, which: Tensor) -> Tensor:
    """Return CLIP's loss; in a small world captions repeat, and equal ones are all right.

    Args:
        logits: (B, B) of images (rows) and captions.
        which: (B,) int64, equal where captions are equal.
    """
    target = (which[:, None] == which).float()
    target = target / target.sum(1, keepdim=True)  # symmetric: serves both directions
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
