"""How far a competitor's outputs are from the checkpoint's in PyTorch, float32."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numclip_runtime.preprocess import FloatArray

PHOTOS = 32


@dataclass(frozen=True)
class Outputs:
    """What `Server.outputs` wrote."""

    values: FloatArray  # (N,) label units
    features: FloatArray | None  # (N, D)

    @classmethod
    def read(cls, path: Path) -> Outputs:
        """Read the .npz file."""
        with np.load(path) as arrays:
            return cls(arrays["values"], arrays.get("features"))


@dataclass(frozen=True)
class Fidelity:
    """Differences over N images."""

    value_max: float  # label units
    value_mean: float  # label units
    # Cosine between image features, both less their mean over the images: plain ones are above .99
    # whatever happens, for all features point into one narrow cone. None: features not known.
    cosine_min: float | None
    cosine_mean: float | None
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def compare(ours: Outputs, reference: Outputs) -> Fidelity:
    """Compare two competitors' outputs for the same images."""
    errors = np.abs(ours.values.astype(np.float64) - reference.values)
    cosines = None
    if ours.features is not None and reference.features is not None:
        from numclip_export.cosine import centred_cosines  # numpy only

        cosines = centred_cosines(ours.features, reference.features)
    return Fidelity(
        value_max=float(errors.max()),
        value_mean=float(errors.mean()),
        cosine_min=None if cosines is None else float(cosines.min()),
        cosine_mean=None if cosines is None else float(cosines.mean()),
        images=len(errors),
    )
