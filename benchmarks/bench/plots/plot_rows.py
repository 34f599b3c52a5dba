"""One horizontal strip per row, with its name: the frame of the panels that list all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.bench.plots.theme import Theme
from benchmarks.bench.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_INCHES, ROW_INCHES_NARROW = 0.46, 0.78
HEAD = 0.5  # of a row, for the heading of a batch size


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
    """Write the rows' names, and the batch sizes above their groups.

    Args:
        axes: Where to write; its y range is set.
        rows: As `in_order` returns them.
        theme: How it looks.
        middle: Of the bar over a baseline, where a name beside it stands.
    """
    baselines = baselines_of(rows)
    axes.set_ylim(baselines[-1] - 0.12, -0.05)
    axes.set_yticks([])
    left = axes.get_yaxis_transform()
    for i, (row, y) in enumerate(zip(rows, baselines, strict=True)):
        if theme.narrow:
            axes.text(0, y + 0.8, row.name, transform=left, va="center", color=theme.ink,
                      fontsize=theme.size)  # fmt: skip
        else:
            axes.annotate(row.name, (0, y + middle), (-8, 0), xycoords=left, va="center",
                          textcoords="offset points", ha="right", color=theme.ink,
                          fontsize=theme.size, annotation_clip=False)  # fmt: skip
        if i == 0 or row.batch != rows[i - 1].batch:
            up, right, ha = (1.2, 0, "left") if theme.narrow else (1.08, -8, "right")
            axes.annotate(f"batch {row.batch}", (0, y + up), (right, 0), xycoords=left,
                          textcoords="offset points", va="center", ha=ha, color=theme.soft,
                          fontsize=theme.size - 1, fontweight="bold",
                          annotation_clip=False)  # fmt: skip
            axes.axhline(y + 1 + HEAD - 0.12, color=theme.line, linewidth=0.8)
