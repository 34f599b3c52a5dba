"""Tables and picture of an ablation's results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from examples.ablation.differences import (
    Column,
    Question,
    column,
    paired,
    questions,
    settings,
    sign_test,
    summarise,
)
from examples.ablation.methods import METHODS
from examples.ablation.run import at_edge
from examples.ablation.scenes import TASKS

_INK, _PALE, _BETTER, _WORSE, _OPEN = "#333333", "#cccccc", "#0072b2", "#d55e00", "#999999"


def table(report: dict[str, Any]) -> str:
    """Return Markdown: the methods on each task, their paired differences, the chosen rates."""
    parts = [level_lines(report), *_methods(report), *_differences(report), *_rates(report)]
    return "\n".join(parts)


def level_lines(report: dict[str, Any]) -> str:
    """Return a line per task about the logits of the pretrained CLIP, and an empty one."""
    lines = [
        f"- Logits of the small CLIP, {name}: mean {level['mean']:.1f}, standard deviation "
        f"{level['deviation']:.1f}, {level['low']:.1f} to {level['high']:.1f}; behind NumCLIP's "
        f"adapter as it starts, mean {level['adapted']:.1f}; rank correlation of its zero-shot "
        f"numbers and the labels {level['order']:.2f}."
        for name, level in report["levels"].items()
    ]
    return "\n".join([*lines, ""])


def _methods(report: dict[str, Any]) -> list[str]:
    shots, lines = report["size"]["shots"], []
    for task in TASKS.values():
        lines += [
            f"**{task.name}** ({task.unit}, {task.bin_edges[0]:g} to {task.bin_edges[-1] - 1:g}): "
            "MAE; with the full set also Spearman's rank correlation of labels with numbers and "
            "with the bins' expectations, right bin, error of the bin, 90 % interval",
            "",
            "| method | "
            + " | ".join(_named(k) for k in shots)
            + " | order of numbers | of bins | right bin | bin error | coverage | width |",
            "|---" * (len(shots) + 7) + "|",
        ]
        best = [
            min(METHODS, key=lambda m: column(report, task.name, k, m, "mae").mean()) for k in shots
        ]
        for key, method in METHODS.items():
            cells = [
                _spread(column(report, task.name, k, key, "mae"), bold=key == winner)
                for k, winner in zip(shots, best, strict=True)
            ]

            def mean(measure: str, key: str = key, task: str = task.name) -> float:
                return float(column(report, task, shots[-1], key, measure).mean())

            cells += [f"{mean(measure):.3f}" for measure in ("spearman", "spearman_bins")]
            cells += [f"{mean('bin_accuracy'):.1%}", f"{mean('mae_max_index'):.3f}"]
            cells += [f"{mean('coverage'):.1%}", f"{mean('interval_width'):.1f}"]
            lines.append(f"| {method.label} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _differences(report: dict[str, Any]) -> list[str]:
    """Return a row per question: in each setting mean and 95 % interval, over all a sign test."""
    places, seeds = settings(report), report["size"]["seeds"]
    lines = [
        f"**Paired differences**: MAE of the first less that of the second, mean ± half of the "
        f"95 % interval over {seeds} seeds; lower MAE, better order of the bins' expectation "
        "and smaller error of the bin in how many pairs of all, with the p of a sign test",
        "",
        "| first / second | "
        + " | ".join(f"{task}, {_named(shots)}" for task, shots in places)
        + " | lower MAE | better order | smaller bin error |",
        "|---" * (len(places) + 4) + "|",
    ]
    for question in questions():
        cells = [str(summarise(paired(report, *place, question, "mae"))) for place in places]
        cells += [
            _signs(sign * _everywhere(report, question, measure))
            for measure, sign in (("mae", 1), ("spearman_bins", -1), ("mae_max_index", 1))
        ]
        lines.append(f"| {question[0]} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _everywhere(report: dict[str, Any], question: Question, measure: str) -> Column:
    return np.concatenate([paired(report, *place, question, measure) for place in settings(report)])


def _signs(differences: Column) -> str:
    below, count, p = sign_test(differences)
    shown = f"p {p:.3f}" if p >= 0.0005 else "p < 0.001"
    return f"{below} of {count} ({shown})" if count else "equal"


def _rates(report: dict[str, Any]) -> list[str]:
    """Return lines that count the chosen rates, and those that lie on the edge of the grid."""
    lines = ["**Rates chosen** (image tower / what is new)", ""]
    for shots in report["size"]["shots"]:
        chosen = [
            tuple(report["results"][f"{task}/{shots}/{key}/0"]["rates"])
            for task in TASKS
            for key, method in METHODS.items()
            if method.trained
        ]
        edge = sum(at_edge(rates, shots) for rates in chosen)
        counts = sorted(Counter(chosen).items())
        counted = ", ".join(f"{image:g} / {head:g}: {n}" for (image, head), n in counts)
        frozen = sum(rates[0] == 0 for rates in chosen)
        lines.append(
            f"- {_named(shots)}: {counted}. Frozen {frozen} of {len(chosen)}; on the edge of the "
            f"grid {edge}."
        )
    return [*lines, ""]


def _named(shots: int) -> str:
    return f"{shots}-shot" if shots else "full"


def _spread(numbers: Column, *, bold: bool) -> str:
    text = f"{numbers.mean():.2f}"
    if np.ptp(numbers) > 0:
        text += f" ± {numbers.std(ddof=1):.2f}"
    return f"**{text}**" if bold else text


def save_plot(path: Path, report: dict[str, Any], *, kind: str) -> None:
    """Draw one panel per task and training set: a row per question, its difference in percent.

    Args:
        path: File to write.
        report: What `compare` measured.
        kind: "png" or "svg".
    """
    from matplotlib.figure import Figure

    asked, places = questions(), settings(report)
    figure = Figure(figsize=(2.6 * len(places) + 3, 0.24 * len(asked) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for axes, (task, shots) in zip(panels, places, strict=True):
        for y, question in enumerate(asked):
            second = column(report, task, shots, question[2], "mae").mean()
            percent = 100 * paired(report, task, shots, question, "mae") / second
            _draw_difference(axes.plot, percent, y)
        axes.axvline(0, color=_INK, lw=0.8)
        axes.set_title(f"{task}, {_named(shots)}", loc="left", fontsize=10, color=_INK)
        axes.set_xlabel("difference of test MAE, %", fontsize=9, color=_INK)
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xticks((-50, -10, -5, 0, 5, 10, 50), ("-50", "-10", "", "0", "", "10", "50"))
        axes.minorticks_off()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_PALE)
        axes.tick_params(length=0, labelsize=8, labelcolor=_INK)
        axes.grid(axis="x", color=_PALE, lw=0.5)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(asked)), [question[0] for question in asked])
    panels[0].set_ylim(len(asked) - 0.5, -0.5)
    figure.suptitle(
        "First against second, same seeds: left of 0 the first has the lower error "
        "(bar: 95 % interval)",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
        color=_INK,
    )
    figure.savefig(path, format=kind, dpi=150, facecolor="white")


def _draw_difference(plot: Callable[..., Any], percent: Column, y: int) -> None:
    """Draw seeds as dots, and the mean's interval in the colour of its verdict."""
    found = summarise(percent)
    sure = abs(found.mean) > found.half
    colour = (_BETTER if found.mean < 0 else _WORSE) if sure else _OPEN
    plot(percent, [y] * len(percent), "o", ms=2.5, mew=0, alpha=0.5, color=colour)
    plot([found.mean], [y], "|", ms=8, mew=2, color=colour)
    if found.half == found.half:
        plot([found.mean - found.half, found.mean + found.half], [y, y], lw=1.5, color=colour)
