"""Speed against fidelity: what faster ways cost in agreement, or in error on labelled images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.bench.plots.labels import name_points
from benchmarks.bench.plots.theme import MARKERS, Row, Theme, dress, heading, names_of, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NINES = 6.0  # a cosine of float32 says no more


def chosen(rows: Sequence[Row]) -> list[Row]:
    """Return one row per name, of the smallest batch, with an MAE where two have one."""
    smallest: dict[str, Row] = {}
    for row in rows:
        kept = smallest.get(row["name"])
        if kept is None or row["batch"] < kept["batch"]:
            smallest[row["name"]] = row
    found = list(smallest.values())
    by_error = [row for row in found if row["mae"] is not None]
    return by_error if len(by_error) > 1 else [row for row in found if _nines(row) is not None]


def has_data(rows: Sequence[Row]) -> bool:
    """Return whether there are two points to compare."""
    return len(chosen(rows)) > 1


def _nines(row: Row) -> float | None:
    """Return how many nines the lowest cosine has: 3 for 0.999."""
    if row["fidelity"] is None or row["fidelity"]["cosine_min"] is None:
        return None
    off = 1 - float(row["fidelity"]["cosine_min"])
    return _MOST_NINES if off <= 10**-_MOST_NINES else max(-math.log10(off), 0.0)


def draw(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Draw one point per name: images/s to the right, agreement upwards.

    Args:
        axes: Where to draw.
        rows: All.
        theme: How it looks.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator

    points, names = chosen(rows), names_of(rows)
    by_error = all(row["mae"] is not None for row in points)
    ys = _heights(points)
    for row, y in zip(points, ys, strict=True):
        i = names.index(row["name"])
        axes.plot(row["throughput_img_s"], y, color=theme.series[i % len(theme.series)],
                  marker=MARKERS[i % len(MARKERS)], markersize=7, linestyle="")  # fmt: skip
    axes.set_xscale("log")
    speeds = [row["throughput_img_s"] for row in points]
    axes.set_xlim(min(speeds) / 1.6, max(speeds) * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlabel(f"images/s, batch {points[0]['batch']}", fontsize=theme.size - 1,
                    color=theme.soft)  # fmt: skip
    if by_error:
        room = 0.2 * max(max(ys) - min(ys), 0.05 * max(ys), 1e-9)
        axes.set_ylim(max(ys) + room, min(ys) - room)  # less is better, and better is up
        heading(axes, theme, "Speed against error", "mean absolute error; up and right is better")
    else:
        low, high = math.floor(min(ys) - 0.3), math.ceil(_MOST_NINES)
        axes.set_ylim(low - 0.1, high + 1.2)  # room for names above the best
        axes.set_yticks(
            range(max(low, 0), high + 1), [_cosine(n) for n in range(max(low, 0), high + 1)]
        )
        axes.axhline(3, color=theme.soft, linewidth=0.9, dashes=(4, 3))
        what = "lowest cosine" + ("" if theme.narrow else " of centred features, dashed at 0.999")
        heading(axes, theme, "Speed against fidelity", f"{what}; up and right is better")
    dress(axes, theme, grid="both")


def _heights(points: Sequence[Row]) -> list[float]:
    if all(row["mae"] is not None for row in points):
        return [float(row["mae"]["mae"]) for row in points]
    return [nines for row in points if (nines := _nines(row)) is not None]


def _cosine(nines: int) -> str:
    if nines == 0:
        return "0"
    return "1" if nines >= _MOST_NINES else f"0.{'9' * nines}"


def name_dots(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Write the names beside the points, once the layout is final."""
    points, names = chosen(rows), names_of(rows)
    places = [(row["throughput_img_s"], y) for row, y in zip(points, _heights(points), strict=True)]
    colours = [theme.series[names.index(row["name"]) % len(theme.series)] for row in points]
    name_points(axes, places, [row["name"] for row in points], colours, theme)
