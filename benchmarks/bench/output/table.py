"""Rows as a table: one list of columns for text, Markdown and the HTML page; and CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

from benchmarks.bench.results import STAGES, TOTAL, Document, Row, RunEnvironment
from numclip_runtime.console import folded

NONE = "-"
KEY = (
    "Stages: p50 in ms per batch, then p50, p99 and max of their total, nothing clipped. Times as "
    "fast: of inference, by rounds, median and quartiles. Value off: largest difference of a value "
    "from torch eager float32. Cosine: lowest of the image features, less their mean. First s: "
    "process start to first prediction. Ceiling: share of the machine's matrix products, counting "
    "for every row what the exported file multiplies."
)


def number(value: float | None, digits: int = 3) -> str:
    """Format with some digits, or all of them before the decimal point; a dash for None."""
    if value is None:
        return NONE
    if value == 0 or not abs(value) < 10**digits:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".") if abs(value) >= 1e-3 else f"{value:.0e}"


@dataclass(frozen=True)
class Column:
    """A column of the results. One in which no row has anything is left out."""

    cell: Callable[[Row], str]
    text: str | None = None  # heading in text and Markdown; None: not there
    page: str | None = None  # heading on the page, "|" before its small print; None: not there
    stages: str | None = None  # heading in the page's table of stages; None: not there
    left: bool = False  # aligned left


def _stage(stage: str, statistic: str = "p50") -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        found = row.stages_ms.get(stage)
        return NONE if found is None else number(getattr(found, statistic))

    return cell


def _part(part: str, key: str, form: Callable[[Any], str] = number) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = getattr(getattr(row, part), key, None)
        return NONE if value is None else form(value)

    return cell


def _ratio(row: Row) -> str:
    found = row.ratio
    return "1" if found is None else f"{found.median:.2f} ({found.low:.2f}-{found.high:.2f})"


def _rate(row: Row) -> str:
    if row.rate is None:
        return NONE
    return number(row.rate.latency_ms.p99) + ("" if row.rate.kept_up else " (behind)")


def _ceiling(row: Row) -> str:
    return NONE if row.ceiling_share is None else f"{row.ceiling_share:.0%}"


COLUMNS = (
    Column(lambda row: row.name, "name", "Name", "Name", left=True),
    Column(lambda row: str(row.batch), "batch", "Batch", "Batch"),
    Column(lambda row: row.precision, "precision", "Precision", left=True),
    *(Column(_stage(stage), stage, stages=f"{stage.capitalize()}|ms") for stage in STAGES),
    Column(_stage(TOTAL), "p50", "p50|ms", "Total|ms"),
    Column(_stage(TOTAL, "p90"), page="p90|ms"),
    Column(_stage(TOTAL, "p99"), "p99", "p99|ms"),
    Column(_stage(TOTAL, "max"), "max", "max|ms"),
    Column(lambda row: str(row.stages_ms[TOTAL].n), stages="Batches|timed"),
    Column(lambda row: number(row.throughput_img_s), "img/s", "Images/s"),
    Column(_ratio, "times as fast", "Times as fast|inference, quartiles"),
    Column(_part("fidelity", "value_max"), "value off", "Value off|largest"),
    Column(_part("fidelity", "cosine_min", "{:.5f}".format), "cosine", "Cosine|lowest"),
    Column(_part("mae", "mae"), "MAE", "MAE"),
    Column(_part("power", "joules_per_image"), "J/img", "Energy|J per image"),
    Column(lambda row: number(row.first_prediction_s), "first s", "First|s from start"),
    Column(lambda row: number(row.peak_host_mb), "MB", "Memory|MB, host"),
    Column(lambda row: number(row.peak_device_mb), "GPU MB", "Memory|MB, device"),
    Column(_ceiling, "ceiling", "Ceiling|share reached"),
    Column(_rate, "p99 at rate", "p99 at rate|ms"),
    Column(lambda row: str(row.threads or NONE), page="Threads"),
    Column(lambda row: f"{row.backend}, {row.provider}", page="Backend", left=True),
    Column(lambda row: row.device, page="Device", left=True),
    Column(lambda row: f"{row.model} {row.sha256[:12]}", page="File|sha256", left=True),
)


def filled(rows: Sequence[Row], sheet: str) -> Iterator[tuple[str, bool, list[str]]]:
    """Yield heading, whether aligned left, and the cells of each column that has data.

    `sheet` is "text", "page" or "stages".
    """
    for column in COLUMNS:
        heading, cells = getattr(column, sheet), [column.cell(row) for row in rows]
        alone = column.cell is _ratio and all(row.ratio is None for row in rows)
        if heading is not None and set(cells) - {NONE} and not alone:
            yield heading, column.left, cells


def _lines(rows: Sequence[Row]) -> tuple[list[list[str]], list[bool]]:
    found = list(filled(rows, "text"))
    cells = [[heading, *column] for heading, _, column in found]
    return [list(line) for line in zip(*cells, strict=True)], [left for _, left, _ in found]


def text_table(rows: Sequence[Row]) -> str:
    """Format one aligned line per row; where the terminal is too narrow, several tables."""
    lines, left = _lines(rows)
    return "\n".join(folded(lines, "".join("<" if side else ">" for side in left), keep=2))


def markdown(rows: Sequence[Row]) -> str:
    """Format as a Markdown table."""
    (heading, *lines), left = _lines(rows)
    return "\n".join(markdown_lines(heading, lines, left))


def markdown_lines(
    heading: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[bool]
) -> Iterator[str]:
    """Yield the lines of a Markdown table; `left` states for each column whether it is left."""
    marks = [":--" if side else "--:" for side in left]
    for cells in (heading, marks, *lines):
        yield f"| {' | '.join(cells)} |"


def conditions(environment: RunEnvironment) -> str:
    """Describe machine, images and length of a run in one line."""
    length = (
        f"{environment.duration:g} s"
        if environment.duration is not None
        else f"{environment.iterations} batches"
    )
    return (
        f"{environment.cpu}, threads: {environment.threads or 'automatic'}; {environment.images}; "
        f"{length} per row in {environment.turns}"
    )


def write_csv(file: IO[str], document: Document) -> None:
    """Write one line per row: every statistic of every stage, and the rest but the samples."""
    flat = [dict(_flat(asdict(row))) for row in document.rows]
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in flat for name in row)), "")
    writer.writeheader()
    writer.writerows(flat)


def _flat(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            yield f"{prefix}{name}", "" if value is None else value
