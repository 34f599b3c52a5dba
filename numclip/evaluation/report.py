"""The metrics of `numclip-eval` as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numclip_runtime import Task
from numclip_runtime.calibration import DEFAULT_COVERAGE

WIDTH = 46  # of the words before a number


def table(metrics: dict[str, Any], task: Task) -> str:
    """Return the metrics as lines of text.

    Args:
        metrics: What `evaluate_predictions` returned.
        task: Gives the unit.
    """
    unit = f" {task.unit}" if task.unit else ""
    lines = [f"{name:<{WIDTH}} {text}" for name, text in _rows(metrics, unit)]
    return "\n".join([*lines, "", *_per_bin(metrics["per_bin"])])


def _rows(metrics: dict[str, Any], unit: str) -> Iterator[tuple[str, str]]:
    value, bins, probability = (metrics[key] for key in ("value", "bin", "probability"))
    yield "images", f"{metrics['images']}"
    yield "MAE of the value", f"{value['mae']:.3f}{unit}"
    yield "  of the expected bin centre", f"{value['mae_exp']:.3f}{unit}"
    yield "  of the most probable bin's centre", f"{value['mae_max']:.3f}{unit}"
    ratio = f", ratio {value['mae'] / value['mae_constant']:.2f}" if value["mae_constant"] else ""
    yield "  of the best constant (the labels' median)", f"{value['mae_constant']:.3f}{unit}{ratio}"
    yield "RMSE, bias of the value", f"{value['rmse']:.3f}, {value['bias']:+.3f}{unit}"
    yield "right bin, most probable / expected", f"{bins['acc_max']:.1%} / {bins['acc_exp']:.1%}"
    far = f"{bins['mae_max_index']:.3f} / {bins['mae_exp_index']:.3f} bins"
    yield "  distance from the right bin", far
    if probability["temperature"] == 1:
        yield (
            "NLL, ECE of the bin probabilities",
            f"{probability['nll']:.3f}, {probability['ece']:.1%}",
        )
    else:
        yield "temperature", f"{probability['temperature']:.3f}"
        for name, key, form in (("NLL", "nll", ".3f"), ("ECE", "ece", ".1%")):
            before, after = probability[f"{key}_uncalibrated"], probability[key]
            yield f"  {name} of the bin probabilities", f"{before:{form}} → {after:{form}}"
    for row in metrics["intervals"]:
        yield (
            f"{row['stated']:.0%} interval, covers / mean width",
            f"{row['coverage']:.1%} / {row['mean_width']:.2f}{unit}",
        )
    if not metrics["intervals"]:
        yield "intervals", "none: this model is not calibrated"


def _per_bin(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table with a line per bin; a bin without images shows a dash."""
    longest = max(3, *(len(row["bin"]) for row in rows))
    columns = [("MAE", "mae", ".2f"), ("bias", "bias", "+.2f"), ("right", "acc_max", ".1%")]
    if any(row["coverage"] is not None for row in rows):
        columns += [
            (f"{DEFAULT_COVERAGE:.0%} covers", "coverage", ".1%"),
            ("mean width", "mean_width", ".2f"),
        ]
    yield f"{'bin':<{longest}}  {'n':>6}" + "".join(f"  {name:>10}" for name, _, _ in columns)
    for row in rows:
        cells = ("-" if row[key] is None else f"{row[key]:{form}}" for _, key, form in columns)
        yield f"{row['bin']:<{longest}}  {row['n']:>6}" + "".join(f"  {cell:>10}" for cell in cells)
