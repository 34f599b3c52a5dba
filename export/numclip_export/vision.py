"""Write a vision transformer as engines fuse it best: same weights, same function, fewer nodes.

Two rewrites of open_clip's tower, both exact up to float32 rounding:

- Attention with explicit queries, keys and values. `nn.MultiheadAttention` exports as 15 nodes that
  juggle shapes; this is either one `Attention` node (opset 23) or MatMul, Softmax, MatMul, the
  pattern that TensorRT fuses.
- Nothing but the class token leaves the last block, so only its row is computed there: of the
  block's 12 C^2 multiplications per token, 10 C^2 are left out for all others.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.onnx.ops
from torch import Tensor, nn

from numclip.backbone import open_clip

Block = open_clip.transformer.ResidualAttentionBlock
Tower = open_clip.transformer.VisionTransformer


class ExplicitAttention(nn.Module):
    """Self-attention of an `nn.MultiheadAttention` with the products written out.

    Args:
        source: Trained layer, batch first, one input width.
        fused: One Attention node, which opset 23 has and which takes the heads side by side, so
            that nothing is transposed around it (3 to 5 % of onnxruntime's time); else MatMuls.
        rows: Rows of the output to compute; None: all.
    """

    def __init__(self, source: nn.MultiheadAttention, *, fused: bool, rows: int | None) -> None:
        super().__init__()
        self.heads, self.fused, self.rows = source.num_heads, fused, rows
        weight, bias = source.in_proj_weight.detach().clone(), source.in_proj_bias.detach().clone()
        width = source.embed_dim
        # softmax(q k / sqrt(d)): the factor is constant, so it goes into the weights of q
        weight[:width] *= source.head_dim**-0.5
        bias[:width] *= source.head_dim**-0.5
        # One product for all three, except where queries are of fewer rows
        cuts = [3 * width] if rows is None else [width, 2 * width]
        parts = zip(torch.split(weight, cuts), torch.split(bias, cuts), strict=True)
        self.in_proj = nn.ModuleList(_linear(w, b) for w, b in parts)
        self.out_proj = source.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N or rows, C)."""
        if self.rows is None:
            parts = self.in_proj[0](x).chunk(3, -1)
        else:
            parts = (self.in_proj[0](x[:, : self.rows]), *self.in_proj[1](x).chunk(2, -1))
        if self.fused:
            heads = {"q_num_heads": self.heads, "kv_num_heads": self.heads}
            mixed = torch.onnx.ops.attention(*parts, scale=1.0, **heads)[0]
        else:
            # (B, heads, N, C / heads)
            q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
            mixed = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.out_proj(mixed)  # type: ignore[no-any-return]


class ExplicitBlock(nn.Module):
    """A transformer block with explicit attention.

    Args:
        source: Block of open_clip's tower.
        fused: See `ExplicitAttention`.
        rows: Rows to compute; None: all.
    """

    def __init__(self, source: nn.Module, *, fused: bool, rows: int | None = None) -> None:
        super().__init__()
        attention = source.get_submodule("attn")
        assert isinstance(attention, nn.MultiheadAttention)
        self.ln_1, self.ln_2 = source.get_submodule("ln_1"), source.get_submodule("ln_2")
        self.ls_1, self.ls_2 = source.get_submodule("ls_1"), source.get_submodule("ls_2")
        self.attn = ExplicitAttention(attention, fused=fused, rows=rows)
        self.mlp = source.get_submodule("mlp")
        self.rows = rows

    def forward(self, x: Tensor, attn_mask: None = None) -> Tensor:
        """Map (B, N, C) to (B, N or rows, C)."""
        mixed = self.ls_1(self.attn(self.ln_1(x)))
        x = (x if self.rows is None else x[:, : self.rows]) + mixed
        return x + self.ls_2(self.mlp(self.ln_2(x)))  # type: ignore[no-any-return]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def explicit_tower(tower: nn.Module, *, fused: bool) -> nn.Module:
    """Return a copy of open_clip's vision transformer in this form; other towers as they are.

    Args:
        tower: Image encoder, images (B, 3, H, W) to features (B, D).
        fused: True where the target has an `Attention` node (opset 23).
    """
    if not is_rewritten(tower):
        return tower
    explicit: Any = copy.deepcopy(tower)
    blocks: nn.ModuleList = explicit.transformer.resblocks
    for index, block in enumerate(blocks):
        last = index == len(blocks) - 1
        rows = 1 if last and explicit.attn_pool is None and explicit.pool_type == "tok" else None
        blocks[index] = ExplicitBlock(block, fused=fused, rows=rows)
    return explicit.eval()  # type: ignore[no-any-return]


def is_rewritten(tower: nn.Module) -> bool:
    """Tell whether `explicit_tower` changes a tower: whether it is a common vision transformer."""
    return isinstance(tower, Tower) and all(map(_is_plain, tower.transformer.resblocks))


def _is_plain(block: nn.Module) -> bool:
    """Tell whether a block is the common one: self-attention, batch first, biases."""
    attention = getattr(block, "attn", None)
    return (
        type(block) is Block
        and isinstance(attention, nn.MultiheadAttention)
        and attention.batch_first
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
    )
