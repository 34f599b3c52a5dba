"""The picture of `numclip-eval`: numbers, bins, probabilities and intervals on one page."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from numclip.evaluation.metrics import confusion, covered, interval_metrics, reliability
from numclip.evaluation.predictions import Predictions
from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe-Ito: blue, vermilion, green; safe for all eyes
_BLUE, _RED, _GREEN = "#0072b2", "#d55e00", "#009e73"
_INK, _SOFT, _PALE = "#222222", "#777777", "#e6e6e6"
MANY_BINS = 12  # from here on, bins go without names and counts
MANY_IMAGES = 600  # more bars would hide each other; the numbers are still of all images


def save_plot(path: Path, found: Predictions, *, title: str = "") -> None:
    """Draw the four panels into a PNG file.

    Args:
        path: File to write; appears only when complete.
        found: At least one image.
        title: Small print, such as names of model and data.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 11), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)  # inches
    panels = figure.subplots(2, 2).ravel()
    draw_scatter(panels[0], found)
    draw_confusion(panels[1], found)
    draw_coverage(panels[2], found)
    draw_reliability(panels[3], found)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(_PALE)
        axes.tick_params(color=_PALE, labelcolor=_INK, labelsize=9)
        axes.set_axisbelow(True)
    if title:
        figure.supxlabel(title, fontsize=8, color=_SOFT)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def draw_scatter(axes: Axes, found: Predictions) -> None:
    """Draw predicted against true numbers, with the 90 % interval of each image as a bar."""
    unit = f" {found.task.unit}" if found.task.unit else ""
    calibration = found.calibration
    mae = np.abs(found.values - found.labels).mean()
    note = f"MAE {found.task.number(mae, 2)}{unit}, {len(found.labels)} images"
    shown = np.linspace(0, len(found.labels) - 1, min(MANY_IMAGES, len(found.labels))).astype(int)
    colours = np.full(len(found.labels), _BLUE)
    if calibration is not None and DEFAULT_COVERAGE in calibration.coverages:
        ends = found.intervals(DEFAULT_COVERAGE)
        inside = covered(ends, found.labels)
        colours[~inside] = _RED
        note += (
            f"; bars: {DEFAULT_COVERAGE:.0%} intervals, {inside.mean():.1%} hold the true number"
        )
        low, high = ends[shown].T
        axes.vlines(found.labels[shown], low, high, color=colours[shown], linewidth=0.8, alpha=0.3)
    axes.scatter(found.labels[shown], found.values[shown], s=12, color=colours[shown], linewidths=0)
    edges = [edge + found.task.label_offset for edge in found.task.bin_edges]
    axes.plot([edges[0], edges[-1]], [edges[0], edges[-1]], color=_INK, linewidth=1, dashes=(5, 4))
    if len(edges) <= MANY_BINS:
        axes.set_xticks(edges)
        axes.set_yticks(edges)
    axes.grid(color=_PALE, linewidth=0.8)
    _words(axes, "Value", note, f"true{unit and ',' + unit}", f"predicted{unit and ',' + unit}")


def draw_confusion(axes: Axes, found: Predictions) -> None:
    """Draw the share of each true bin (row) that the model puts into each bin (column)."""
    counts = confusion(found)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto")
    right = np.trace(counts) / counts.sum()
    phrases = found.task.phrases
    if len(phrases) <= MANY_BINS:
        names = ["\n".join(textwrap.wrap(phrase, 14)) for phrase in phrases]
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.55 else _INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=colour)
    axes.tick_params(length=0)
    _words(axes, "Bin", f"{right:.1%} right; shade: share of the row", "predicted", "true")


def draw_coverage(axes: Axes, found: Predictions) -> None:
    """Draw measured against stated coverage of the intervals, over all and in each true bin."""
    rows = interval_metrics(found)
    title, x, y = "Intervals", "stated coverage", "measured coverage"
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, dashes=(5, 4))
    axes.set(xlim=(0.4, 1.02), ylim=(0.4, 1.05))
    axes.grid(color=_PALE, linewidth=0.8)
    if not rows:
        _words(axes, title, "none: this model is not calibrated", x, y)
        return
    stated = [row["stated"] for row in rows]
    inside = [covered(found.intervals(c), found.labels) for c in stated]
    lowest = 0.4
    for k in np.unique(found.bins):
        shares = [float(part[found.bins == k].mean()) for part in inside]
        lowest = min(lowest, *shares)
        axes.plot(stated, shares, color=_SOFT, linewidth=0.8, alpha=0.6)
    measured = [row["coverage"] for row in rows]
    axes.plot(stated, measured, "o-", color=_BLUE, linewidth=1.8, markersize=6)
    for c, share in zip(stated, measured, strict=True):
        axes.annotate(
            f"{share:.1%}",
            (c, share),
            (-6, 6),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=_BLUE,
        )
    axes.set_ylim(min(lowest, *measured) - 0.03, 1.05)
    axes.set_xticks(stated, [f"{c:.0%}" for c in stated])
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    _words(axes, title, "blue: all images; grey: one line per true bin", x, y)


def draw_reliability(axes: Axes, found: Predictions) -> None:
    """Draw accuracy against the probability of the chosen bin; areas follow the image counts."""
    rows = reliability(found.bin_probs, found.bins)
    n, confidence, accuracy = (
        np.array([row[key] for row in rows]) for key in ("n", "confidence", "accuracy")
    )
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, dashes=(5, 4))
    axes.plot(confidence, accuracy, color=_GREEN, linewidth=1)
    axes.scatter(confidence, accuracy, s=20 + 600 * n / n.sum(), color=_GREEN, alpha=0.6)
    for c, a, count in zip(confidence, accuracy, n, strict=True):
        right_of_disc = (6 + 11 * (count / n.sum()) ** 0.5, 0)
        axes.annotate(
            f"{count}",
            (c, a),
            right_of_disc,
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_INK,
        )
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.04))
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(color=_PALE, linewidth=0.8)
    error = float((n * np.abs(accuracy - confidence)).sum() / n.sum())
    note = f"expected calibration error {error:.1%}; numbers: images"
    _words(axes, "Probability of the chosen bin", note, "stated", "right")


def _words(axes: Axes, title: str, note: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK, pad=22)
    axes.text(0, 1.015, note, transform=axes.transAxes, va="bottom", fontsize=9, color=_SOFT)
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
