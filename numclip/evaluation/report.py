"""The metrics of `numclip-eval`: a table for people, metrics.json, and a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numclip.evaluation.predictions import EvaluationSource, Predictions
from numclip_runtime import Task, UsageError
from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.console import WIDTH, columns, cut, json_text, plain, visible
from numclip_runtime.files import atomic_text

METRICS_FILE, PICTURE_FILE = "metrics.json", "evaluation.png"
WORDS = 46  # characters of the words before a number
WORST_GROUPS = 12  # that the table shows


def make_folder(path: Path) -> None:
    """Create the output folder.

    Raises:
        UsageError: if something else is in its place, or it cannot be created.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file; -o takes a folder, or a name that ends in .json.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot create this folder ({error.strerror}).") from None
    if not os.access(path, os.W_OK):
        raise UsageError(f"{path}: cannot write into this folder.")


def write_report(
    folder: Path,
    metrics: dict[str, Any],
    found: Predictions,
    source: EvaluationSource,
    *,
    plot: bool,
    metrics_file: str = METRICS_FILE,
) -> list[Path]:
    """Write metrics.json, and evaluation.png if asked for.

    Args:
        folder: Folder that exists.
        metrics: Return value of `evaluate_predictions`.
        found: The predictions they are of.
        source: Names the model and the data.
        plot: Draw the picture; needs matplotlib.
        metrics_file: Its name.

    Returns:
        The files written.
    """
    artefact, data = source.file.name, source.data.name
    written = [folder / metrics_file]
    about: dict[str, Any] = {"artefact": artefact, "data": data}
    if source.fast_decode:
        about["fast_decode"] = True
    with atomic_text(written[0]) as file:
        file.write(json_text(plain(about | metrics), indent=2) + "\n")
    if plot:
        from numclip.evaluation.plots import save_plot

        written.append(folder / PICTURE_FILE)
        save_plot(written[1], found, title=f"{artefact} on {data}")
    return written


def table(metrics: dict[str, Any], task: Task) -> str:
    """Return the metrics as lines of text.

    Args:
        metrics: Return value of `evaluate_predictions`.
        task: Gives the unit.
    """
    unit = f" {task.unit}" if task.unit else ""
    lines = [f"{name:<{WORDS}} {text}" for name, text in _rows(metrics, task, visible(unit))]
    lines += ["", *_rows_of("bin", metrics["per_bin"], task)]
    if groups := metrics.get("per_group", []):
        lines += ["", *_per_group(groups, task)]
    return "\n".join(lines)


def _rows(metrics: dict[str, Any], task: Task, unit: str) -> Iterator[tuple[str, str]]:
    value, bins, probability = (metrics[key] for key in ("value", "bin", "probability"))
    yield "images", f"{metrics['images']}"
    yield "MAE of the value", f"{task.number(value['mae'], 3)}{unit}"
    yield "  of the expected bin's number", f"{task.number(value['mae_exp'], 3)}{unit}"
    yield "  of the most probable bin's number", f"{task.number(value['mae_max'], 3)}{unit}"
    ratio = f", ratio {value['mae'] / value['mae_constant']:.2f}" if value["mae_constant"] else ""
    constant = task.number(value["mae_constant"], 3)
    yield "  of the best constant (the labels' median)", f"{constant}{unit}{ratio}"
    rmse, bias = task.number(value["rmse"], 3), task.number(value["bias"], 3, sign=True)
    yield "RMSE, bias of the value", f"{rmse}, {bias}{unit}"
    yield "right bin, most probable / expected", f"{bins['acc_max']:.1%} / {bins['acc_exp']:.1%}"
    far = f"{bins['mae_max_index']:.3f} / {bins['mae_exp_index']:.3f} bins"
    yield "  distance from the right bin", far
    yield "value outside the most probable bin", f"{metrics['value_outside_bin']:.1%}"
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
            f"{row['coverage']:.1%} / {task.number(row['mean_width'], 2)}{unit}",
        )
    if not metrics["intervals"]:
        yield "intervals", "none: this model is not calibrated"


def _per_group(rows: list[dict[str, Any]], task: Task) -> Iterator[str]:
    """Yield how groups differ: coverage of the mean group, then the worst groups."""
    measured = rows[0]["coverage"] is not None
    if measured:
        shares = [row["coverage"] for row in rows]
        yield (
            f"{DEFAULT_COVERAGE:.0%} interval over {len(rows)} groups: covers "
            f"{sum(shares) / len(rows):.1%} of the mean group, {min(shares):.1%} of the worst"
        )
    worst = sorted(rows, key=lambda row: (row["coverage"] if measured else 0, -row["mae"]))
    yield from _rows_of("group", worst[:WORST_GROUPS], task)
    if len(rows) > WORST_GROUPS:
        yield f"and {len(rows) - WORST_GROUPS} groups that are better"


def _rows_of(kind: str, rows: list[dict[str, Any]], task: Task) -> Iterator[str]:
    """Yield a table with a line per bin or group; a bin without images shows a dash."""
    forms: list[tuple[str, str, Callable[[float], str]]] = [
        ("MAE", "mae", lambda value: task.number(value, 2)),
        ("bias", "bias", lambda value: task.number(value, 2, sign=True)),
        ("right", "acc_max", "{:.1%}".format),
    ]
    if any(row["coverage"] is not None for row in rows):
        forms += [
            (f"{DEFAULT_COVERAGE:.0%} covers", "coverage", "{:.1%}".format),
            ("mean width", "mean_width", lambda value: task.number(value, 2)),
        ]
    lines = [[kind, "n", *(name for name, _, _ in forms)]]
    for row in rows:
        cells = ("-" if row[key] is None else form(row[key]) for _, key, form in forms)
        lines.append([row[kind], f"{row['n']}", *cells])
    room = WIDTH - sum(2 + max(map(len, part)) for part in list(zip(*lines, strict=True))[1:])
    for line in lines:
        line[0] = cut(line[0], max(room, len(kind)))
    yield from columns(lines, "<".ljust(len(forms) + 2, ">"))
