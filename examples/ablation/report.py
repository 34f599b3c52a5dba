"""Table and picture of an ablation's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.ablation.methods import METHODS
from examples.ablation.scenes import TASKS

_INK, _PALE, _DOT, _OURS = "#333333", "#cccccc", "#56b4e9", "#d55e00"  # Okabe-Ito
Column = npt.NDArray[np.float64]


def column(report: dict[str, Any], task: str, shots: int, method: str, measure: str) -> Column:
    """Return one measure of a method, (seeds,); an untrained one has a single number."""
    results, seeds = report["results"], range(report["size"]["seeds"])
    if not METHODS[method].trained:
        shots, seeds = report["size"]["shots"][0], range(1)
    return np.array([results[f"{task}/{shots}/{method}/{seed}"][measure] for seed in seeds])


def table(report: dict[str, Any]) -> str:
    """Return Markdown: MAE per training set as mean ± standard deviation over seeds."""
    shots, lines = report["size"]["shots"], []
    for task in TASKS.values():
        lines += [
            f"**{task.name}** ({task.unit}, {task.bin_edges[0]:g} to {task.bin_edges[-1] - 1:g}): "
            "MAE; right coarse bin and 90 % interval with the full set",
            "",
            "| method | "
            + " | ".join(_named(k) for k in shots)
            + " | right bin | coverage | width |",
            "|---" * (len(shots) + 4) + "|",
        ]
        best = [
            min(METHODS, key=lambda m: column(report, task.name, k, m, "mae").mean()) for k in shots
        ]
        for key, method in METHODS.items():
            cells = [
                _spread(column(report, task.name, k, key, "mae"), bold=key == winner)
                for k, winner in zip(shots, best, strict=True)
            ]
            right, coverage, width = (
                column(report, task.name, shots[-1], key, measure).mean()
                for measure in ("bin_accuracy", "coverage", "interval_width")
            )
            cells += [f"{right:.1%}", f"{coverage:.1%}", f"{width:.1f}"]
            lines.append(f"| {method.label} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _named(shots: int) -> str:
    return f"{shots}-shot" if shots else "full"


def _spread(numbers: Column, *, bold: bool) -> str:
    text = f"{numbers.mean():.2f}"
    if len(numbers) > 1:
        text += f" ± {numbers.std(ddof=1):.2f}"
    return f"**{text}**" if bold else text


def save_plot(path: Path, report: dict[str, Any], *, kind: str) -> None:
    """Draw one panel per task and training set, a row per method, a dot per seed.

    Args:
        path: File to write.
        report: What `ablation.py` measured.
        kind: "png" or "svg".
    """
    from matplotlib.figure import Figure

    shots = report["size"]["shots"]
    trained = [key for key, method in METHODS.items() if method.trained]
    figure = Figure(figsize=(3.6 * len(shots) + 2, 3.1 * len(TASKS) + 0.6), layout="constrained")
    panels = figure.subplots(len(TASKS), len(shots), sharey=True, squeeze=False)
    for row, task in zip(panels, TASKS.values(), strict=True):
        for axes, k in zip(row, shots, strict=True):
            for y, key in enumerate(trained):
                numbers = column(report, task.name, k, key, "mae")
                colour = _OURS if key.startswith("numclip") else _DOT
                axes.plot(numbers, [y] * len(numbers), "o", ms=4, mew=0, alpha=0.6, color=colour)
                axes.plot([numbers.mean()] * 2, [y - 0.3, y + 0.3], lw=2.5, color=colour)
                axes.annotate(
                    f"{numbers.mean():.2f}",
                    (1, y),
                    xycoords=("axes fraction", "data"),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=_INK,
                )
            axes.set_title(f"{task.name}, {_named(k)}", loc="left", fontsize=10, color=_INK)
            axes.set_xlabel(f"test MAE, {task.unit}", fontsize=9, color=_INK)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color(_PALE)
            axes.tick_params(length=0, labelsize=9, labelcolor=_INK)
            axes.grid(axis="x", color=_PALE, lw=0.5)
            axes.set_axisbelow(True)
        row[0].set_yticks(range(len(trained)), [METHODS[key].label for key in trained])
        row[0].set_ylim(len(trained) - 0.5, -0.5)
    figure.suptitle(
        f"Same small CLIP, same pictures, {report['size']['seeds']} seeds (dots; bar: mean)",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=_INK,
    )
    figure.savefig(path, format=kind, dpi=150, facecolor="white")
