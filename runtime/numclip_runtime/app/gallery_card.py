"""The parts of the HTML report: a card per image, tables, and the bar over the gallery."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from numclip_runtime.predictor import Prediction
from numclip_runtime.results.thumbnail import escape, thumbnail
from numclip_runtime.task import Task, as_written

NARROWEST, DIGIT = 150, 7  # CSS pixels of the bars on a telephone, and of a digit under them
MANY_BINS = 24  # from this number on, bars touch each other, and the highest fills the height


def card(
    path: str | os.PathLike[str],
    prediction: Prediction,
    label: float | None,
    task: Task,
    image: Image.Image | None = None,
) -> str:
    """Return the content of a card as HTML; the thumbnail is of `image`, else of the file."""
    unit = f" <small>{escape(prediction.unit)}</small>" if prediction.unit else ""
    facts = ""
    if label is not None:
        error = abs(prediction.value - label)
        facts += f'<p class="facts">true <b>{task.number(label)}</b> · '
        facts += f"error <b>{task.number(error)}</b></p>\n"
    if prediction.interval is not None:
        low, high = prediction.interval
        facts += f'<p class="facts">interval <b>{task.number(low)} to {task.number(high)}</b></p>\n'
    probability = prediction.bin_probs.get(prediction.bin, math.nan)
    name = escape(Path(path).name)
    return "\n".join(
        (
            f'<div class="thumb">{thumbnail(path, image)}</div>',
            f'<p class="value">{task.number(prediction.value)}{unit}</p>',
            facts + _bars(prediction, task),
            _axis(prediction, label, task),
            f'<p class="bin"><b>{probability:.0%}</b> {escape(prediction.bin)}</p>',
            f'<p class="name" title="{escape(os.fspath(path))}">{name}</p>',
        )
    )


def edges_of(task: Task) -> list[float]:
    """Return the K + 1 bin edges in label units."""
    return [edge + task.label_offset for edge in task.bin_edges]


def _bars(prediction: Prediction, task: Task) -> str:
    """Return K bars of equal width, as high as the probability, tooltips on each."""
    probs = [prediction.bin_probs.get(phrase, 0.0) for phrase in task.phrases]
    full = max(*probs, 1e-9) if task.num_bins >= MANY_BINS else 1.0
    bars = []
    for phrase, p in zip(task.phrases, probs, strict=True):
        best = ' class="best"' if phrase == prediction.bin else ""
        bars.append(f'<i{best} style="--p:{p / full:.1%}" title="{escape(phrase)}: {p:.1%}"></i>')
    top = sorted(zip(probs, task.phrases, strict=True), reverse=True)[:3]
    spoken = ", ".join(f"{escape(phrase)} {p:.0%}" for p, phrase in top)
    many = " many" if task.num_bins >= MANY_BINS else ""
    return (
        f'<div class="bars{many}" role="img" aria-label="Most probable bins: {spoken}">'
        f"{''.join(bars)}</div>"
    )


def _axis(prediction: Prediction, label: float | None, task: Task) -> str:
    """Return the number line under the bars: interval, prediction, label, error between them."""
    read = _place(prediction.value, task)
    marks = []
    if prediction.interval is not None:
        low, high = (_place(end, task) for end in prediction.interval)
        marks.append(f'<i class="band" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>')
    if label is not None:
        true = _place(label, task)
        left, width = min(read, true), abs(read - true)
        marks.append(f'<i class="gap" style="left:{left:.1f}%;width:{width:.1f}%"></i>')
        marks.append(f'<i class="mark true" style="left:{true:.1f}%"></i>')
    marks.append(f'<i class="mark read" style="left:{read:.1f}%"></i>')
    return (
        f'<div class="axis" aria-hidden="true">{"".join(marks)}</div>\n'
        f'<div class="ends" aria-hidden="true">{_ticks(task)}</div>'
    )


def _ticks(task: Task) -> str:
    """Return the bin edges as labels, all if they fit: bars of equal width are not a linear scale.

    With the two ends only, 25 years, in the middle of five bars, would look like half of 100.
    """
    labels, count = [as_written(edge) for edge in edges_of(task)], task.num_bins
    if (max(map(len, labels)) + 1) * DIGIT * count > NARROWEST:
        labels = [labels[0], *[""] * (count - 1), labels[-1]]
    return "".join(
        f'<span style="left:{100 * i / count:.1f}%">{label}</span>'
        for i, label in enumerate(labels)
        if label
    )


def _place(value: float, task: Task) -> float:
    """Return where a value (label units) lies over the bars, in percent; the ends if outside."""
    edges = edges_of(task)
    if not value > edges[0]:  # also nan
        return 0.0
    if value >= edges[-1]:
        return 100.0
    i = bisect_right(edges, value) - 1
    return 100 * (i + (value - edges[i]) / (edges[i + 1] - edges[i])) / task.num_bins


def table_row(cells: Sequence[object]) -> str:
    """Return a row of an HTML table; the first cell is its heading."""
    first, *others = cells
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in others)
    return f'<tr><th scope="row">{escape(first)}</th>{rest}</tr>'


def bins_panel(task: Task, found: Sequence[int], true: Sequence[int] | None) -> str:
    """Return the table of the bins.

    Args:
        task: The bins.
        found: Number of images predicted in each bin.
        true: Number of images labelled in each bin; None: there are no labels.
    """
    edges, rows = edges_of(task), []
    for i, phrase in enumerate(task.phrases):
        counts = (found[i], *([] if true is None else [true[i]]))
        rows.append(
            table_row((phrase, f"{as_written(edges[i])} to {as_written(edges[i + 1])}", *counts))
        )
    head = ("Bin", task.unit or "Range", "Predicted", *([] if true is None else ["True"]))
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(rows)
    table = f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    heading = "Bins of the images below"
    if task.num_bins < MANY_BINS:
        return f'<section class="panel bins">\n<h2>{heading}</h2>\n{table}\n</section>'
    return (
        f'<details class="panel bins">\n<summary>{heading} ({task.num_bins})</summary>\n'
        f"{table}\n</details>"
    )


def gallery_bar(*, labelled: bool, intervals: bool) -> str:
    """Return the heading of the gallery, with its choices of order and the key of the marks."""
    lines = ['<div class="bar">\n<h2>Images</h2>']
    if labelled:
        choices = (("value", "prediction"), ("label", "true value"), ("error", "error"))
        lines.append('<fieldset class="sort"><legend>Sort by</legend>')
        for key, word in choices:
            checked = " checked" if key == "value" else ""
            lines.append(
                f'<label for="by-{key}"><input type="radio" name="sort" id="by-{key}"{checked}>'
                f"{word}</label>"
            )
        lines.append("</fieldset>")
    marks = ['<span><i class="mark read"></i>predicted</span>']
    if labelled:
        marks.append('<span><i class="mark true"></i>true</span>')
    if intervals:
        marks.append('<span><i class="band"></i>interval</span>')
    shown = "\n".join(marks)
    return "\n".join((*lines, f'<p class="key">{shown}</p>\n</div>'))
