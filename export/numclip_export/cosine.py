"""Cosines between two models' image features. Needs numpy only: benchmarks run without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from numclip_runtime.preprocess import FloatArray


def centred_cosines(features: FloatArray, reference: FloatArray) -> npt.NDArray[np.float64]:
    """Return the cosine of each image's features to the reference's, both less their mean.

    Args:
        features: (N, D).
        reference: (N, D).

    Returns:
        (N,) float64, NaN where a feature is not finite.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ours, theirs = (
            (array - array.mean(0)).astype(np.float64) for array in (features, reference)
        )
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines: npt.NDArray[np.float64] = (ours * theirs).sum(1) / norms
    return cosines
