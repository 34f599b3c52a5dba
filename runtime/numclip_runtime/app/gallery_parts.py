"""The parts of the HTML report around its cards: tables, and the line over the gallery."""

from __future__ import annotations

from collections.abc import Sequence

from numclip_runtime.app.gallery_card import MANY_BINS, edges_of, escape
from numclip_runtime.task import Task


def table_row(cells: Sequence[object]) -> str:
    """Return a row of an HTML table; the first cell is its heading."""
    first, *others = cells
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in others)
    return f'<tr><th scope="row">{escape(first)}</th>{rest}</tr>'


def bins_panel(task: Task, found: Sequence[int], true: Sequence[int] | None) -> str:
    """Return the table of the bins.

    Args:
        task: The bins.
        found: Images predicted to be in each bin.
        true: Images labelled as in each bin; None: there are no labels.
    """
    edges, rows = edges_of(task), []
    for i, phrase in enumerate(task.phrases):
        counts = (found[i], *([] if true is None else [true[i]]))
        rows.append(table_row((phrase, f"{edges[i]:.6g} to {edges[i + 1]:.6g}", *counts)))
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
    """Return the heading of the gallery, with what it can be sorted by and the key of the marks."""
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
