"""A picture of the monitor's measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench.plots.theme import MARKERS, PAPER


def save_monitor_plot(path: Path, report: dict[str, Any], *, kind: str) -> None:
    """Draw the images that each change took, and the false alarms.

    Args:
        path: File to write.
        report: Of `benchmarks/monitor.py`.
        kind: "png" or "svg".
    """
    from matplotlib.figure import Figure

    sets = report["sets"]
    keys = [key for key in sets[0]["changes"] if key != "none"]
    figure = Figure((11.5, 5.2), dpi=150, facecolor=PAPER.page, layout="constrained")
    changes, alarms = figure.subplots(1, 2, width_ratios=(3, 1.15))
    for number, result in enumerate(sets):
        shift = 0.18 * (number - (len(sets) - 1) / 2)
        colour = PAPER.series[number]
        for place, key in enumerate(keys):
            found = result["changes"][key]
            y = len(keys) - 1 - place - shift
            images = found["images"]
            if images:
                low, middle, high = np.quantile(images, (0.05, 0.5, 0.95))
                changes.plot((low, high), (y, y), color=colour, linewidth=1.5)
                changes.plot(middle, y, MARKERS[number], color=colour, markersize=5)
            missed = found["trials"] - found["found"] - found["early"]
            if missed:
                note = f"{missed} of {found['trials']} not found"
                changes.text(
                    1.01,
                    y,
                    note,
                    transform=changes.get_yaxis_transform(),
                    color=colour,
                    fontsize=6.5,
                    va="center",
                )
        changes.plot([], [], MARKERS[number], color=colour, label=_label(result))
    changes.set_xscale("log")
    changes.set_yticks(
        range(len(keys)), [sets[0]["changes"][key]["label"] for key in reversed(keys)]
    )
    changes.set_xlabel("images from the change to its notice: median, 5 to 95 % of the streams")
    changes.grid(axis="x", color=PAPER.line)
    changes.legend(loc="upper right", fontsize=7.5, frameon=True)
    changes.set_title("How soon a change is noticed", loc="left", fontsize=11)
    _draw_alarms(alarms, report)
    for axes in (changes, alarms):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(path, format=kind)


def _label(result: dict[str, Any]) -> str:
    name, images = result["name"], result["images"]
    model = name if name == images else f"model {name} on {images}"
    return f"{model}, reference of {result['reference_images']}"


def _draw_alarms(axes: Any, report: dict[str, Any]) -> None:
    for number, streams in enumerate(report["long_streams"]):
        rates = [float(rate) for rate in streams["shares"]]
        axes.plot(
            [100 * rate for rate in rates],
            [100 * share for share in streams["shares"].values()],
            "o-",
            color=PAPER.stages[3 - number],
            markersize=4,
            label=f"{streams['streams']:,} streams of {streams['images']:,},\n"
            f"reference of {streams['reference']}",
        )
    for number, result in enumerate(report["sets"]):
        resampled = result["resampled"]
        axes.plot(
            100 * report["false_alarm_rate"],
            100 * resampled["false_alarms"] / resampled["sets"],
            MARKERS[number],
            color=PAPER.series[number],
            markersize=5,
            clip_on=False,
            zorder=3,
        )
    axes.plot((0, 11), (0, 11), "--", color=PAPER.soft, linewidth=1, label="as stated")
    axes.set_xlim(0, 11)
    axes.set_ylim(0, 11)
    axes.set_xlabel("stated rate, % of runs")
    axes.set_ylabel("false alarms, % of runs")
    axes.legend(loc="upper left", fontsize=7, frameon=False)
    axes.set_title("False alarms", loc="left", fontsize=11)
