"""A small CLIP, trained from scratch on rendered pictures and their vague captions."""

from __future__ import annotations

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
        The model (open_clip `CLIP`), and the mean loss of each epoch, nats.
    """
    torch.manual_seed(seed)
    clip: Any = build_clip(CLIP)
    drawn = draw_pictures(pictures, seed + 1_000)
    images, rng = pixels(drawn), np.random.default_rng(seed)
    tokenize = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=2e-3, weight_decay=0.1, betas=(0.9, 0.98))
    steps = epochs * (pictures // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    history = []
    for _ in range(epochs):
        captions = [caption(picture, rng) for picture in drawn]
        unique = {text: index for index, text in enumerate(dict.fromkeys(captions))}
        tokens, which = tokenize(list(unique)), torch.tensor([unique[text] for text in captions])
        order, losses = torch.randperm(pictures), []
        for chosen in torch.split(order[: pictures - pictures % BATCH], BATCH):
            loss = contrastive_loss(clip, images[chosen], tokens[which[chosen]], which[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            clip.logit_scale.data.clamp_(max=np.log(100))
            losses.append(loss.item())
        history.append(float(np.mean(losses)))
    return clip.eval(), history


def contrastive_loss(clip: Any, images: Tensor, tokens: Tensor, which: Tensor) -> Tensor:
    """Return CLIP's loss; in a small world captions repeat, and equal ones are all right.

    Args:
        clip: open_clip `CLIP`.
        images: (B, 3, H, W) float32.
        tokens: (B, L) int64.
        which: (B,) int64, equal where captions are equal.
    """
    image, text = (
        clip.encode_image(images, normalize=True),
        clip.encode_text(tokens, normalize=True),
    )
    logits = clip.logit_scale.exp() * image @ text.T  # (B, B)
    target = (which[:, None] == which).float()
    target = target / target.sum(1, keepdim=True)  # symmetric: serves both directions
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
