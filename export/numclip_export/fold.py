"""Fold everything that is constant after training into a few matrices.

The text tower, the prompts, the logit scale and the adapter's blend ratio vanish: what is left is
the image tower, two small linear layers, one matrix of vectors and the head. Of a probe, it is the
image tower and one linear layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numclip.model.numclip import NumClip, encode_pieces, point_estimate
from numclip_export.vision import explicit_tower

EPS = 1e-12


class FoldedModel(nn.Module):
    """A trained model reduced to what inference needs: images in, numbers out.

    Args:
        model: Trained model, left as it is.
        temperature: The logits are divided by it for bin_probs; the values do not feel it.
        fused_attention: Write attention as the one node that ONNX has from opset 23 on.
    """

    # exp(logit_scale) * unit-length vectors (R, D): of K bins, or a distribution's numbers; R = 0
    # for a probe
    bin_embeddings: Tensor

    def __init__(
        self, model: NumClip, temperature: float = 1.0, *, fused_attention: bool = False
    ) -> None:
        super().__init__()
        with torch.no_grad():
            text = F.normalize(model.text_features(), dim=-1)
            bin_embeddings = model.logit_scale.exp() * text
        self.register_buffer("bin_embeddings", bin_embeddings.detach().clone())
        self.image_encoder = explicit_tower(model.image_encoder, fused=fused_attention)
        self.down, self.up = fold_adapter(model)
        self.keep_features = model.image_adapter.ratio < 1
        self.regressor = model.regressor
        self.task = model.task
        self.side = model.side
        self.temperature = temperature
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            images: (B, 3, H, W) float32, normalised RGB.

        Returns:
            values (B,) in label units, and bin_probs (B, K).
        """
        scores = encode_pieces(self.image_encoder, images, self.side)  # (B, D)
        if len(self.bin_embeddings):
            scores = self._similarities(scores)  # (B, R)
        read = self.regressor.readout(scores)
        values = point_estimate(self.task, read.fine, read.bin_probs)
        bin_probs = read.bin_probs
        if self.temperature != 1:
            bin_probs = (read.logits / self.temperature).softmax(-1)
        return values, bin_probs

    def _similarities(self, features: Tensor) -> Tensor:
        if self.down is not None and self.up is not None:
            learned = F.relu(self.up(F.relu(self.down(features))))
            features = features + learned if self.keep_features else learned
        # The norm divides the R scores of an image instead of D features.
        norm = features.square().sum(-1, keepdim=True).sqrt().clamp_min(EPS)
        return features @ self.bin_embeddings.T / norm


def fold_adapter(model: NumClip) -> tuple[nn.Linear | None, nn.Linear | None]:
    """Fold the blend ratio r into the adapter's second layer.

    r * relu(up(.)) + (1 - r) * f points the same way as f + relu((r / (1 - r)) * up(.)), because
    relu(c x) = c relu(x) for c > 0, and the logits see only the direction.

    Returns:
        The two bias-free layers, or (None, None) where r = 0 bypasses the adapter.
    """
    adapter = model.image_adapter
    if adapter.ratio == 0:
        return None, None
    down, up = adapter.fc[0], adapter.fc[2]
    assert isinstance(down, nn.Linear)
    assert isinstance(up, nn.Linear)
    scale = adapter.ratio / (1 - adapter.ratio) if adapter.ratio < 1 else 1.0
    folded = nn.Linear(up.in_features, up.out_features, bias=False)
    folded.weight = nn.Parameter(scale * up.weight.detach(), requires_grad=False)
    return down, folded
