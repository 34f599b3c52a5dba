"""The HTML report: one stand-alone page with the predictions of a model for images.

No script, no external resource: thumbnails are data URIs, and a content security policy in the page
forbids everything else, so that a report can be mailed or opened from an untrusted folder.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from numclip_runtime.app.gallery_card import bins_panel, card, gallery_bar, table_row
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_text, naming, require_writable
from numclip_runtime.predictor import Prediction
from numclip_runtime.results.thumbnail import escape
from numclip_runtime.task import Task

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class ReportEntry:
    """One image of a report."""

    path: str | os.PathLike[str]  # displayed, and read for the thumbnail
    result: Prediction | str  # or the reason of the failure
    label: float | None = None  # true number, in label units; None if not known
    image: Image.Image | None = None  # if it is not in a file: a video's frame

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
    entries: Iterable[ReportEntry],
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
        summary: Rows (name, value) of the table on top.
        figure_svg: SVG document under the summary, inserted unchanged, so it must be trusted; may
            use the page's `currentColor`, `var(--accent)`, `var(--truth)`.

    Raises:
        UsageError: if `figure_svg` holds no <svg> element, or `path` cannot be written.
    """
    with ReportWriter(path, title=title, task=task) as writer:
        for entry in entries:
            writer.add(entry)
        writer.write(summary, figure_svg)


class ReportWriter:
    """Collect a report image by image; see `write_report`.

    Cards wait in a nameless file beside the report, so that memory holds five numbers per image.

    Args:
        path: File to write; appears only when complete.
        title: Heading of the page.
        task: Bins, phrases and unit of the predictions.
    """

    def __init__(self, path: Path, *, title: str, task: Task) -> None:
        require_writable(path)
        self._path, self._title, self._task = path, title, task
        folder = next(place for place in path.absolute().parents if place.is_dir())
        self._cards, self._failed = SpooledTexts(folder), SpooledTexts(folder)
        self._values, self._labels, self._errors = array("d"), array("d"), array("d")
        self._found, self._true = [0] * task.num_bins, [0] * task.num_bins  # images in each bin
        self._intervals = False

    def add(self, entry: ReportEntry) -> None:
        """Add one image; its file is read for the thumbnail.

        Raises:
            OSError: if the disk is full.
        """
        prediction, task = entry.prediction, self._task
        with naming(self._path):
            if prediction is None:
                self._failed.append(table_row((os.fspath(entry.path), entry.result)))
                return
            self._cards.append(card(entry.path, prediction, entry.label, task, entry.image))
        self._values.append(prediction.value)
        self._labels.append(math.nan if entry.label is None else entry.label)
        self._errors.append(entry.error)
        if prediction.bin in task.phrases:
            self._found[task.phrases.index(prediction.bin)] += 1
        if entry.label is not None:
            self._true[task.bin_of(entry.label)] += 1
        self._intervals |= prediction.interval is not None

    def write(self, summary: Sequence[tuple[str, str]] = (), figure_svg: str | None = None) -> None:
        """Write the page.

        Raises:
            UsageError: if `figure_svg` holds no <svg> element.
            OSError: if the page cannot be written.
        """
        figure = None if figure_svg is None else _only_svg(figure_svg)
        with atomic_text(self._path) as file:
            for part in self._parts(summary, figure):
                file.write(part + "\n")

    def close(self) -> None:
        """Free the disk space of the collected cards."""
        self._cards.close()
        self._failed.close()

    def __enter__(self) -> ReportWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _labelled(self) -> bool:
        return any(self._true)

    def _parts(self, summary: Sequence[tuple[str, str]], figure: str | None) -> Iterator[str]:
        """Yield the page in parts, with one thumbnail in memory at a time."""
        from importlib import resources  # 6 ms of every start, with tempfile

        style = resources.files("numclip_runtime.app").joinpath("gallery.css").read_text("utf-8")
        title, read, failed = escape(self._title), len(self._cards), len(self._failed)
        yield (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>"
        )
        lead = f"{escape(self._task.name)} · {read} image{'s' * (read != 1)}"
        if failed:
            lead += f' · <a href="#failed">{failed} failed</a>'
        yield f'<header>\n<h1>{title}</h1>\n<p class="lead">{lead}</p>\n</header>'
        yield '<div class="overview">'
        if summary:
            rows = "\n".join(map(table_row, summary))
            yield (
                '<section class="panel summary">\n<h2>Summary</h2>\n'
                f"<table><tbody>\n{rows}\n</tbody></table>\n</section>"
            )
        if figure is not None:
            yield f'<figure class="panel figure">\n{figure}\n</figure>'
        yield bins_panel(self._task, self._found, self._true if self._labelled else None)
        yield "</div>"
        yield gallery_bar(labelled=self._labelled, intervals=self._intervals)
        yield from self._gallery()
        if failed:
            yield '<section class="panel failed" id="failed">\n<h2>Failed images</h2>'
            yield "<table><tbody>"
            yield from map(self._failed.read, range(failed))
            yield "</tbody></table>\n</section>"
        yield "</main>\n</body>\n</html>"

    def _gallery(self) -> Iterator[str]:
        labelled = self._labelled
        by_label = _ranks(self._labels) if labelled else []
        by_error = _ranks([-error for error in self._errors]) if labelled else []
        yield '<ul class="gallery">'
        for place, i in enumerate(_order(self._values)):
            order = ""
            if labelled:
                ranks = f"--by-value:{place};--by-label:{by_label[i]};--by-error:{by_error[i]}"
                order = f' style="{ranks}"'
            yield f'<li class="card"{order}>\n{self._cards.read(i)}\n</li>'
        yield "</ul>"


class SpooledTexts:
    """Texts in a nameless file, so that memory stays flat; they are read back in any order.

    Args:
        folder: A folder on the file's disk. Not the system's for temporary files: it may be memory.
    """

    def __init__(self, folder: Path) -> None:
        import tempfile  # 3 ms of every start

        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Add a text."""
        content = text.encode("utf-8", "backslashreplace")
        self._file.seek(self._ends[-1])
        self._file.write(content)
        self._ends.append(self._ends[-1] + len(content))

    def read(self, index: int) -> str:
        """Return the text with this index."""
        start, end = self._ends[index], self._ends[index + 1]
        self._file.seek(start)
        return self._file.read(end - start).decode()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def close(self) -> None:
        """Delete the file."""
        with suppress(OSError):  # a full disk: the rest of the buffer cannot be written
            self._file.close()


def _only_svg(text: str) -> str:
    """Return the root element of an SVG file, without XML and DOCTYPE declarations."""
    start, end = text.find("<svg"), text.rfind("</svg>")
    if not 0 <= start < end:
        raise UsageError("figure_svg: expected the text of an SVG file, found no <svg> element.")
    return text[start : end + len("</svg>")]


def _order(keys: Sequence[float]) -> list[int]:
    """Return the indices in ascending order of keys; nan is last."""
    return sorted(range(len(keys)), key=lambda i: (math.isnan(keys[i]), keys[i]))


def _ranks(keys: Sequence[float]) -> list[int]:
    """Return each key's place in `_order`."""
    ranks = [0] * len(keys)
    for place, i in enumerate(_order(keys)):
        ranks[i] = place
    return ranks
