"""The HTML report: one stand-alone page that shows what a model reads off images.

No script, no external resource: thumbnails are data URIs, and a content security policy in the page
forbids everything else, so that a report can be mailed or opened from an untrusted folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_text
from numclip_runtime.predictor import Prediction
from numclip_runtime.report_card import MANY_BINS, card, edges_of, escape
from numclip_runtime.task import Task

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class ReportEntry:
    """One image of a report."""

    path: str | os.PathLike[str]  # shown, and read for the thumbnail
    result: Prediction | str  # what the model read, or why it failed
    label: float | None = None  # true number, in label units; None if not known
    preview: str | None = None  # `thumbnail` of what is in no file of its own: a video's frame

    @property
    def prediction(self) -> Prediction | None:
        """The prediction; None if the image failed."""
        return self.result if isinstance(self.result, Prediction) else None

    @property
    def error(self) -> float:
        """Absolute difference of prediction and label, in label units; nan if not known."""
        if self.label is None or self.prediction is None:
            return math.nan
        return abs(self.prediction.value - self.label)


def write_report(
    path: Path,
    entries: Sequence[ReportEntry],
    *,
    title: str,
    task: Task,
    summary: Sequence[tuple[str, str]] = (),
    figure_svg: str | None = None,
) -> None:
    """Write one HTML page: summary, figure, bins, a card per image, failed images.

    Cards are sorted by predicted value; with labels, the reader can also sort by label or error.

    Args:
        path: File to write; appears only when complete.
        entries: Images, in any order.
        title: Heading of the page.
        task: Bins, phrases and unit of the predictions.
        summary: Rows (what, value) of the table on top.
        figure_svg: SVG document to show under the summary, inserted as it is (the caller's own,
            not foreign text); may use the page's `currentColor`, `var(--accent)`, `var(--truth)`.

    Raises:
        UsageError: if `figure_svg` holds no <svg> element, or `path` cannot be written.
    """
    page = _Page(
        task,
        read=[entry for entry in entries if entry.prediction is not None],
        failed=[entry for entry in entries if entry.prediction is None],
    )
    figure = None if figure_svg is None else _only_svg(figure_svg)
    with atomic_text(path) as file:
        for part in page.parts(title, summary, figure):
            file.write(part + "\n")


def _only_svg(text: str) -> str:
    """Cut off what an SVG file has around its root, such as XML and DOCTYPE declarations."""
    start, end = text.find("<svg"), text.rfind("</svg>")
    if not 0 <= start < end:
        raise UsageError("figure_svg: expected the text of an SVG file, found no <svg> element.")
    return text[start : end + len("</svg>")]


@dataclass(frozen=True)
class _Page:
    task: Task
    read: list[ReportEntry]  # with a prediction
    failed: list[ReportEntry]

    @property
    def labelled(self) -> bool:
        return any(entry.label is not None for entry in self.read)

    def parts(
        self, title: str, summary: Sequence[tuple[str, str]], figure: str | None
    ) -> Iterator[str]:
        """Yield the page piece by piece: it holds one thumbnail in memory at a time."""
        style = resources.files("numclip_runtime").joinpath("report.css").read_text("utf-8")
        yield (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>"
        )
        lead = f"{escape(self.task.name)} · {len(self.read)} image{'s' * (len(self.read) != 1)}"
        if self.failed:
            lead += f' · <a href="#failed">{len(self.failed)} failed</a>'
        yield f'<header>\n<h1>{escape(title)}</h1>\n<p class="lead">{lead}</p>\n</header>'
        yield '<div class="overview">'
        if summary:
            table = _table(summary)
            yield f'<section class="panel summary">\n<h2>Summary</h2>\n{table}\n</section>'
        if figure is not None:
            yield f'<figure class="panel figure">\n{figure}\n</figure>'
        yield self._bins()
        yield "</div>"
        yield from self._gallery()
        if self.failed:
            reasons = [(os.fspath(entry.path), entry.result) for entry in self.failed]
            yield (
                '<section class="panel failed" id="failed">\n<h2>Failed images</h2>\n'
                f"{_table(reasons)}\n</section>"
            )
        yield "</main>\n</body>\n</html>"

    def _bins(self) -> str:
        task, edges = self.task, edges_of(self.task)
        found = [e.prediction.bin for e in self.read if e.prediction]
        labels = [task.bin_of(e.label) for e in self.read if e.label is not None]
        rows: list[tuple[object, ...]] = []
        for i, phrase in enumerate(task.phrases):
            counts = (found.count(phrase), *([labels.count(i)] if self.labelled else []))
            rows.append((phrase, f"{edges[i]:.6g} to {edges[i + 1]:.6g}", *counts))
        head = ("Bin", task.unit or "Range", "Predicted", *(["True"] if self.labelled else []))
        table = _table(rows, head=head)
        heading = "Bins of the images below"
        if task.num_bins < MANY_BINS:
            return f'<section class="panel bins">\n<h2>{heading}</h2>\n{table}\n</section>'
        return (
            f'<details class="panel bins">\n<summary>{heading} ({task.num_bins})</summary>\n'
            f"{table}\n</details>"
        )

    def _gallery(self) -> Iterator[str]:
        yield '<div class="bar">\n<h2>Images</h2>'
        if self.labelled:
            choices = (("value", "prediction"), ("label", "true value"), ("error", "error"))
            yield '<fieldset class="sort"><legend>Sort by</legend>'
            for key, word in choices:
                checked = " checked" if key == "value" else ""
                yield (
                    f'<label for="by-{key}"><input type="radio" name="sort" id="by-{key}"{checked}>'
                    f"{word}</label>"
                )
            yield "</fieldset>"
        key = '<span><i class="mark read"></i>predicted</span>'
        if self.labelled:
            key += '\n<span><i class="mark true"></i>true</span>'
        if any(entry.prediction and entry.prediction.interval for entry in self.read):
            key += '\n<span><i class="band"></i>interval</span>'
        yield f'<p class="key">{key}</p>\n</div>\n<ul class="gallery">'
        by_label = _ranks(self.read, lambda e: math.nan if e.label is None else e.label)
        by_error = _ranks(self.read, lambda e: -e.error)
        by_value = _ranks(self.read, _value)
        for i in sorted(range(len(self.read)), key=by_value.__getitem__):
            entry = self.read[i]
            assert entry.prediction is not None
            order = f"--by-value:{by_value[i]};--by-label:{by_label[i]};--by-error:{by_error[i]}"
            yield f'<li class="card" style="{order}">'
            yield card(entry.path, entry.prediction, entry.label, self.task, entry.preview)
            yield "</li>"
        yield "</ul>"


def _value(entry: ReportEntry) -> float:
    return math.nan if entry.prediction is None else entry.prediction.value


def _ranks(entries: list[ReportEntry], key: Callable[[ReportEntry], float]) -> list[int]:
    """Return each entry's place in ascending order of `key`; nan comes last."""
    keys = [key(entry) for entry in entries]
    order = sorted(range(len(keys)), key=lambda i: (math.isnan(keys[i]), keys[i]))
    ranks = [0] * len(keys)
    for place, i in enumerate(order):
        ranks[i] = place
    return ranks


def _table(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Return an HTML table; the first cell of each row is the row's heading."""
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    top = f"<thead><tr>{heads}</tr></thead>\n" if head else ""
    return f"<table>{top}<tbody>\n" + "\n".join(lines) + "\n</tbody></table>"
