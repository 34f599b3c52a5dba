"""Write the documentation's tables from the kept results, so that the two never differ.

`python benchmarks/results_table.py` rewrites the text between markers; `--check` only exits
with 1 if it would change.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.gpu.proof import PROOF_FILE, read_proof
from benchmarks.bench.gpu.proof_page import proof_section
from benchmarks.bench.machine.environment import REPOSITORY
from benchmarks.bench.output.table import number
from benchmarks.bench.results import Document, Row, read_document
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_text

RESULTS = REPOSITORY / "benchmarks" / "results"
BEGIN, END = "<!-- latency:begin -->", "<!-- latency:end -->"
GPU_BEGIN, GPU_END = "<!-- gpu-proof:begin -->", "<!-- gpu-proof:end -->"
PATTERN = "latency*.json"
GPU_PAGE = REPOSITORY / "docs" / "deploy" / "gpu.md"
Place: TypeAlias = tuple[str, int]  # model and batch size: a column
LEAST_COSINE = 0.999  # of the features; below it, the row computes another model


def result_files(folder: Path = RESULTS) -> list[Path]:
    """Return the kept results, by name."""
    return sorted(folder.glob(PATTERN))


def section(files: Sequence[Path]) -> str:
    """Return the text between the markers: one row per system, over all files.

    Raises:
        UsageError: if a file is not the JSON of a run.
    """
    documents = {path.name: read_document(path) for path in files}
    order = [_model(document.rows[0]) for document in documents.values()]
    runs: dict[str, dict[Place, Row]] = {}  # system -> its rows
    for document in documents.values():
        for row in document.rows:
            runs.setdefault(row.name, {})[_model(row), row.batch] = row
    every = [row for rows in runs.values() for row in rows.values()]
    places = list(dict.fromkeys(place for rows in runs.values() for place in rows))
    places.sort(key=lambda place: order.index(place[0]))
    base = next((row.ratio.to for row in every if row.ratio is not None), "the first")
    heads = [f"{model}, batch {batch}" for model, batch in places]
    lines = [
        f"| network alone: ms (times as fast as {base}) | {' | '.join(heads)} |",
        f"| :-- |{' --: |' * len(places)}",
    ]
    # by the first place that has a figure
    slowness = {
        name: [_inference_ms(rows[p]) if p in rows else math.inf for p in places]
        for name, rows in runs.items()
    }
    for name in sorted(runs, key=lambda name: slowness[name]):
        cells = [_cell(runs[name].get(place)) for place in places]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if any(_is_another_model(row) for row in every):
        lines += ["", f"\\* the lowest centred cosine of its features is below {LEAST_COSINE}."]
    return "\n".join([*lines, "", *(_conditions(d, name) for name, d in documents.items())])


def _model(row: Row) -> str:
    return Path(row.model).name.split(".")[0]


def _inference_ms(row: Row) -> float:
    return row.stages_ms["inference"].p50


def _is_another_model(row: Row) -> bool:
    cosine = None if row.fidelity is None else row.fidelity.cosine_min
    return cosine is not None and cosine < LEAST_COSINE


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    ratio = "1" if row.ratio is None else f"{row.ratio.median:.1f}"
    mark = "\\*" if _is_another_model(row) else ""
    return f"{number(_inference_ms(row))} ({ratio}){mark}"


def _conditions(document: Document, name: str) -> str:
    environment = document.environment
    found = [(p, environment.versions.get(p)) for p in ("onnxruntime", "openvino", "torch")]
    packages = ", ".join(f"{package} {version}" for package, version in found if version)
    warnings = "".join(f" {warning}" for warning in document.state.warnings)
    return (
        f"{_model(document.rows[0])} (`benchmarks/results/{name}`): {environment.cpu}, "
        f"{environment.threads or 'automatic'} threads, {environment.date[:10]}, "
        f"{packages}.{warnings}  "
    )


def updated(readme: str, files: Sequence[Path], *, name: str = "README.md") -> str:
    """Return a page with the table of these results; unchanged where it has no markers.

    Raises:
        UsageError: if it has one marker only, or markers but no results.
    """
    if BEGIN in readme and not files:
        raise UsageError(f"{name}: has markers, and {RESULTS} holds no {PATTERN}.")
    return between(readme, (BEGIN, END), lambda: section(files), name=name)


def with_proof(page: str, file: Path, *, name: str = GPU_PAGE.name) -> str:
    """Return a page with the table of the GPU proof; unchanged where it has no markers.

    Raises:
        UsageError: if it has one marker only, or the file is no proof, or a rehearsal.
    """
    return between(page, (GPU_BEGIN, GPU_END), lambda: proof_section(read_proof(file)), name=name)


def between(page: str, markers: tuple[str, str], text: Callable[[], str], *, name: str) -> str:
    """Return a page with a text between two markers; unchanged where it has neither.

    Raises:
        UsageError: if it has one of them only.
    """
    begin, end = markers
    marks = [page.count(mark) for mark in markers]
    if marks == [0, 0]:
        return page
    if marks != [1, 1] or page.index(end) < page.index(begin):
        raise UsageError(f"{name}: needs {begin} and then {end}, once each.")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text()}\n{end}{rest.partition(end)[2]}"


@click.command(context_settings=SETTINGS)
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if it would.")
@click.option("--readme", type=FILE, default=REPOSITORY / "docs" / "benchmarks.md")
@click.option("--gpu-page", type=FILE, default=GPU_PAGE)
@click.option("--results", type=FILE, default=RESULTS)
def main(check: bool, readme: Path, gpu_page: Path, results: Path) -> None:
    """Write the tables of docs/benchmarks.md and docs/deploy/gpu.md from the kept results."""
    pages: dict[Path, Callable[[str], str]] = {
        readme: lambda old: updated(old, result_files(results), name=readme.name),
        gpu_page: lambda old: with_proof(old, results / PROOF_FILE, name=gpu_page.name),
    }
    with exit_on_error():
        differ = False
        for page, write in pages.items():
            old = page.read_text("utf-8")
            new = write(old)
            if new == old:
                click.echo(f"{page.name}: up to date")
            elif check:
                differ = True
                click.echo(
                    f"{page.name}: differs; run python benchmarks/results_table.py", err=True
                )
            else:
                with atomic_text(page) as file:
                    file.write(new)
                click.echo(f"{page.name}: written")
        if differ:
            sys.exit(1)


if __name__ == "__main__":
    main()
