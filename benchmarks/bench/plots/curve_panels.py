"""Batch-size curve: what a larger batch gains in throughput and costs in latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.bench.plots.labels import name_line_ends
from benchmarks.bench.plots.theme import MARKERS, Row, Theme, dress, heading, names_of, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Throughput and latency by batch size"


def has_data(rows: Sequence[Row]) -> bool:
    """Return whether any name was measured at two batch sizes."""
    return any(len(group) > 1 for group in _groups(rows).values())


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["batch"]):
        groups.setdefault(row["name"], []).append(row)
    return groups


def _throughput(row: Row) -> float:
    return float(row["throughput_img_s"])


def _latency(row: Row) -> float:
    return float(row["stages_ms"]["total"]["p50"])


def draw(upper: Axes, lower: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Draw throughput above latency, one line per name.

    Args:
        upper: For throughput, img/s.
        lower: For latency, p50 of the total, ms per batch.
        rows: All; names with one batch size are a point.
        theme: How it looks.
    """
    groups, names = _groups(rows), names_of(rows)
    for axes, value in ((upper, _throughput), (lower, _latency)):
        for name, group in groups.items():
            i = names.index(name)
            axes.plot([row["batch"] for row in group], [value(row) for row in group],
                      color=theme.series[i % len(theme.series)], linewidth=1.6, markersize=5,
                      marker=MARKERS[i % len(MARKERS)])  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        sizes = sorted({row["batch"] for row in rows})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlim(sizes[0] / 1.12, sizes[-1] * 1.12)
        _tick_few(axes)
        dress(axes, theme, grid="both")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("images per batch", fontsize=theme.size - 1, color=theme.soft)
    upper.set_ylabel("images/s", fontsize=theme.size - 1, color=theme.soft)
    lower.set_ylabel("p50, ms per batch", fontsize=theme.size - 1, color=theme.soft)
    heading(upper, theme, TITLE, "of the whole path, one batch after the other")


def name_lines(upper: Axes, lower: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Write the names at the lines' right ends, once the layout is final."""
    groups, names = _groups(rows), names_of(rows)
    colours = [theme.series[names.index(name) % len(theme.series)] for name in groups]
    last = [group[-1] for group in groups.values()]
    for axes, value in ((upper, _throughput), (lower, _latency)):
        ends = [(row["batch"], value(row)) for row in last]
        name_line_ends(axes, ends, list(groups), colours, theme)


def _tick_few(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
