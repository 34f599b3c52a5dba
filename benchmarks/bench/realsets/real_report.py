"""Table and picture of the results on real image sets."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.bench.realsets.image_sets import SETS, RealSet, Reference
from benchmarks.bench.realsets.methods import METHODS, Method

INK, PALE, SOFT = "#333333", "#cccccc", "#777777"
COLOURS = {"scratch": "#0072b2", "pretrained": "#d55e00", "rival": "#009e73"}  # Okabe-Ito
STARTS = {"scratch": "none", "pretrained": "MobileNetV2"}
Report = dict[str, Any]


def rows_of(report: Report, image_set: RealSet, method: Method) -> list[dict[str, Any]]:
    """Return the results of a method on a set, one per seed; empty where it has not run."""
    prefix = f"{image_set.name}/{method.key}/"
    return [run for key, run in report["results"].items() if key.startswith(prefix)]


def best_reference(image_set: RealSet) -> Reference:
    """Return the reference with the lowest error of the kind that judges the set."""
    return min(image_set.references, key=lambda found: float(getattr(found, image_set.judged_by)))


def table(report: Report) -> str:
    """Return Markdown: a table per set, mean ± standard deviation over seeds, best method first."""
    lines = []
    for image_set in SETS:
        if image_set.name not in report["constants"]:
            continue
        lines += [
            f"### {image_set.name}: {image_set.about}",
            "",
            "| method | weights from | runs | MAE | RMSE | Spearman "
            "| 90 % interval holds, mean over groups | its groups | width |",
            "| :-- | :-- |" + " --: |" * 7,
        ]
        entries: list[tuple[float, str]] = []
        constant = report["constants"][image_set.name]
        cells = ["", f"{constant['mae']:.3f} (median)", f"{constant['rmse']:.3f} (mean)"]
        entries.append((constant[image_set.judged_by], _line("best constant", "", cells)))
        for reference in image_set.references:
            cells = [
                "",
                f"{reference.mae:.3f}",
                f"{reference.rmse:.3f}",
                f"{reference.spearman:.3f}",
            ]
            error = float(getattr(reference, image_set.judged_by))
            entries.append((error, _line(f"{reference.label} (quoted)", "", cells)))
        for method in METHODS:
            if runs := rows_of(report, image_set, method):
                error = float(column(runs, image_set.judged_by).mean())
                entries.append((error, _line(method.label, STARTS[method.start], _cells(runs))))
        lines += [text for _, text in sorted(entries)]
        lines.append("")
    return "\n".join(lines)


def commands(report: Report) -> str:
    """Return Markdown: the command of each method on the first set that it ran on."""
    lines = ["### Commands", ""]
    for method in METHODS:
        runs = [run for each in SETS for run in rows_of(report, each, method)]
        if runs and runs[0].get("command"):
            words = shlex.join(runs[0]["command"])
            lines += [f"**{method.label}**, {STARTS[method.start]}", "", "```", words, "```", ""]
    return "\n".join(lines)


def column(runs: list[dict[str, Any]], measure: str) -> npt.NDArray[np.float64]:
    """Return one measure of each run."""
    return np.array([run[measure] for run in runs], np.float64)


def _cells(runs: list[dict[str, Any]]) -> list[str]:
    figures = [_spread(column(runs, measure)) for measure in ("mae", "rmse", "spearman")]
    cells = [str(len(runs)), *figures]
    if any("coverage" not in run for run in runs):
        return cells
    groups = [share for run in runs for share in run["coverage_by_group"].values()]
    return [
        *cells,
        f"{column(runs, 'coverage').mean():.1%}",
        f"{min(groups):.0%} to {max(groups):.0%}",
        f"{column(runs, 'interval_width').mean():.2f}",
    ]


def _spread(numbers: npt.NDArray[np.float64]) -> str:
    text = f"{numbers.mean():.3f}"
    return text if len(numbers) == 1 else f"{text} ± {numbers.std(ddof=1):.3f}"


def _line(label: str, start: str, cells: list[str]) -> str:
    return "| " + " | ".join([label, start, *cells, *[""] * (7 - len(cells))]) + " |"


def save_real_plot(path: Path, report: Report, *, kind: str) -> None:
    """Draw a panel per set: a row per method, a dot per seed, lines for constant and reference.

    Args:
        path: File to write.
        report: What `real.py` measured.
        kind: "png" or "svg".
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    sets = [image_set for image_set in SETS if image_set.name in report["constants"]]
    methods = [m for m in METHODS if any(rows_of(report, image_set, m) for image_set in sets)]
    figure = Figure(figsize=(4.2 * len(sets) + 2.4, 0.34 * len(methods) + 2.4))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, image_set in zip(panels, sets, strict=True):
        measure = image_set.judged_by
        for y, method in enumerate(methods):
            numbers = column(rows_of(report, image_set, method), measure)
            colour = COLOURS["rival" if method.rival else method.start]
            axes.plot(numbers, [y] * len(numbers), "o", ms=4, mew=0, alpha=0.6, color=colour)
            if len(numbers):
                axes.plot([numbers.mean()] * 2, [y - 0.32, y + 0.32], lw=2.5, color=colour)
        lines = {
            "constant": report["constants"][image_set.name][measure],
            "best reference": float(getattr(best_reference(image_set), measure)),
        }
        ends = sorted(lines.values())
        for (name, x), dashes in zip(lines.items(), ((1, 2), (5, 3)), strict=True):
            axes.axvline(x, color=INK, lw=1, dashes=dashes, zorder=0)
            side = "right" if x == ends[0] else "left"  # the two words do not meet
            axes.text(x, -0.85, f" {name} ", fontsize=8, color=SOFT, ha=side, va="bottom")
        axes.set_title(image_set.name, loc="left", fontsize=11, color=INK, pad=18)
        axes.set_xlabel(f"test {measure.upper()}, {image_set.task.unit}", fontsize=9, color=INK)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(PALE)
        axes.tick_params(length=0, labelsize=9, labelcolor=INK)
        axes.grid(axis="x", color=PALE, lw=0.5)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(methods)), [method.label for method in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.8)
    names = {"scratch": "from scratch", "pretrained": "pretrained tower", "rival": "rivals"}
    marks = [Line2D([], [], ls="", marker="o", color=COLOURS[k], label=names[k]) for k in names]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(
        f"Groups kept apart, up to {report['seeds']} seeds (dots; bar: mean)",
        x=0.01,
        ha="left",
        fontsize=11,
        color=INK,
    )
    figure.savefig(path, format=kind, dpi=130, facecolor="white")
