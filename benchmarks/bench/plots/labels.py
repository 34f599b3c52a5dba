"""Names written beside points and line ends, moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.bench.plots.theme import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart as little as needed, at least `gap` between neighbours.

    They stay between `low` and `high`; if there is too little room, the gap shrinks.
    """
    count = len(wanted)
    gap = min(gap, (high - low) / max(count - 1, 1))
    order = sorted(range(count), key=lambda i: wanted[i])
    # Clusters of labels that touch; each sits centred on what its members want.
    clusters: list[tuple[list[int], float]] = []
    for i in order:
        members, start = [i], min(max(wanted[i], low), high)
        while clusters and clusters[-1][1] + len(clusters[-1][0]) * gap > start:
            members = clusters.pop()[0] + members
            middle = sum(wanted[j] for j in members) / len(members)
            start = middle - gap * (len(members) - 1) / 2
            start = min(max(start, low), high - gap * (len(members) - 1))
        clusters.append((members, start))
    places = [0.0] * count
    for members, start in clusters:
        for k, i in enumerate(members):
            places[i] = start + k * gap
    return places


def name_line_ends(
    axes: Axes,
    ends: Sequence[tuple[float, float]],
    names: Sequence[str],
    colours: Sequence[str],
    theme: Theme,
) -> None:
    """Write names to the right of the axes, each beside its line's end, with a thin leader.

    `ends` are (x, y) in data; limits and position of the axes must be final.
    """
    box = axes.get_window_extent()
    dots = axes.figure.dpi / 72
    wanted = [float(axes.transData.transform(end)[1]) for end in ends]
    ys = spread(wanted, (theme.size + 2) * dots, box.y0, box.y1)
    for end, name, colour, y in zip(ends, names, colours, ys, strict=True):
        at = (1.0, (y - box.y0) / box.height)
        axes.annotate(
            name,
            end,
            at,
            xycoords="data",
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=theme.size - 1,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.5,
                "shrinkA": 0,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )
