"""Energy of a competitor's turns, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def total(turns: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any] | None:
    """Add up what `PowerSampler.to_dict` said of each turn; None where nothing was measured.

    Args:
        turns: One per turn.
        images: That went through in all of them, untimed ones included: they took energy too.
    """
    joules = [turn["joules"] for turn in turns]
    if not joules or None in joules:
        return None
    seconds = sum(turn["seconds"] for turn in turns)
    return {
        "source": turns[0]["source"],
        "joules_per_image": sum(joules) / images,
        "mean_watts": sum(joules) / seconds if seconds else None,
    }
