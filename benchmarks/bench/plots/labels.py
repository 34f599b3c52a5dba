"""Names written at points and line ends, moved apart where they would overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from benchmarks.bench.plots.theme import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart as little as needed, at least `gap` between neighbours.

    Args:
        wanted: Positions in any order.
        gap: Smallest distance.
        low: Lowest position allowed.
        high: Highest; if there is too little room, the gap shrinks.

    Returns:
        New positions, in the order of `wanted`.
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
    axes: Axes, ends: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str],
    theme: Theme,
) -> None:  # fmt: skip
    """Write names to the right of the axes, each beside its line's end, with a thin leader.

    Args:
        axes: Its limits and position must be final.
        ends: (x, y) of the lines' ends, data.
        names: One per line.
        colours: Likewise.
        theme: How it looks.
    """
    box = axes.get_window_extent()
    dots = axes.figure.dpi / 72
    wanted = [float(axes.transData.transform(end)[1]) for end in ends]
    ys = spread(wanted, (theme.size + 2) * dots, box.y0, box.y1)
    for end, name, colour, y in zip(ends, names, colours, ys, strict=True):
        at = (1.0, (y - box.y0) / box.height)
        axes.annotate(name, end, at, xycoords="data", textcoords="axes fraction", va="center",
                      color=colour, fontsize=theme.size - 1, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6,
                                  "alpha": 0.5, "shrinkA": 0, "shrinkB": 4,
                                  "relpos": (0, 0.5)})  # fmt: skip


_Side = tuple[int, int, Literal["left", "right", "center"]]


def _sides() -> list[_Side]:
    """Return places for a name: points right and up, and the text's end there; nearest first."""
    sides: list[_Side] = [(8, 0, "left"), (-8, 0, "right")]
    for up in (15, -15, 30, -30, 45, -45, 60, -60):
        sides += [(0, up, "center"), (8, up, "left"), (-8, up, "right")]
    return sides


def name_points(
    axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str],
    colours: Sequence[str], theme: Theme,
) -> None:  # fmt: skip
    """Write names beside points, on the first side where nothing else is.

    Args:
        axes: Its limits and position must be final.
        points: (x, y), data.
        names: One per point.
        colours: Likewise.
        theme: How it looks.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    dots = axes.figure.dpi / 72
    frame = axes.get_window_extent().padded(6 * dots)
    pixels = [axes.transData.transform(point) for point in points]
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in pixels]
    for point, name, colour in zip(points, names, colours, strict=True):
        best: tuple[float, Annotation, Bbox] | None = None
        for rank, (right, up, ha) in enumerate(_sides()):
            text = axes.annotate(name, point, (right, up), textcoords="offset points", ha=ha,
                                 va="center", fontsize=theme.size - 1, color=colour,
                                 annotation_clip=False,
                                 arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6,
                                             "alpha": 0.5, "shrinkA": 0, "shrinkB": 3})  # fmt: skip
            text.get_window_extent()  # settles its position
            box = Text.get_window_extent(text)  # without the leader
            # Touching anything is worse than any side; of bad places, the least covered one.
            covered = [_overlap(box, other) for other in taken]
            cost = rank + 50 * sum(part > 0 for part in covered) + 100 * sum(covered)
            cost += 300 * (1 - _overlap(box, frame))
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
        assert best is not None
        taken.append(best[2])


def _overlap(one: Bbox, other: Bbox) -> float:
    """Return the share of the first box that lies in the second."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(width, 0) * max(height, 0) / (one.width * one.height))
