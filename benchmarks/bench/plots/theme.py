"""Colours and sizes of the pictures, and small helpers that all panels share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from benchmarks.bench.results import STAGES, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 38  # characters of a name in a picture


@dataclass(frozen=True)
class Theme:
    """Colours and sizes of a picture."""

    ink: str  # text
    soft: str  # small print, axes
    line: str  # grid
    page: str  # background, and the gap between the parts of a bar
    fill: str  # histograms
    tail: str  # p99
    stages: tuple[str, ...]  # one per stage
    series: tuple[str, ...]  # lines and points of one name, in turn
    size: float = 10  # of text, points
    narrow: bool = False  # for a telephone: names above their bars, not beside them


# Okabe and Ito's colours, which all eyes distinguish; yellow is darker here, for white paper.
PAPER = Theme(
    ink="#1d2733",
    soft="#5a6675",
    line="#e3e7ec",
    page="#ffffff",
    fill="#a9bdd6",
    tail="#c24e00",
    stages=("#e69f00", "#56b4e9", "#cc79a7", "#0072b2", "#999999", "#009e73"),
    series=("#0072b2", "#d55e00", "#008f68", "#b5609a", "#2a9ad6", "#a87900", "#444444"),
)
MARKERS = "osD^vPXp"  # one more than `series` has colours: 56 names look different


def stand_ins() -> tuple[Theme, dict[str, str]]:
    """Return a theme of colours that stand for the page's, and the page's variable of each.

    A page replaces them in the SVG text, and can then change its colours with light and dark.
    """
    names: dict[str, str] = {}

    def stand_in(name: str) -> str:
        colour = f"#0101{len(names) + 1:02x}"
        names[colour] = f"var(--{name})"
        return colour

    single = {name: stand_in(name) for name in ("ink", "soft", "line", "panel", "fill", "tail")}
    single["page"] = single.pop("panel")
    stages = tuple(stand_in(f"stage-{stage}") for stage in STAGES)
    series = tuple(stand_in(f"series-{i}") for i in range(len(PAPER.series)))
    return replace(PAPER, **single, stages=stages, series=series), names  # type: ignore[arg-type]


def label_number(value: float) -> str:
    """Format with 3 digits, or all of them before the decimal point."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def names_of(rows: Sequence[Row]) -> list[str]:
    """Return the different names, in the order of the rows."""
    return list(dict.fromkeys(row.name for row in rows))


def with_names(rows: Sequence[Row], *, short: bool = False) -> list[Row]:
    """Return the rows with names that are printable and different where the rows are.

    Several models measured in one run have the same names: then the model's comes first. Short
    names are cut to LONGEST in the middle, for their ends distinguish them.
    """
    seen = Counter((row.name, row.batch) for row in rows)
    several = any(count > 1 for count in seen.values())
    named = []
    for row in rows:
        model = f"{row.model.partition('.')[0]} " if several else ""
        name = "".join(c if c.isprintable() else " " for c in f"{model}{row.name}")
        if short and len(name) > LONGEST:
            name = f"{name[: LONGEST - 16]}…{name[-15:]}"
        named.append(replace(row, name=name))
    return named


def heading(axes: Axes, theme: Theme, title: str, remark: str, *, lift: float = 0) -> None:
    """Write title and remark above the axes, from the panel's left; `lift` is in points."""
    for text, up, size, weight, colour in (
        (title, 26, theme.size + 2, "bold", theme.ink),
        (remark, 10, theme.size - 1, "normal", theme.soft),
    ):
        axes.annotate(
            text,
            (6, 1),
            (0, up + lift),
            xycoords=("subfigure points", "axes fraction"),
            textcoords="offset points",
            va="bottom",
            color=colour,
            fontsize=size,
            fontweight=weight,
            annotation_clip=False,
        )


def dress(axes: Axes, theme: Theme, *, grid: Literal["x", "both"]) -> None:
    """Give axes the theme's colours: a pale grid, no frame."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    axes.tick_params(
        which="both", color=theme.line, labelcolor=theme.soft, length=0, labelsize=theme.size - 1
    )
    axes.grid(axis=grid, color=theme.line, linewidth=0.8)
    axes.set_axisbelow(True)


def note(
    axes: Axes,
    theme: Theme,
    text: str,
    at: tuple[float, float],
    *,
    right: float = 0,
    up: float = 0,
    ha: Literal["left", "right", "center"] = "left",
    va: Literal["center", "bottom", "top"] = "center",
    color: str | None = None,
) -> None:
    """Write small text beside a data point, `right` and `up` points away from it."""
    axes.annotate(
        text,
        at,
        (right, up),
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=theme.size - 1,
        color=color or theme.ink,
    )
