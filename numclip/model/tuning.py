"""Which parts of an image tower are trained, and low-rank updates, merged before they are saved."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from numclip.model.model_config import Tune
from numclip_runtime import UsageError


class LowRank(nn.Module):
    """Add a matrix of low rank to a weight: W + B A, with B = 0 at the start.

    Args:
        weight: (out, in, ...), such as of a linear layer or a convolution of one group.
        rank: Of the sum's second part; at most that of the weight.

    Source:
        LoRA (arXiv 2106.09685), section 4.1, with alpha = rank; for the image tower of CLIP:
        CLIP-LoRA (arXiv 2405.18541).
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(torch.empty(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the update."""
        return weight + (self.up @ self.down).view_as(weight)


def add_low_rank(tower: nn.Module, rank: int) -> None:
    """Give every linear layer of an image tower a low-rank update.

    Linear layers are `nn.Linear`, the joint projection of queries, keys and values in
    `nn.MultiheadAttention`, and convolutions of one pixel, which are linear in the channels.

    Raises:
        UsageError: if the tower has none.
    """
    chosen = [
        (module, name)
        for module in list(tower.modules())
        for name in ("weight", "in_proj_weight")
        if _is_linear(module, name)
    ]
    if not chosen:
        raise UsageError(
            "--tune lora: this image tower has no linear layer; give --tune projector or all."
        )
    for module, name in chosen:
        weight: Tensor = getattr(module, name)
        update = LowRank(weight, rank).to(weight)
        parametrize.register_parametrization(module, name, update)


def _is_linear(module: nn.Module, name: str) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return name == "in_proj_weight" and module.in_proj_weight is not None
    if name != "weight":
        return False
    pixel = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear) or pixel


def merge_low_rank(tower: nn.Module) -> None:
    """Make every update a part of its weight: the tower is a plain one again, or still."""
    for module in list(tower.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def tuned_parameters(tower: nn.Module, tune: Tune) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters of a tower that are trained, and the others.

    Args:
        tower: Image tower.
        tune: "all"; "projector": of the last projection to the features; "lora": of the low-rank
            updates that `add_low_rank` gave; "none".

    Source:
        "projector": ProLIP (arXiv 2410.05270).
    """
    if tune == "all":
        chosen = set(tower.parameters())
    elif tune == "projector":
        chosen = set(_projector(tower))
    elif tune == "lora":
        updates = [module for module in tower.modules() if isinstance(module, LowRank)]
        chosen = {p for update in updates for p in update.parameters()}
    else:
        chosen = set()
    parameters = list(tower.parameters())
    return [p for p in parameters if p in chosen], [p for p in parameters if p not in chosen]


def _projector(tower: nn.Module) -> list[nn.Parameter]:
    """Return the last linear map to the features: CLIP's own projection, or the last layer."""
    projection = getattr(tower, "proj", None)  # of open_clip's vision transformers, (width, D)
    if isinstance(projection, nn.Parameter):
        return [projection]
    layers = [m for m in tower.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return list(layers[-1].parameters()) if layers else []
