"""Predictions as a table of pandas, where that is installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numclip_runtime.errors import ImageError, import_optional
from numclip_runtime.results.prediction import Prediction

COLUMNS = ("path", "value", "unit", "interval_low", "interval_high", "bin")


def to_pandas(results: Iterable[Prediction | ImageError] | Prediction) -> Any:
    """Return results as a pandas.DataFrame, a row for each.

        >>> from numclip_runtime import load, to_pandas
        >>> to_pandas(load("model.onnx").stream(["a.jpg", "b.jpg"]))["value"]  # doctest: +SKIP

    Args:
        results: Of `Predictor.stream`, `predict_batch` or `predict`.

    Returns:
        The columns path, value, unit, interval_low, interval_high, bin, "p_PHRASE" with the
        probability of each bin, and error, which is None where an image was read.

    Raises:
        MissingDependencyError: if pandas is not installed.
        TypeError: if one of the results is neither a prediction nor the error of an image.
    """
    pandas = import_optional(
        "pandas",
        install="install with: pip install pandas",
        again="install it again with: pip install --force-reinstall pandas",
    )
    rows, phrases = list[dict[str, Any]](), dict[str, None]()
    for result in [results] if isinstance(results, Prediction) else results:
        if isinstance(result, ImageError):
            rows.append({"path": result.path, "error": str(result)})
            continue
        if not isinstance(result, Prediction):
            raise TypeError(
                f"expected predictions, got {type(result).__name__}; give what predict_batch or "
                "stream returns."
            )
        low, high = result.interval or (None, None)
        row = (result.path, result.value, result.unit, low, high, result.bin)
        probs = {f"p_{phrase}": share for phrase, share in result.bin_probs.items()}
        phrases |= dict.fromkeys(probs)
        rows.append(dict(zip(COLUMNS, row, strict=True)) | probs | {"error": None})
    return pandas.DataFrame(rows, columns=[*COLUMNS, *phrases, "error"])
