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

if __name__ == "__main__":  # run as a script: the package `benchmarks` is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.compare import read_document
from benchmarks.report import number
from numclip_runtime.cli import errors_as_exit_code_2
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- latency:begin -->", "<!-- latency:end -->"
PATTERN = "latency*.json"
_HEAD = ("model", "run by", "batch", "network, ms (p50)", "times as fast", "all, ms (p50 / p99)")
_REST = ("img/s", "cosine", "first prediction, s", "MB")


def result_files(folder: Path = RESULTS) -> list[Path]:
    """Return the kept results, by name."""
    return sorted(folder.glob(PATTERN))


def section(files: Sequence[Path]) -> str:
    """Return what belongs between the markers.

    Raises:
        UsageError: if a file is not the JSON of a run.
    """
    return "\n\n".join(_table(read_document(path), path.name) for path in files)


def _table(document: Mapping[str, Any], name: str) -> str:
    environment = document["environment"]
    versions = environment["versions"]
    packages = ", ".join(
        f"{package} {versions[package]}"
        for package in ("onnxruntime", "openvino", "torch")
        if package in versions
    )
    lines = [
        f"{environment['cpu']}, {environment['threads'] or 'automatic'} threads, "
        f"{environment['date'][:10]}; {packages} ([all figures](benchmarks/results/{name})).",
        "",
        f"| {' | '.join((*_HEAD, *_REST))} |",
        f"| :-- | :-- |{' --: |' * (len(_HEAD) + len(_REST) - 2)}",
        *(f"| {' | '.join(_cells(row))} |" for row in document["rows"]),
    ]
    return "\n".join(lines + [f"\n{warning}" for warning in document["state"]["warnings"]])


def _cells(row: Mapping[str, Any]) -> list[str]:
    total, ratio, fidelity = row["stages_ms"]["total"], row["ratio"], row["fidelity"]
    cosine = None if fidelity is None else fidelity["cosine_min"]
    return [
        Path(row["model"]).name.split(".")[0],
        row["name"],
        str(row["batch"]),
        number(row["stages_ms"]["inference"]["p50"]),
        "1" if ratio is None else f"{ratio['median']:.2f}",
        f"{number(total['p50'])} / {number(total['p99'])}",
        number(row["throughput_img_s"]),
        "-" if cosine is None else f"{cosine:.4f}",
        number(row["first_prediction_s"]),
        number(row["peak_host_mb"]),
    ]


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


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if it would.")
@click.option("--readme", type=click.Path(path_type=Path), default=ROOT / "README.md")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
def main(check: bool, readme: Path, results: Path) -> None:
    """Write the latency table of the README from the kept results."""
    with errors_as_exit_code_2():
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
