"""Pictures of a latency run: distribution, stages, batch sizes, speed against fidelity."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from benchmarks.bench.plots.curve_panels import by_name, compared, draw_batches, draw_fidelity
from benchmarks.bench.plots.row_panels import draw_distribution, draw_stages, rows_height
from benchmarks.bench.plots.theme import PAPER, Theme, names_of, stand_ins, with_names
from benchmarks.bench.results import Document, Row
from numclip_runtime.errors import UsageError, require
from numclip_runtime.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_SUFFIXES = (".png", ".svg")
_WIDE, _NARROW = 8.6, 5.1  # inches of a panel at 72 points: 620 and 366 pixels of a page
_CELL = 7.2  # inches: half the width of a saved picture
_LETTER = 0.56 / 72  # inches per point of size: a letter's mean width
_TOP, _BOTTOM = 0.78, 0.55
_SMALL_PRINT = 190  # characters of a line
_CURVES = 3.6  # inches: the inside of a panel of curves, at least


def check_plot(path: Path) -> None:
    """Refuse, before a long run, a file that `save_plot` could not write after it.

    Raises:
        UsageError: if the suffix is neither .png nor .svg.
        MissingDependencyError: if matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path}: cannot plot into this kind of file; use .png or .svg.")
    require("plot", "matplotlib")


def save_plot(document: Document, path: Path) -> None:
    """Draw the panels for which the document has data, on white, two in a line.

    Raises:
        UsageError: if `path` is neither .png nor .svg or cannot be written, or there is no row.
        MissingDependencyError: if matplotlib is not installed.
    """
    check_plot(path)
    rows = _rows(document)
    from matplotlib.figure import Figure

    names = panels_of(rows)
    lines = [names[:2], names[2:]] if names[2:] else [names]
    heights = [max(panel_height(name, rows, PAPER) for name in line) for line in lines]
    with _settings("path"):
        small_print = wrap(_conditions(document), _SMALL_PRINT)
        heights.append(0.15 + 0.15 * len(small_print))
        figure = Figure((2 * _CELL, sum(heights)), dpi=150, facecolor=PAPER.page)
        bands = figure.subfigures(
            len(heights), 1, height_ratios=heights, squeeze=False, hspace=0, wspace=0
        )[:, 0]
        for band, line in zip(bands, lines, strict=False):
            cells = band.subfigures(1, 2, squeeze=False, hspace=0, wspace=0)[0]
            for cell, name in zip(cells, line, strict=False):
                draw_panel(cell, name, rows, PAPER)
        text = "\n".join(small_print)
        bands[-1].text(0.012, 0.5, text, fontsize=8, color=PAPER.soft, va="center")
        with atomic_path(path) as temporary:
            kind = path.suffix.lower()[1:]
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(temporary, format=kind, facecolor=PAPER.page, metadata=metadata)


def panel_svg(document: Document, name: str, *, narrow: bool) -> str:
    """Return a panel of `panels_of` as <svg> that takes its colours from the page around it.

    Raises:
        UsageError: if there is no row.
        MissingDependencyError: if matplotlib is not installed.
    """
    require("plot", "matplotlib")
    rows = _rows(document)
    from matplotlib.figure import Figure

    theme, variables = stand_ins()
    theme = replace(theme, narrow=narrow, size=12.5)
    size = (_NARROW if narrow else _WIDE, panel_height(name, rows, theme))
    with _settings("none"):  # text stays text: it takes the page's font, and can be searched
        figure = Figure(size, facecolor="none", dpi=72)
        draw_panel(figure, name, rows, theme)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for colour, variable in variables.items():
        text = text.replace(colour, variable)
    # Several pictures share a page: their ids must differ.
    prefix = f"{name}-{'narrow' if narrow else 'wide'}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text).replace("url(#", f"url(#{prefix}")
    return text.replace("<svg ", '<svg role="img" ', 1)


def _settings(fonttype: str) -> AbstractContextManager[None]:
    import matplotlib as mpl

    # The salt makes the same document the same file.
    return mpl.rc_context(
        {
            "svg.fonttype": fonttype,
            "svg.hashsalt": "numclip",
            "text.parse_math": False,  # a dollar in a file's name is a dollar
        }
    )


def _rows(document: Document) -> Sequence[Row]:
    if not document.rows:
        raise UsageError("nothing was measured, so there is nothing to draw.")
    return with_names(document.rows, short=True)


def _conditions(document: Document) -> str:
    environment = document.environment
    return "   ".join((environment.cpu, environment.command, environment.date))


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
        return
    right = longest * (theme.size - 1) / theme.size + 0.15
    if name == "batches":
        upper = place(left=0.62, right=right, part=(0.53, 1))
        lower = place(left=0.62, right=right, part=(0, 0.47))
        draw_batches(upper, lower, rows, theme)
    else:
        draw_fidelity(place(left=0.85, right=right), rows, theme)


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
    width, high = cell.bbox.width / cell.dpi, cell.bbox.height / cell.dpi
    inside = high - top - bottom
    low, up = (bottom + inside * end for end in part)
    return cell.add_axes(
        (left / width, low / high, (width - left - right) / width, (up - low) / high)
    )
