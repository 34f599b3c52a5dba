"""Write the README's latency table from the kept results, so that the two never differ.

`python benchmarks/results_table.py` rewrites what lies between the markers; `--check` says with
exit code 1 that it would.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

if not __package__:  # run by its path
    __import__("script")

from benchmarks.bench.machine.environment import REPOSITORY
from benchmarks.bench.output.table import number
from benchmarks.bench.results import Document, Row, read_document
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_text

RESULTS = REPOSITORY / "benchmarks" / "results"
BEGIN, END = "<!-- latency:begin -->", "<!-- latency:end -->"
PATTERN = "latency*.json"
LEAST_COSINE = 0.999  # of the features; what is below is another model


def result_files(folder: Path = RESULTS) -> list[Path]:
    """Return the kept results, by name."""
    return sorted(folder.glob(PATTERN))


def section(files: Sequence[Path]) -> str:
    """Return what belongs between the markers: one row per competitor, over all files.

    Raises:
        UsageError: if a file is not the JSON of a run.
    """
    documents = [(path, read_document(path)) for path in files]
    runs: dict[str, dict[tuple[str, int], Row]] = {}  # competitor -> (model, batch) -> its row
    for _, document in documents:
        for row in document.rows:
            runs.setdefault(row.name, {})[_model(row), row.batch] = row
    columns = list(dict.fromkeys(place for rows in runs.values() for place in rows))
    columns.sort(key=lambda place: [_model(doc.rows[0]) for _, doc in documents].index(place[0]))
    heads = [f"{model}, batch {batch}" for model, batch in columns]
    lines = [
        f"| network alone: ms (times as fast as {_baseline(runs)}) | {' | '.join(heads)} |",
        f"| :-- |{' --: |' * len(columns)}",
    ]
    for name, rows in sorted(runs.items(), key=lambda item: _slowness(item[1], columns)):
        cells = [_cell(rows.get(place)) for place in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    marked = any(_is_another_model(row) for rows in runs.values() for row in rows.values())
    if marked:
        lines += ["", f"\\* the lowest centred cosine of its features is below {LEAST_COSINE}."]
    return "\n".join(
        [*lines, "", *(_conditions(document, path.name) for path, document in documents)]
    )


def _model(row: Row) -> str:
    return Path(row.model).name.split(".")[0]


def _baseline(runs: Mapping[str, Mapping[Any, Row]]) -> str:
    ratios = (row.ratio for rows in runs.values() for row in rows.values())
    return next((ratio.to for ratio in ratios if ratio is not None), "the first")


def _slowness(rows: Mapping[Any, Row], columns: Sequence[Any]) -> list[float]:
    """Sort by the first column that has a figure."""
    return [
        rows[place].stages_ms["inference"].p50 if place in rows else float("inf")
        for place in columns
    ]


def _is_another_model(row: Row) -> bool:
    fidelity = row.fidelity
    cosine = None if fidelity is None else fidelity.cosine_min
    return cosine is not None and cosine < LEAST_COSINE


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    ratio = "1" if row.ratio is None else f"{row.ratio.median:.1f}"
    mark = "\\*" if _is_another_model(row) else ""
    return f"{number(row.stages_ms['inference'].p50)} ({ratio}){mark}"


def _conditions(document: Document, name: str) -> str:
    environment = document.environment
    versions = environment.versions
    packages = ", ".join(
        f"{package} {versions[package]}"
        for package in ("onnxruntime", "openvino", "torch")
        if package in versions
    )
    warnings = "".join(f" {warning}" for warning in document.state.warnings)
    return (
        f"[{_model(document.rows[0])}](benchmarks/results/{name}): {environment.cpu}, "
        f"{environment.threads or 'automatic'} threads, {environment.date[:10]}, "
        f"{packages}.{warnings}  "
    )


def updated(readme: str, files: Sequence[Path], *, name: str = "README.md") -> str:
    """Return a README with the table of these results; unchanged where it has no markers.

    Raises:
        UsageError: if it has one marker only, or markers but no results.
    """
    marks = [readme.count(mark) for mark in (BEGIN, END)]
    if marks == [0, 0]:
        return readme
    if marks != [1, 1] or readme.index(END) < readme.index(BEGIN):
        raise UsageError(f"{name}: needs {BEGIN} and then {END}, once each.")
    if not files:
        raise UsageError(f"{name}: has markers, and {RESULTS} holds no {PATTERN}.")
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{section(files)}\n{END}{after}"


@click.command(context_settings=SETTINGS)
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if it would.")
@click.option("--readme", type=FILE, default=REPOSITORY / "README.md")
@click.option("--results", type=FILE, default=RESULTS)
def main(check: bool, readme: Path, results: Path) -> None:
    """Write the latency table of the README from the kept results."""
    with exit_on_error():
        old = readme.read_text("utf-8")
        new = updated(old, result_files(results), name=readme.name)
        if new == old:
            click.echo(f"{readme.name}: up to date")
            return
        if check:
            click.echo(f"{readme.name}: differs; run python benchmarks/results_table.py", err=True)
            sys.exit(1)
        with atomic_text(readme) as file:
            file.write(new)
        click.echo(f"{readme.name}: written")


if __name__ == "__main__":
    main()
