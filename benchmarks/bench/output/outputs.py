"""The output of a run: text, the comparison with an older run, and files opened beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench.output.page import write_html
from benchmarks.bench.output.table import KEY, conditions, markdown, number, text_table, write_csv
from benchmarks.bench.plots.picture import check_plot, save_plot
from benchmarks.bench.results import Document, Row, Startup, write_json
from numclip_runtime.errors import require
from numclip_runtime.files import atomic_path

# Fields that identify a row; a changed file hash is reported instead
_SAME = ("name", "kind", "model", "backend", "precision", "batch", "threads")
_MACHINE = ("cpu", "logical_cores", "platform", "python", "numclip")


@dataclass(frozen=True)
class OutputFiles:
    """Files to write; None: not asked for."""

    json: Path | None = None
    csv: Path | None = None
    markdown: Path | None = None
    plot: Path | None = None
    report: Path | None = None


def open_outputs(stack: ExitStack, outputs: OutputFiles) -> dict[str, Path]:
    """Open the files; they appear under their names when the stack closes without an error.

    Returns fields of `OutputFiles` -> temporary file beside the asked one.

    Raises:
        UsageError: if a path cannot be written.
        MissingDependencyError: if a picture or the page is asked for without matplotlib.
    """
    if outputs.plot is not None:
        check_plot(outputs.plot)
    if outputs.report is not None:
        require("plot", "matplotlib")
    asked = {kind: path for kind, path in vars(outputs).items() if path is not None}
    return {kind: stack.enter_context(atomic_path(path)) for kind, path in asked.items()}


def write_outputs(document: Document, paths: dict[str, Path]) -> None:
    """Write to the files of `open_outputs`."""
    for kind, path in paths.items():
        if kind == "plot":
            save_plot(document, path)
        elif kind == "report":
            write_html(document, path)
        elif kind == "markdown":
            path.write_text(markdown(document.rows) + "\n", "utf-8")
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                (write_json if kind == "json" else write_csv)(file, document)


def summary(document: Document, older: tuple[str, Document] | None) -> str:
    """Return the text that a run prints: conditions, table, warnings, notes, comparison.

    `older` is the file name of an older run, and the run.
    """
    rows = document.rows
    parts = [text_table(rows), KEY] if rows else ["nothing could be measured."]
    if document.startup is not None:
        parts += ["Process start to first prediction:", *_startup(document.startup)]
    parts += [f"Warning: {warning}" for warning in document.state.warnings]
    parts += [f"Note: {note}" for note in document.notes]
    if older is not None:
        parts.append("\n".join(comparison(document, older[1], name=older[0])))
    return f"{conditions(document.environment)}\n\n" + "\n".join(parts)


def _startup(starts: Mapping[str, Startup]) -> Iterator[str]:
    width = max(map(len, starts))
    for name, took in starts.items():
        yield (
            f"  {name.ljust(width)}  {took.median:.2f} s ({took.min:.2f} to {took.max:.2f}, "
            f"{took.n} processes), of these imports {took.import_s:.2f} s; peak "
            f"{number(took.peak_host_mb)} MB"
        )


def comparison(new: Document, old: Document, *, name: str) -> list[str]:
    """Return the change of each row, and the differences of the environment, as lines.

    `name` is that of the old run's file.
    """
    before = {_key(row): row for row in old.rows}
    lines = []
    for row in new.rows:
        other = before.get(_key(row))
        if other is None:
            continue
        parts = []
        for stage in ("inference", "total"):
            was, now = (each.stages_ms[stage].p50 for each in (other, row))
            parts.append(
                f"{stage} {number(was)} -> {number(now)} ms ({was / now:.2f} times as fast)"
            )
        changed = "" if row.sha256 == other.sha256 else "; another file of this name"
        lines.append(f"{row.name}, batch {row.batch}: {', '.join(parts)}{changed}")
    if not lines:
        return [f"compared with {name}: no row is in both."]
    return [f"Compared with {name}, p50:", *lines, *_differences(new, old)]


def _key(row: Row) -> tuple[object, ...]:
    return tuple(getattr(row, field) for field in _SAME)


def _differences(new: Document, old: Document) -> list[str]:
    now, then = new.environment, old.environment
    pairs = [(field, getattr(then, field), getattr(now, field)) for field in _MACHINE]
    for package in sorted({*now.versions, *then.versions}):
        was, is_now = (each.versions.get(package, "absent") for each in (then, now))
        pairs.append((package, was, is_now))
    found = [
        f"Note: {what}: {was} then, {is_now} now." for what, was, is_now in pairs if was != is_now
    ]
    if now.images != then.images:
        found.append("Note: the images were others.")
    return [*found, *(f"Note: then: {warning}" for warning in old.state.warnings)]
