"""The two panels with a named strip per row: distribution of the latency, and time per stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.bench.plots.theme import Theme, dress, heading, label_number, note
from benchmarks.bench.results import STAGES, TOTAL, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_INCHES, ROW_INCHES_NARROW = 0.46, 0.78
HEAD = 0.5  # of a row, for the heading of a batch size
_HIGH = 0.42  # of a plot row: the histogram's highest bar


def draw_distribution(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Draw a histogram of all batches per row, on shared logarithmic bins, and the tail."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    rows = in_order(rows)
    samples = [np.asarray(row.total_ms_samples, float) for row in rows]
    low, high = (float(f([f(times) for times in samples])) for f in (np.min, np.max))
    edges = np.geomspace(low / 1.02, high * 1.02, 90)
    for row, times, y in zip(rows, samples, baselines_of(rows), strict=True):
        counts, _ = np.histogram(times, edges)
        # A few long runs must not flatten the rest, so the root of the counts is drawn.
        bars = np.sqrt(counts / counts.max())
        axes.stairs(_HIGH * bars + y, edges, baseline=y, fill=True, color=theme.fill)
        total = row.stages_ms[TOTAL]
        # In the tail a bar of one batch is too low to see: there each batch has a mark.
        tail = times[times >= total.p95]
        axes.vlines(tail, y - 0.03, y + 0.13, color=theme.tail, linewidth=0.9)
        for value, colour in ((total.p50, theme.ink), (total.p99, theme.tail)):
            axes.vlines([value], y - 0.03, y + 0.5, color=colour, linewidth=1.4)
        p50, p99, slowest = map(label_number, (total.p50, total.p99, total.max))
        note(axes, theme, f"p50 {p50}", (total.p50, y + 0.5), right=-3, ha="right")
        note(axes, theme, f"p99 {p99}", (total.p99, y + 0.5), right=3, color=theme.tail)
        note(axes, theme, f"max {slowest}", (total.max, y + 0.06), right=4)
    name_plot_rows(axes, rows, theme, middle=0.25)
    axes.set_xscale("log")
    reach = high / low
    room = (0.34, 0.36) if theme.narrow else (0.19, 0.16)  # for the numbers beyond both ends
    axes.set_xlim(low / max(reach, 1.3) ** room[0], high * max(reach, 1.3) ** room[1])
    subs: tuple[float, ...] = (1, 2, 5) if reach > 20 or theme.narrow else (1, 1.5, 2, 3, 5, 7)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if theme.narrow and reach > 30 else subs))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    dress(axes, theme, grid="x")
    axes.set_xlabel("ms, logarithmic", fontsize=theme.size - 1, color=theme.soft)
    remark = "square root of the counts; a mark for each batch beyond p95, none left out"
    short = "a mark for each batch beyond p95"
    heading(axes, theme, "Total latency of a batch", short if theme.narrow else remark)


def draw_stages(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Draw a stacked bar of the stage means per row, per image; together they are the total."""
    rows = in_order(rows)
    middle = 0.3 if theme.narrow else 0.25
    shown = set()
    for row, y in zip(rows, baselines_of(rows), strict=True):
        start = 0.0
        for stage, colour in zip(STAGES, theme.stages, strict=True):
            found = row.stages_ms.get(stage)
            width = 0.0 if found is None else found.mean / row.batch
            if width > 0:
                # The edge keeps neighbours apart for eyes that see both colours alike.
                axes.barh(
                    y + middle,
                    width,
                    0.46,
                    start,
                    color=colour,
                    edgecolor=theme.page,
                    linewidth=0.6,
                )
                shown.add(stage)
            start += width
        text = f"{label_number(start)} ms, {label_number(row.throughput_img_s)} img/s"
        note(axes, theme, text, (start, y + middle), right=5)
    name_plot_rows(axes, rows, theme, middle=middle)
    axes.margins(x=0)
    longest = max(row.stages_ms[TOTAL].mean / row.batch for row in rows)
    axes.set_xlim(0, longest * (1.85 if theme.narrow else 1.45))  # the rest is for the numbers
    dress(axes, theme, grid="x")
    axes.set_xlabel("ms per image", fontsize=theme.size - 1, color=theme.soft)
    _legend(axes, theme, [stage for stage in STAGES if stage in shown])


def _legend(axes: Axes, theme: Theme, shown: Sequence[str]) -> None:
    """Name the colours above the bars, in the bars' order."""
    from matplotlib.patches import Patch

    patches = [Patch(color=theme.stages[STAGES.index(stage)], label=stage) for stage in shown]
    columns = 3 if theme.narrow else len(shown)
    # matplotlib fills column by column; readers go line by line
    patches = [patch for column in range(columns) for patch in patches[column::columns]]
    axes.legend(
        handles=patches,
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        fontsize=theme.size - 1,
        labelcolor=theme.ink,
        handlelength=0.9,
        handleheight=0.9,
        handletextpad=0.4,
        columnspacing=1.1,
        borderpad=0,
        borderaxespad=0.5,
    )
    lines = -(-len(shown) // columns)
    heading(axes, theme, "Mean time of an image", "", lift=(lines - 1) * 15)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return the rows by batch size; those of one size keep their order."""
    return sorted(rows, key=lambda row: row.batch)


def baselines_of(rows: Sequence[Row]) -> list[float]:
    """Return the baseline of each row, downwards from 0; a new batch size leaves a gap."""
    y, found = 0.0, []
    for i, row in enumerate(rows):
        y -= 1 + (HEAD if i == 0 or row.batch != rows[i - 1].batch else 0)
        found.append(y)
    return found


def rows_height(rows: Sequence[Row], theme: Theme) -> float:
    """Return the inches that the rows need."""
    inches = ROW_INCHES_NARROW if theme.narrow else ROW_INCHES
    return -baselines_of(in_order(rows))[-1] * inches


def name_plot_rows(axes: Axes, rows: Sequence[Row], theme: Theme, *, middle: float) -> None:
    """Set the y range; write the rows' names, and the batch sizes above their groups.

    The rows are as of `in_order`; `middle` is that of a bar over its baseline.
    """
    baselines = baselines_of(rows)
    axes.set_ylim(baselines[-1] - 0.12, -0.05)
    axes.set_yticks([])
    left = axes.get_yaxis_transform()
    for i, (row, y) in enumerate(zip(rows, baselines, strict=True)):
        if theme.narrow:
            axes.text(
                0,
                y + 0.8,
                row.name,
                transform=left,
                va="center",
                color=theme.ink,
                fontsize=theme.size,
            )
        else:
            axes.annotate(
                row.name,
                (0, y + middle),
                (-8, 0),
                xycoords=left,
                va="center",
                textcoords="offset points",
                ha="right",
                color=theme.ink,
                fontsize=theme.size,
                annotation_clip=False,
            )
        if i == 0 or row.batch != rows[i - 1].batch:
            up, right, ha = (1.2, 0, "left") if theme.narrow else (1.08, -8, "right")
            axes.annotate(
                f"batch {row.batch}",
                (0, y + up),
                (right, 0),
                xycoords=left,
                textcoords="offset points",
                va="center",
                ha=ha,
                color=theme.soft,
                fontsize=theme.size - 1,
                fontweight="bold",
                annotation_clip=False,
            )
            axes.axhline(y + 1 + HEAD - 0.12, color=theme.line, linewidth=0.8)
