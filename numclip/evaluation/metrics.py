"""Metrics of predictions: errors, bins, probabilities and intervals, over all and in each bin.

Everything is a plain number, list or dict, ready for JSON. Numbers are in label units, shares
between 0 and 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from numclip.evaluation.predictions import Predictions, bins_of, log_softmax
from numclip_runtime.calibration import DEFAULT_COVERAGE, Array, bin_numbers

RELIABILITY_BINS = 10  # of equal width, over the probability of the chosen bin
SMALLEST_PROB = 1e-38  # float32's; a probability that underflowed to 0 counts as this


def evaluate_predictions(found: Predictions) -> dict[str, Any]:
    """Return all metrics of labelled predictions, grouped as in metrics.json."""
    return {
        "images": len(found.labels),
        "value": value_metrics(found),
        "bin": bin_metrics(found),
        "value_outside_bin": value_outside_bin(found),
        "probability": probability_metrics(found),
        "intervals": interval_metrics(found),
        "per_bin": per_bin(found),
        **({"per_group": per_group(found)} if found.groups else {}),
    }


def validation_metrics(found: Predictions) -> dict[str, float]:
    """Return the metrics that training shows and a checkpoint keeps.

    Returns:
        mae (label units), rmse (label units), bin_accuracy (share of right coarse bins, 0 to 1).
    """
    error = found.values - found.labels
    return {
        "mae": _mean(np.abs(error)),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "bin_accuracy": _mean(found.bin_probs.argmax(1) == found.bins),
    }


def value_metrics(found: Predictions) -> dict[str, float]:
    """Return errors of three readings of the same outputs, and of a constant.

    mae, rmse, bias are the value's; mae_exp is that of the expected number sum_k p_k c_k, and
    mae_max that of the most probable bin's number, where c_k is the bin's number (see
    `Task.bin_values`): a perfect classifier of classes has 0. For mae_constant, see `constant_mae`.
    """
    labels, numbers = found.labels, bin_numbers(found.task)
    own = validation_metrics(found)
    return {
        "mae": own["mae"],
        "rmse": own["rmse"],
        "bias": _mean(found.values - labels),
        "mae_exp": _mean(np.abs(found.bin_probs @ numbers - labels)),
        "mae_max": _mean(np.abs(numbers[found.bin_probs.argmax(1)] - labels)),
        "mae_constant": constant_mae(labels),
    }


def constant_mae(labels: Array) -> float:
    """Return the lowest MAE that a constant reaches on N labels: that of their median."""
    return _mean(np.abs(labels - np.median(labels)))


def bin_metrics(found: Predictions) -> dict[str, float]:
    """Return accuracies of the bin, and errors in numbers of bins.

    acc_max takes the most probable bin, acc_exp the expected index sum_k p_k k rounded half to
    even. mae_max_index and mae_exp_index are the errors of both before rounding: where bins are 1
    wide and labels their lower edges, these are the paper's MAE of a classifier.

    Source:
        NumCLIP's and OrdinalCLIP's released evaluation.
    """
    bins, chosen = found.bins, found.bin_probs.argmax(1)
    expected = found.bin_probs @ np.arange(found.task.num_bins)
    return {
        "acc_max": validation_metrics(found)["bin_accuracy"],
        "acc_exp": _mean(np.rint(expected) == bins),
        "mae_max_index": _mean(np.abs(chosen - bins)),
        "mae_exp_index": _mean(np.abs(expected - bins)),
    }


def value_outside_bin(found: Predictions) -> float:
    """Return the share of images whose value lies outside the bin that their record names.

    The value weighs all bins: half 10 and half 30 is 20, which may be in neither bin.
    """
    return _mean(bins_of(found.values, found.task) != found.bin_probs.argmax(1))


def probability_metrics(found: Predictions) -> dict[str, Any]:
    """Return the calibration of the bin probabilities, before and after the temperature.

    nll is the mean negative log-likelihood of the true bin, nats; ece the expected calibration
    error: the mean distance of accuracy and confidence over `reliability`'s rows, weighted by n.

    Source:
        Guo et al., arXiv 1706.04599, section 2.
    """
    temperature = 1.0 if found.calibration is None else found.calibration.temperature
    log_probs = np.log(np.maximum(found.bin_probs, SMALLEST_PROB))
    before = log_softmax(log_probs * temperature)  # undoes the temperature
    rows = reliability(found.bin_probs, found.bins)
    return {
        "temperature": temperature,
        "nll": _nll(log_probs, found.bins),
        "nll_uncalibrated": _nll(before, found.bins),
        "ece": _ece(rows),
        "ece_uncalibrated": _ece(reliability(np.exp(before), found.bins)),
        "reliability": rows,
    }


def reliability(bin_probs: Array, bins: npt.NDArray[np.int64]) -> list[dict[str, float]]:
    """Group images by the probability of their chosen bin; groups without images are left out.

    Args:
        bin_probs: (N, K).
        bins: (N,) true bins.

    Returns:
        Rows of n, confidence (mean probability) and accuracy (share of right bins).
    """
    confidence, right = bin_probs.max(1), bin_probs.argmax(1) == bins
    group = np.minimum((confidence * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    return [
        {
            "n": int((group == g).sum()),
            "confidence": _mean(confidence[group == g]),
            "accuracy": _mean(right[group == g]),
        }
        for g in np.unique(group)
    ]


def interval_metrics(found: Predictions) -> list[dict[str, float]]:
    """Return one row per fitted coverage: stated and measured coverage, mean and median width."""
    rows = []
    for stated in () if found.calibration is None else found.calibration.coverages:
        ends = found.intervals(stated)
        width = ends[:, 1] - ends[:, 0]
        rows.append(
            {
                "stated": stated,
                "coverage": _mean(covered(ends, found.labels)),
                "mean_width": _mean(width),
                "median_width": float(np.median(width)),
            }
        )
    return rows


def per_bin(found: Predictions) -> list[dict[str, Any]]:
    """Return one row per true bin; metrics are None where a bin has no image.

    Intervals are the 90 % ones; coverage and mean_width are None without calibration.
    """
    bins, columns = found.bins, _columns(found)
    return [
        {"bin": phrase, "n": int((bins == k).sum()), "coverage": None, "mean_width": None}
        | {
            name: _mean(column[bins == k]) if (bins == k).any() else None
            for name, column in columns.items()
        }
        for k, phrase in enumerate(found.task.phrases)
    ]


def per_group(found: Predictions) -> list[dict[str, Any]]:
    """Return one row per group, such as a person, in the order of their names; see `per_bin`."""
    names, group = np.unique(found.groups, return_inverse=True)
    columns = _columns(found)
    return [
        {"group": name, "n": int((group == g).sum()), "coverage": None, "mean_width": None}
        | {key: _mean(column[group == g]) for key, column in columns.items()}
        for g, name in enumerate(names.tolist())
    ]


def _columns(found: Predictions) -> dict[str, npt.NDArray[Any]]:
    """Return what the rows of images of one kind are means of, each (N,)."""
    error = found.values - found.labels
    right = found.bin_probs.argmax(1) == found.bins
    columns: dict[str, npt.NDArray[Any]] = {"mae": np.abs(error), "bias": error, "acc_max": right}
    if found.calibration is not None and DEFAULT_COVERAGE in found.calibration.coverages:
        ends = found.intervals(DEFAULT_COVERAGE)
        columns |= {"coverage": covered(ends, found.labels), "mean_width": ends[:, 1] - ends[:, 0]}
    return columns


def covered(ends: Array, labels: Array) -> npt.NDArray[np.bool_]:
    """Return whether each of N labels lies in its closed interval of `ends` (N, 2)."""
    inside: npt.NDArray[np.bool_] = (ends[:, 0] <= labels) & (labels <= ends[:, 1])
    return inside


def confusion(found: Predictions) -> npt.NDArray[np.int64]:
    """Count images by true bin (row) and most probable bin (column), (K, K)."""
    counts = np.zeros((found.task.num_bins,) * 2, np.int64)
    np.add.at(counts, (found.bins, found.bin_probs.argmax(1)), 1)
    return counts


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean())


def _nll(log_probs: Array, bins: npt.NDArray[np.int64]) -> float:
    return -_mean(log_probs[np.arange(len(bins)), bins])


def _ece(rows: list[dict[str, float]]) -> float:
    n = sum(row["n"] for row in rows)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / n
