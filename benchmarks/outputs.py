"""The files that a run writes, opened before it measures."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench.output.compare import comparison, read_document
from benchmarks.bench.output.table import KEY, conditions, markdown, table, write_csv, write_json
from benchmarks.first_prediction import lines
from numclip_runtime.files import atomic_path

OUTPUTS = ("json", "csv", "markdown", "plot", "report")


@dataclass(frozen=True)
class Outputs:
    """Temporary files beside the asked ones, and the older run."""

    temporary: dict[str, Path]  # kind -> where to write
    older: tuple[str, dict[str, Any]] | None  # name and document to compare with

    def write(self, document: dict[str, Any]) -> None:
        """Write what was asked for, of at least one row."""
        for kind, path in self.temporary.items():
            if kind == "plot":
                from benchmarks.bench.plots.picture import save_plot

                save_plot(document, path)
            elif kind == "report":
                from benchmarks.bench.output.page import write_html

                write_html(document, path)
            else:
                with path.open("w", encoding="utf-8", newline="") as file:
                    if kind == "json":
                        write_json(file, document)
                    elif kind == "csv":
                        write_csv(file, document["rows"])
                    else:
                        file.write(markdown(document["rows"]) + "\n")


def open_outputs(stack: ExitStack, paths: dict[str, Path], *, compare: Path | None) -> Outputs:
    """Open the files; they appear under their names when the stack closes without an error.

    Args:
        stack: Closes them.
        paths: Kind, of OUTPUTS -> path.
        compare: JSON of an older run.

    Raises:
        UsageError: if a path cannot be written, or the older run cannot be read.
        MissingDependencyError: if a picture or the page is asked for without matplotlib.
    """
    if "plot" in paths:
        from benchmarks.bench.plots.picture import check_plot

        check_plot(paths["plot"])
    if "report" in paths:
        from benchmarks.bench.plots.picture import check_matplotlib

        check_matplotlib()
    older = None if compare is None else (compare.name, read_document(compare))
    opened = {kind: stack.enter_context(atomic_path(path)) for kind, path in paths.items()}
    return Outputs(opened, older)


def show(document: dict[str, Any], older: tuple[str, dict[str, Any]] | None) -> str:
    """Return what a run prints: conditions, table, warnings, notes, comparison."""
    rows = document["rows"]
    parts = [conditions(document["environment"])]
    parts += [table(rows), KEY] if rows else ["nothing could be measured."]
    if document["startup"] is not None:
        parts.append(f"Process start to first prediction:\n{lines(document['startup'])}")
    parts += [f"Warning: {warning}" for warning in document["state"]["warnings"]]
    parts += [f"Note: {note}" for note in document["notes"]]
    if older is not None:
        parts.append("\n".join(comparison(document, older[1], name=older[0])))
    first, *rest = parts
    return f"{first}\n\n" + "\n".join(rest)
