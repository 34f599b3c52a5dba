"""Write the documentation's tables from the kept results, so that the two never differ.

`python benchmarks/results_table.py` rewrites the text between markers; `--check` only exits
with 1 if it would change.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

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
LEAST_COSINE = 0.999  # of the features; below it, the row computes another model


def result_files(folder: Path = RESULTS) -> list[Path]:
    """Return the kept results, by name."""
    return sorted(folder.glob(PATTERN))


def section(files: Sequence[Path]) -> str:
    """Return the text between the markers: a table per model, with one row per system.

    Raises:
        UsageError: if a file is not the JSON of a run.
    """
    documents = {path.name: read_document(path) for path in files}
    every = [row for document in documents.values() for row in document.rows]
    tables = [text for name, document in documents.items() for text in _table(document, name)]
    if any(_is_another_model(row) for row in every):
        tables.append(f"\\* the lowest centred cosine of its features is below {LEAST_COSINE}.")
    return "\n".join(tables)


def _table(document: Document, name: str) -> list[str]:
    """Return the lines of a model's table."""
    systems: dict[str, dict[int, Row]] = {}  # name -> its rows by batch size
    for row in document.rows:
        systems.setdefault(row.name, {})[row.batch] = row
    batches = sorted({row.batch for row in document.rows})
    base = next((row.ratio.to for row in document.rows if row.ratio is not None), "the first")
    heads = [f"{batch} {'image' if batch == 1 else 'images'}" for batch in batches]
    lines = [
        f"| {_model(document.rows[0])}: ms (times as fast as {base}, quartiles) "
        f"| {' | '.join(heads)} | value off | cosine |",
        f"| :-- |{' --: |' * (len(batches) + 2)}",
    ]
    # by the smallest batch that has a figure
    slowness = {
        system: [_inference_ms(rows[b]) if b in rows else math.inf for b in batches]
        for system, rows in systems.items()
    }
    for system in sorted(systems, key=lambda system: slowness[system]):
        rows = systems[system]
        cells = [*(_cell(rows.get(batch)) for batch in batches), *_fidelity(rows.values())]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return [*lines, "", _conditions(document, name), ""]


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
    speed = "1"
    if row.ratio is not None:
        speed = f"{row.ratio.median:.2f}, {row.ratio.low:.2f}-{row.ratio.high:.2f}"
    mark = "\\*" if _is_another_model(row) else ""
    return f"{number(_inference_ms(row))} ({speed}){mark}"


def _fidelity(rows: Iterable[Row]) -> tuple[str, str]:
    """Return the largest difference of a value and the lowest cosine over the batch sizes."""
    found = [row.fidelity for row in rows if row.fidelity is not None]
    cosines = [each.cosine_min for each in found if each.cosine_min is not None]
    value = f"{max(each.value_max for each in found):.2g}" if found else "-"
    return value, f"{min(cosines):.5f}" if cosines else "-"


def _conditions(document: Document, name: str) -> str:
    environment = document.environment
    packages = ", ".join(
        f"{package} {environment.versions[package].partition('-')[0]}"
        for package in ("onnxruntime", "openvino", "torch", "nncf")
        if package in environment.versions
    )
    warnings = "".join(f" {warning}" for warning in document.state.warnings)
    turns = f", {environment.turns}" if environment.reload else ""
    return (
        f"`benchmarks/results/{name}`: {environment.cpu}, {environment.threads or 'automatic'} "
        f"threads, {environment.date[:10]}, {packages}{turns}.{warnings}"
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
