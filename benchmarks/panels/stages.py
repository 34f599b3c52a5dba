"""Stage stack: where the time of one image goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.bench.plots.plot_rows import in_order, name_lanes, places
from benchmarks.bench.plots.theme import STAGES, Row, Theme, dress, heading, note, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Mean time of an image"


def draw(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """Draw a stacked bar of the stage means per row; together they are the mean total.

    Args:
        axes: Where to draw.
        rows: With "stages_ms", ms per batch.
        theme: How it looks.
    """
    rows = in_order(rows)
    middle = 0.3 if theme.narrow else 0.25
    shown = set()
    for row, y in zip(rows, places(rows), strict=True):
        start = 0.0
        for stage, colour in zip(STAGES, theme.stages, strict=True):
            found = row["stages_ms"].get(stage)
            width = 0.0 if found is None else found["mean"] / row["batch"]
            if width > 0:
                # The edge keeps neighbours apart for eyes that see both colours alike.
                axes.barh(y + middle, width, 0.46, start, color=colour, edgecolor=theme.page,
                          linewidth=0.6)  # fmt: skip
                shown.add(stage)
            start += width
        text = f"{number(start)} ms, {number(row['throughput_img_s'])} img/s"
        note(axes, theme, text, (start, y + middle), right=5)
    name_lanes(axes, rows, theme, middle=middle)
    axes.margins(x=0)
    longest = max(row["stages_ms"]["total"]["mean"] / row["batch"] for row in rows)
    axes.set_xlim(0, longest * (1.85 if theme.narrow else 1.45))  # the rest is for the numbers
    dress(axes, theme, grid="x")
    axes.set_xlabel("ms per image", fontsize=theme.size - 1, color=theme.soft)
    _legend(axes, theme, [stage for stage in STAGES if stage in shown])


def _legend(axes: Axes, theme: Theme, shown: Sequence[str]) -> None:
    """Name the colours above the bars, in the bars' order."""
    from matplotlib.patches import Patch

    patches = [Patch(color=theme.stages[STAGES.index(stage)], label=stage) for stage in shown]
    columns = 3 if theme.narrow else len(shown)
    lines = -(-len(shown) // columns)
    # matplotlib fills column by column; readers go line by line
    patches = [patch for column in range(columns) for patch in patches[column::columns]]
    axes.legend(handles=patches, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1),
                frameon=False, fontsize=theme.size - 1, labelcolor=theme.ink, handlelength=0.9,
                handleheight=0.9, handletextpad=0.4, columnspacing=1.1, borderpad=0,
                borderaxespad=0.5)  # fmt: skip
    heading(axes, theme, TITLE, "", lift=(lines - 1) * 15)
