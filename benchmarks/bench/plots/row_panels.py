"""Latency distribution: a histogram of all batches, and the tail batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.bench.plots.plot_rows import in_order, name_lanes, places
from benchmarks.bench.plots.theme import Row, Theme, dress, heading, note, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Total latency of a batch"
_HIGH = 0.42  # of a lane: the histogram's highest bar


def draw(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Draw one lane per row, on shared logarithmic bins.

    Args:
        axes: Where to draw.
        rows: With "total_ms_samples", ms per batch.
        theme: How it looks.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    rows = in_order(rows)
    samples = [np.asarray(row["total_ms_samples"], float) for row in rows]
    low, high = (float(f([f(times) for times in samples])) for f in (np.min, np.max))
    edges = np.geomspace(low / 1.02, high * 1.02, 90)
    for row, times, y in zip(rows, samples, places(rows), strict=True):
        counts, _ = np.histogram(times, edges)
        # A few long runs must not flatten the rest, so the root of the counts is drawn.
        bars = np.sqrt(counts / counts.max())
        axes.stairs(_HIGH * bars + y, edges, baseline=y, fill=True, color=theme.fill)
        total = row["stages_ms"]["total"]
        p50, p99, slowest = total["p50"], total["p99"], total["max"]
        # In the tail a bar of one batch is too low to see: there each batch has a mark.
        tail = times[times >= total["p95"]]
        axes.vlines(tail, y - 0.03, y + 0.13, color=theme.tail, linewidth=0.9)
        axes.vlines([p50], y - 0.03, y + 0.5, color=theme.ink, linewidth=1.4)
        axes.vlines([p99], y - 0.03, y + 0.5, color=theme.tail, linewidth=1.4)
        note(axes, theme, f"p50 {number(p50)}", (p50, y + 0.5), right=-3, ha="right")
        note(axes, theme, f"p99 {number(p99)}", (p99, y + 0.5), right=3, color=theme.tail)
        note(axes, theme, f"max {number(slowest)}", (slowest, y + 0.06), right=4)
    name_lanes(axes, rows, theme, middle=0.25)
    axes.set_xscale("log")
    reach = high / low
    room = (0.34, 0.36) if theme.narrow else (0.13, 0.16)  # for the numbers beyond both ends
    axes.set_xlim(low / max(reach, 1.3) ** room[0], high * max(reach, 1.3) ** room[1])
    subs: tuple[float, ...] = (1, 2, 5) if reach > 20 or theme.narrow else (1, 1.5, 2, 3, 5, 7)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if theme.narrow and reach > 30 else subs))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    dress(axes, theme, grid="x")
    axes.set_xlabel("ms, logarithmic", fontsize=theme.size - 1, color=theme.soft)
    remark = "square root of the counts; a mark for each batch beyond p95, none left out"
    heading(axes, theme, TITLE, remark if not theme.narrow else "a mark for each batch beyond p95")
