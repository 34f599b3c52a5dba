"""Where a panel's axes lie in its part of the figure: margins in inches, room for all names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.bench.plots import curve_panels as batches
from benchmarks.bench.plots import plot_rows as lanes
from benchmarks.bench.plots import row_panels as distribution
from benchmarks.bench.plots.theme import Row, Theme, names_of
from benchmarks.panels import fidelity, stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

NAMES = ("distribution", "stages", "batches", "fidelity")
_LETTER = 0.56 / 72  # inches per point of size: a letter's mean width
_TOP, _BOTTOM, _EDGE = 0.78, 0.55, 0.15
_CURVES = 3.6  # inches: what is inside a panel without lanes, at least


def filled(rows: Sequence[Row]) -> list[str]:
    """Return, of NAMES, the panels that the rows have data for."""
    has = {"batches": batches.has_data, "fidelity": fidelity.has_data}
    return [name for name in NAMES if name not in has or has[name](rows)]


def height(name: str, rows: Sequence[Row], theme: Theme) -> float:
    """Return the inches that a panel needs."""
    return _inside(name, rows, theme) + _top(name, theme) + _BOTTOM


def _inside(name: str, rows: Sequence[Row], theme: Theme) -> float:
    if name in ("distribution", "stages"):
        return lanes.height(rows, theme)
    if name == "batches":  # two lists of names, one below the other
        return max(_CURVES, 2.3 * len(names_of(rows)) * (theme.size + 2) / 72)
    return _CURVES


def _top(name: str, theme: Theme) -> float:
    return _TOP + (0.25 if name == "stages" and theme.narrow else 0)


def draw(cell: Figure | SubFigure, name: str, rows: Sequence[Row], theme: Theme) -> None:
    """Draw one panel into a figure or a part of one.

    Args:
        cell: Has its final size.
        name: Of NAMES.
        rows: Of the document.
        theme: How it looks.
    """
    longest = max(map(len, names_of(rows))) * theme.size * _LETTER
    # What the cell is higher than the panel needs lies below it.
    below = cell.bbox.height / cell.dpi - height(name, rows, theme)
    place = partial(_axes, cell, top=_top(name, theme), bottom=_BOTTOM + max(below, 0))
    if name in ("distribution", "stages"):
        left = 0.05 if theme.narrow else longest + 0.25
        axes = place(left=left, right=0.35)
        (distribution if name == "distribution" else stages).draw(axes, rows, theme)
    elif name == "batches":
        right = longest * (theme.size - 1) / theme.size + 0.15
        upper = place(left=0.62, right=right, part=(0.53, 1))
        lower = place(left=0.62, right=right, part=(0, 0.47))
        batches.draw(upper, lower, rows, theme)
        batches.name_lines(upper, lower, rows, theme)
    else:
        axes = place(left=0.85, right=_EDGE)
        fidelity.draw(axes, rows, theme)
        fidelity.name_dots(axes, rows, theme)


def _axes(
    cell: Figure | SubFigure,
    *,
    left: float,
    right: float,
    top: float,
    bottom: float,
    part: tuple[float, float] = (0, 1),
) -> Axes:
    """Add axes within margins (inches); `part` of the height between them, from the bottom."""
    dpi = cell.dpi
    width, high = cell.bbox.width / dpi, cell.bbox.height / dpi
    inside = high - top - bottom
    low, up = (bottom + inside * end for end in part)
    return cell.add_axes(
        (left / width, low / high, (width - left - right) / width, (up - low) / high)
    )
