"""Pictures of a latency run: distribution, stages, batch sizes, speed against fidelity."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from benchmarks.bench.plots.layout import draw_panel, panel_height, panels_of
from benchmarks.bench.plots.theme import PAPER, stand_ins, with_names
from benchmarks.bench.results import Document, Row
from numclip_runtime.errors import UsageError, require
from numclip_runtime.files import atomic_path

_SUFFIXES = (".png", ".svg")
_WIDE, _NARROW = 8.6, 5.1  # inches of a panel at 72 points: 620 and 366 pixels of a page
_CELL = 7.2  # inches: half the width of a saved picture


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

    Args:
        document: With at least one row.
        path: File ending in .png or .svg; appears only when complete.

    Raises:
        UsageError: if the suffix is another, there is no row, or the file cannot be written.
        MissingDependencyError: if matplotlib is not installed.
    """
    check_plot(path)
    rows = _rows(document)
    from matplotlib.figure import Figure

    names = panels_of(rows)
    lines = [names[:2], names[2:]] if names[2:] else [names]
    heights = [max(panel_height(name, rows, PAPER) for name in line) for line in lines]
    with _settings("path"):
        figure = Figure((2 * _CELL, sum(heights) + 0.3), dpi=150, facecolor=PAPER.page)
        bands = figure.subfigures(
            len(lines) + 1, 1, height_ratios=[*heights, 0.3], squeeze=False, hspace=0, wspace=0
        )[:, 0]
        for band, line in zip(bands, lines, strict=False):
            cells = band.subfigures(1, 2, squeeze=False, hspace=0, wspace=0)[0]
            for cell, name in zip(cells, line, strict=False):
                draw_panel(cell, name, rows, PAPER)
        bands[-1].text(0.012, 0.5, _conditions(document), fontsize=8, color=PAPER.soft)
        with atomic_path(path) as temporary:
            kind = path.suffix.lower()[1:]
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(temporary, format=kind, facecolor=PAPER.page, metadata=metadata)


def panel_svg(document: Document, name: str, *, narrow: bool) -> str:
    """Return one panel as an <svg> element that takes its colours from the page around it.

    Args:
        document: With at least one row.
        name: Of `panels_of`.
        narrow: Draw for a telephone.

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
