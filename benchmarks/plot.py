"""Picture of a latency run: distribution of the total, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.stages import STAGES, TOTAL, Row
from numclip_runtime.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
_STAGE_COLOURS = ("#e69f00", "#56b4e9", "#0072b2", "#999999")  # Okabe-Ito: safe for all eyes
_INK, _PALE, _FILL, _TAIL = "#333333", "#bbbbbb", "#9db8d2", "#d55e00"
_MIDDLE = 0.22  # of a row, whose baseline is at 0 and whose histogram ends at 0.5


def check_plot(path: Path) -> None:
    """Refuse, before a long run, what `save_plot` could not write after it.

    Raises:
        UsageError: if the suffix is neither .png nor .svg.
        MissingDependencyError: if matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: cannot plot into this kind of file; use .png or .svg.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "matplotlib is not installed; install it with: pip install 'numclip[plot]'"
        ) from None


def save_plot(path: Path, rows: Sequence[Row], *, kind: str, note: str = "") -> None:
    """Draw one line of the picture per row, first row on top.

    Args:
        path: File to write.
        rows: Measured rows, at least 1.
        kind: "png" or "svg".
        note: Machine and conditions, for the small print.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.7 + 0.9 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    _draw_distributions(left, rows)
    _draw_stages(right, rows)
    left.set_yticks([_MIDDLE - y for y in range(len(rows))], [_label(row) for row in rows])
    left.set_ylim(-len(rows) + 0.72, 0.8)
    for axes, title in ((left, "Total latency of a batch"), (right, "Mean time of an image")):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=22)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_PALE)
        axes.tick_params(which="both", color=_PALE, labelcolor=_INK, labelsize=9)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("ms", fontsize=9, color=_INK)
    if note:
        figure.supxlabel(note, fontsize=8, color="#777777")
    figure.savefig(path, format=kind, dpi=150)


def _label(row: Row) -> str:
    return f"{row.model}\n{row.backend} {row.precision}, batch {row.batch}"


def _draw_distributions(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw a histogram of all timed batches per row, on shared logarithmic bins."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    totals = [row.timings.stages[TOTAL] for row in rows]
    low = min(float(times.min()) for times in totals)
    high = max(float(times.max()) for times in totals)
    edges = np.geomspace(low / 1.02, high * 1.02, 80)
    for y, times in enumerate(totals):
        counts, _ = np.histogram(times, edges)
        axes.stairs(0.5 * counts / counts.max() - y, edges, baseline=-y, fill=True, color=_FILL)
        # One mark per batch as well: in the tail, a bar of one batch is too low to see.
        axes.plot(times, np.full(len(times), -y - 0.06), "|", color=_INK, ms=5, mew=0.6, alpha=0.5)
        p50, p99 = np.percentile(times, [50, 99]).tolist()
        slowest = float(times.max())
        axes.vlines([p50, p99], -y - 0.12, -y + 0.55, color=[_INK, _TAIL], linewidth=1.4)
        _note(axes, f"p50 {_number(p50)}", (p50, -y + 0.58), ha="right", va="bottom")
        _note(axes, f"p99 {_number(p99)}", (p99, -y + 0.58), ha="left", va="bottom", color=_TAIL)
        _note(axes, f"max {_number(slowest)}", (slowest, -y - 0.06), 5, ha="left")
    axes.set_xscale("log")
    reach = float(edges[-1] / edges[0])
    axes.set_xlim(edges[0] / reach**0.14, edges[-1] * reach**0.17)  # room for the numbers
    wide = reach > 20
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else (1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.text(0, 1.02, "histogram, and one mark per timed batch; logarithmic axis",
              transform=axes.transAxes, va="bottom", fontsize=8, color="#777777")  # fmt: skip


def _draw_stages(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw a stacked bar of the stage means per image; they add up to the mean total."""
    for y, row in enumerate(rows):
        start = 0.0
        for stage, colour in zip(STAGES, _STAGE_COLOURS, strict=True):
            width = float(row.timings.stages[stage].mean()) / row.batch
            label = stage if y == 0 else "_nolegend_"
            axes.barh(_MIDDLE - y, width, 0.44, start, color=colour, label=label)
            start += width
        rate = f"{_number(row.timings.throughput_img_s)} img/s"
        _note(axes, rate, (start, _MIDDLE - y), 5, ha="left")
    axes.margins(x=0.22)
    axes.set_xlim(left=0)
    axes.legend(ncols=len(STAGES), loc="lower left", bbox_to_anchor=(0, 1), frameon=False,
                fontsize=8, labelcolor=_INK, handlelength=1, handleheight=1,
                columnspacing=1.2, borderpad=0, borderaxespad=0.3)  # fmt: skip


def _number(value: float) -> str:
    """Format with 3 digits, or all of them before the decimal point."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _note(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    right: float = 0,
    *,
    ha: Literal["left", "right"],
    va: Literal["center", "bottom"] = "center",
    color: str = _INK,
) -> None:
    """Write small text at a data point, or `right` points to the right of it."""
    axes.annotate(
        text,
        at,
        (right, 0),
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=8,
        color=color,
    )
