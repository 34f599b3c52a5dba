"""A small image tower for damage: what a picture's frequencies are like, wherever they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from numclip_runtime import UsageError

SPECTRUM = "spectrum"  # field of a vision_cfg: side of the blocks, pixels; 8 is JPEG's
STRIDE = 3  # has no factor in common with 8, so all places within JPEG's blocks are seen
LOWEST = 4  # frequencies of the colour differences, along each side
GREY_LEVELS = 16.0  # of a normalised pixel: a grey level then moves the mean of a block by 1
FLOOR = 0.05  # of a coefficient, before its logarithm


class SpectrumTower(nn.Module):
    """Means and spreads of the logarithms of local cosine coefficients, and their squares: (B, D).

    Blur, noise and compression show in the sizes of the coefficients, and in how these differ from
    place to place. Nothing in it has to be learned: a linear probe of it is fitted in closed form,
    in a minute. D = 4 * (side^2 + 32): 384 for blocks of 8 x 8 pixels.

    Args:
        side: Of the blocks, pixels; at least 4.

    Source:
        Statistics of local DCT coefficients as a measure of quality: Saad, Bovik and Charrier,
        "Blind image quality assessment: a natural scene statistics approach in the DCT domain"
        (IEEE TIP 2012).
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        basis = cosine_basis(side)
        lowest = basis.reshape(side, side, 1, side, side)[:LOWEST, :LOWEST].flatten(0, 1)
        self.colour = nn.Conv2d(3, 3, 1, bias=False)
        self.light = nn.Conv2d(1, side**2, side, STRIDE, bias=False)
        self.chroma = nn.Conv2d(2, 2 * LOWEST**2, side, STRIDE, bias=False, groups=2)
        with torch.no_grad():
            self.colour.weight.copy_(_YCBCR[:, :, None, None])
            self.light.weight.copy_(basis)
            self.chroma.weight.copy_(lowest.repeat(2, 1, 1, 1))

    @classmethod
    def of(cls, vision: Mapping[str, Any], embed_dim: int) -> SpectrumTower:
        """Build the tower of a vision_cfg.

        Raises:
            UsageError: if the blocks are too small, or embed_dim is not theirs.
        """
        side = int(vision[SPECTRUM])
        width = 4 * (side**2 + 2 * LOWEST**2)
        if side < LOWEST or embed_dim != width:
            raise UsageError(
                f"a spectrum of {side} x {side} pixels needs {LOWEST} or more, and embed_dim "
                f"{width}, got {embed_dim}."
            )
        return cls(side)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, D)."""
        planes = GREY_LEVELS * self.colour(images)
        coefficients = torch.cat([self.light(planes[:, :1]), self.chroma(planes[:, 1:])], 1)
        sizes = (coefficients.abs() + FLOOR).log()  # (B, D / 4, h, w)
        mean = sizes.mean((2, 3), keepdim=True)
        spread = ((sizes - mean).square().mean((2, 3)) + 1e-6).sqrt()
        found = torch.cat([mean.flatten(1), spread], 1)  # (B, D / 2)
        return torch.cat([found, found.square()], 1)


def cosine_basis(side: int) -> Tensor:
    """Return the orthonormal cosine transform of blocks as filters, (side^2, 1, side, side)."""
    k = torch.arange(float(side), dtype=torch.float64)
    rows = torch.cos(math.pi / side * (k[None] + 0.5) * k[:, None])
    rows[0] /= math.sqrt(2)
    rows *= math.sqrt(2 / side)
    return torch.einsum("ui,vj->uvij", rows, rows).reshape(-1, 1, side, side).float()


# Light and the two colour differences of JPEG (JFIF), of RGB
_YCBCR = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
