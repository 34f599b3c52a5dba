"""Write an image tower as engines run it best: same weights, same function, less to compute.

Rewrites of open_clip's towers, all exact up to float32 rounding. Of a vision transformer:

- Attention with explicit queries, keys and values. `nn.MultiheadAttention` exports as 15 nodes that
  juggle shapes; this is either one `Attention` node (opset 23) or MatMul, Softmax, MatMul, the
  pattern that TensorRT fuses.
- Nothing but the class token leaves the last block, so only its row is computed there: of the
  block's 12 C^2 multiplications per token, 10 C^2 are left out for all others.

Of a ResNet: attention pooling has one query per image, so nothing is projected token by token.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.onnx.ops
from torch import Tensor, nn

from numclip.model.backbone import open_clip

Block = open_clip.transformer.ResidualAttentionBlock
Tower = open_clip.transformer.VisionTransformer
ResNet = open_clip.modified_resnet.ModifiedResNet


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


class SingleQueryPool(nn.Module):
    """Attention pooling of CLIP's ResNets, for the only query whose output is used, the mean's.

    With one query q, the keys and values of N tokens x need not be made: q (W_k x) = (q W_k) x, and
    the mean of W_v x is W_v times the mean of x. Of 3.5 N C^2 multiplications 3.5 C^2 are left, and
    2 N C per head: of RN50's 6.1 G, 0.7 G go. The keys' bias adds the same to all scores of a head,
    which softmax does not feel; the values' bias passes through unchanged.

    Args:
        source: open_clip's `AttentionPool2d`, trained.
    """

    positions: Tensor  # (N, C)
    keys: Tensor  # (heads, C / heads, C)
    values: Tensor  # (heads, C, C / heads)

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.heads = source.num_heads
        with torch.no_grad():
            scale = (source.q_proj.out_features // self.heads) ** -0.5
            self.q_proj = _linear(scale * source.q_proj.weight, scale * source.q_proj.bias)
            by_head = (self.heads, -1)
            self.register_buffer("positions", source.positional_embedding.clone())
            self.register_buffer("keys", source.k_proj.weight.unflatten(0, by_head).clone())
            values = source.v_proj.weight.unflatten(0, by_head).transpose(1, 2)
            self.register_buffer("values", values.contiguous())
            out = source.c_proj
            self.c_proj = _linear(out.weight.clone(), out.bias + out.weight @ source.v_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D)."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positions  # (B, N, C)
        query = self.q_proj(x[:, 0]).unflatten(1, (self.heads, -1)).transpose(0, 1)
        queries = (query @ self.keys).transpose(0, 1)  # (B, heads, C)
        mixed = (queries @ x.transpose(1, 2)).softmax(2) @ x  # (B, heads, C)
        pooled = (mixed.transpose(0, 1) @ self.values).transpose(0, 1)  # (B, heads, C / heads)
        return self.c_proj(pooled.flatten(1))  # type: ignore[no-any-return]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def explicit_tower(tower: nn.Module, *, fused: bool) -> nn.Module:
    """Return a copy of open_clip's tower in this form; other towers as they are.

    Args:
        tower: Image encoder, images (B, 3, H, W) to features (B, D).
        fused: True where the target has an `Attention` node (opset 23).
    """
    explicit: Any = tower
    if isinstance(tower, ResNet):
        explicit = copy.deepcopy(tower)
        explicit.attnpool = SingleQueryPool(explicit.attnpool)
    elif is_common_transformer(tower):
        explicit = copy.deepcopy(tower)
        blocks: nn.ModuleList = explicit.transformer.resblocks
        for index, block in enumerate(blocks):
            last = index == len(blocks) - 1
            token = explicit.attn_pool is None and explicit.pool_type == "tok"
            blocks[index] = ExplicitBlock(block, fused=fused, rows=1 if last and token else None)
    return explicit.eval() if explicit is not tower else tower  # type: ignore[no-any-return]


def is_common_transformer(tower: nn.Module) -> bool:
    """Tell whether a tower is a vision transformer whose attention is written as one node."""
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
