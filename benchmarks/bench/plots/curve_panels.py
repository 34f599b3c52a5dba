"""The two panels of curves and points: batch sizes, and speed against fidelity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.bench.plots.labels import name_line_ends
from benchmarks.bench.plots.theme import MARKERS, Theme, dress, heading, label_number, names_of
from benchmarks.bench.results import TOTAL, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NINES = 6.0  # a cosine of float32 resolves no more


def by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each name by batch size."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.batch):
        groups.setdefault(row.name, []).append(row)
    return groups


def _throughput(row: Row) -> float:
    return row.throughput_img_s


def _latency(row: Row) -> float:
    return row.stages_ms[TOTAL].p50


def _colour(theme: Theme, rows: Sequence[Row], name: str) -> str:
    return theme.series[names_of(rows).index(name) % len(theme.series)]


def _marker(rows: Sequence[Row], name: str) -> str:
    return MARKERS[names_of(rows).index(name) % len(MARKERS)]


def draw_batches(upper: Axes, lower: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Draw throughput (img/s) above latency (p50 of the total, ms), one line per name."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    groups = by_name(rows)
    sizes = sorted({row.batch for row in rows})
    colours = [_colour(theme, rows, name) for name in groups]
    for axes, value in ((upper, _throughput), (lower, _latency)):
        for (name, group), colour in zip(groups.items(), colours, strict=True):
            axes.plot(
                [row.batch for row in group],
                [value(row) for row in group],
                color=colour,
                linewidth=1.6,
                markersize=5,
                marker=_marker(rows, name),
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlim(sizes[0] / 1.12, sizes[-1] * 1.12)
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: label_number(value)))
        dress(axes, theme, grid="both")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("images per batch", fontsize=theme.size - 1, color=theme.soft)
    upper.set_ylabel("images/s", fontsize=theme.size - 1, color=theme.soft)
    lower.set_ylabel("p50, ms per batch", fontsize=theme.size - 1, color=theme.soft)
    title = "Throughput and latency by batch size"
    heading(upper, theme, title, "of the whole path, one batch after the other")
    for axes, value in ((upper, _throughput), (lower, _latency)):  # now the layout is final
        ends = [(float(group[-1].batch), value(group[-1])) for group in groups.values()]
        name_line_ends(axes, ends, list(groups), colours, theme)


def compared(rows: Sequence[Row]) -> list[Row]:
    """Return one row per name, of the smallest batch, with an MAE where two have one."""
    found = [group[0] for group in by_name(rows).values()]
    found.sort(key=lambda row: names_of(rows).index(row.name))
    by_error = [row for row in found if row.mae is not None]
    return by_error if len(by_error) > 1 else [row for row in found if _nines(row) is not None]


def _nines(row: Row) -> float | None:
    """Return how many nines the lowest cosine has: 3 for 0.999."""
    if row.fidelity is None or row.fidelity.cosine_min is None:
        return None
    off = 1 - row.fidelity.cosine_min
    return _MOST_NINES if off <= 10**-_MOST_NINES else max(-math.log10(off), 0.0)


def draw_fidelity(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Draw one named point per name: images/s to the right, agreement (or accuracy) upwards."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    points = compared(rows)
    errors = [row.mae.mae for row in points if row.mae is not None]
    by_error = len(errors) == len(points)
    ys = errors if by_error else [n for row in points if (n := _nines(row)) is not None]
    colours = [_colour(theme, rows, row.name) for row in points]
    for row, y, colour in zip(points, ys, colours, strict=True):
        axes.plot(
            row.throughput_img_s,
            y,
            color=colour,
            marker=_marker(rows, row.name),
            markersize=7,
            linestyle="",
        )
    axes.set_xscale("log")
    speeds = [row.throughput_img_s for row in points]
    axes.set_xlim(min(speeds) / 1.6, max(speeds) * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: label_number(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlabel(f"images/s, batch {points[0].batch}", fontsize=theme.size - 1, color=theme.soft)
    if by_error:
        room = 0.2 * max(max(ys) - min(ys), 0.05 * max(ys), 1e-9)
        axes.set_ylim(max(ys) + room, min(ys) - room)  # less is better, and better is up
        heading(axes, theme, "Speed against error", "mean absolute error; up and right is better")
    else:
        low, high = math.floor(min(ys) - 0.3), math.ceil(_MOST_NINES)
        axes.set_ylim(low - 0.1, high + 1.2)  # room for names above the best
        ticks = range(max(low, 0), high + 1)
        axes.set_yticks(ticks, [_cosine(nines) for nines in ticks])
        axes.axhline(3, color=theme.soft, linewidth=0.9, dashes=(4, 3))
        what = "lowest cosine" + ("" if theme.narrow else " of centred features, dashed at 0.999")
        heading(axes, theme, "Speed against fidelity", f"{what}; up and right is better")
    dress(axes, theme, grid="both")
    places = list(zip(speeds, ys, strict=True))  # now the layout is final
    name_line_ends(axes, places, [row.name for row in points], colours, theme)


def _cosine(nines: int) -> str:
    if nines == 0:
        return "0"
    return "1" if nines >= _MOST_NINES else f"0.{'9' * nines}"
