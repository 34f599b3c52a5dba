"""Place of a panel's axes in its part of the figure: margins in inches, room for all names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.bench.plots.curve_panels import by_name, compared, draw_batches, draw_fidelity
from benchmarks.bench.plots.plot_rows import rows_height
from benchmarks.bench.plots.row_panels import draw_distribution, draw_stages
from benchmarks.bench.plots.theme import Theme, names_of
from benchmarks.bench.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_LETTER = 0.56 / 72  # inches per point of size: a letter's mean width
_TOP, _BOTTOM, _EDGE = 0.78, 0.55, 0.15
_CURVES = 3.6  # inches: the inside of a panel of curves, at least


def panels_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of the panels that the rows have data for."""
    found = ["distribution", "stages"]
    if any(len(group) > 1 for group in by_name(rows).values()):
        found.append("batches")
    return [*found, "fidelity"] if len(compared(rows)) > 1 else found


def panel_height(name: str, rows: Sequence[Row], theme: Theme) -> float:
    """Return the inches that a panel needs."""
    inside = _CURVES
    if name in ("distribution", "stages"):
        inside = rows_height(rows, theme)
    elif name == "batches":  # two lists of names, one below the other
        inside = max(_CURVES, 2.3 * len(names_of(rows)) * (theme.size + 2) / 72)
    return inside + _top(name, theme) + _BOTTOM


def _top(name: str, theme: Theme) -> float:
    return _TOP + (0.25 if name == "stages" and theme.narrow else 0)


def draw_panel(cell: Figure | SubFigure, name: str, rows: Sequence[Row], theme: Theme) -> None:
    """Draw one panel of `panels_of` into a figure, or a part of one, of its final size."""
    longest = max(map(len, names_of(rows))) * theme.size * _LETTER
    # The cell may be higher than the panel: the rest lies below it.
    below = cell.bbox.height / cell.dpi - panel_height(name, rows, theme)
    place = partial(_axes, cell, top=_top(name, theme), bottom=_BOTTOM + max(below, 0))
    if name in ("distribution", "stages"):
        axes = place(left=0.05 if theme.narrow else longest + 0.25, right=0.35)
        (draw_distribution if name == "distribution" else draw_stages)(axes, rows, theme)
    elif name == "batches":
        right = longest * (theme.size - 1) / theme.size + 0.15
        upper = place(left=0.62, right=right, part=(0.53, 1))
        lower = place(left=0.62, right=right, part=(0, 0.47))
        draw_batches(upper, lower, rows, theme)
    else:
        draw_fidelity(place(left=0.85, right=_EDGE), rows, theme)


def _axes(
    cell: Figure | SubFigure, *, left: float, right: float, top: float, bottom: float,
    part: tuple[float, float] = (0, 1),
) -> Axes:  # fmt: skip
    """Add axes within margins (inches); `part` of the height between them, from the bottom."""
    width, high = cell.bbox.width / cell.dpi, cell.bbox.height / cell.dpi
    inside = high - top - bottom
    low, up = (bottom + inside * end for end in part)
    return cell.add_axes(
        (left / width, low / high, (width - left - right) / width, (up - low) / high)
    )
