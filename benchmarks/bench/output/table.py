"""What a latency run prints and writes: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from benchmarks.bench.stages import STAGES, TOTAL

Row = Mapping[str, Any]  # of the JSON's "rows"
SCHEMA = 2


def number(value: float | None, digits: int = 3) -> str:
    """Format with some digits, or all of them before the decimal point; a dash for None."""
    if value is None:
        return "-"
    if value == 0 or not abs(value) < 10**digits:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".") if abs(value) >= 1e-3 else f"{value:.0e}"


def _stage(stage: str, statistic: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        found = row["stages_ms"].get(stage)
        return "-" if found is None else number(found[statistic])

    return cell


def _of(key: str, field: str, form: Callable[[Any], str]) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        part = row[key]
        return "-" if part is None or part[field] is None else form(part[field])

    return cell


def _ratio(row: Row) -> str:
    found = row["ratio"]
    if found is None:
        return "1"
    return f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def _rate(row: Row) -> str:
    rate = row["rate"]
    if rate is None:
        return "-"
    return number(rate["latency_ms"]["p99"]) + ("" if rate["kept_up"] else " (behind)")


# Heading -> cell. A column in which no row has anything is left out.
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "name": lambda row: str(row["name"]),
    "precision": lambda row: str(row["precision"]),
    "batch": lambda row: str(row["batch"]),
    **{stage: _stage(stage, "p50") for stage in STAGES},
    "p50": _stage(TOTAL, "p50"),
    "p99": _stage(TOTAL, "p99"),
    "max": _stage(TOTAL, "max"),
    "img/s": lambda row: number(row["throughput_img_s"]),
    "times as fast": _ratio,
    "value off": _of("fidelity", "value_max", number),
    "cosine": _of("fidelity", "cosine_min", lambda cosine: f"{cosine:.5f}"),
    "MAE": _of("mae", "mae", number),
    "J/img": _of("power", "joules_per_image", number),
    "first s": lambda row: number(row["first_prediction_s"]),
    "MB": lambda row: number(row["peak_host_mb"]),
    "GPU MB": lambda row: number(row["peak_device_mb"]),
    "ceiling": lambda row: "-" if row["ceiling_share"] is None else f"{row['ceiling_share']:.0%}",
    "p99 at rate": _rate,
}
_LEFT = ("name", "precision")  # aligned left; numbers are aligned right
KEY = (
    "Stages: p50 in ms per batch, then p50, p99 and max of their total, nothing clipped. Times as "
    "fast: of inference, by rounds, median and quartiles. Value off: largest difference of a value "
    "from torch eager float32. Cosine: lowest of the image features, less their mean. First s: "
    "process start to first prediction. Ceiling: share of the machine's matrix products, counting "
    "for every row what the exported file multiplies."
)


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return the table's lines, headings first."""
    columns = [[heading, *map(cell, rows)] for heading, cell in _COLUMNS.items()]
    kept = [column for column in columns if set(column[1:]) - {"-"}]
    if all(row["ratio"] is None for row in rows):
        kept = [column for column in kept if column[0] != "times as fast"]
    return [list(line) for line in zip(*kept, strict=True)]


def table(rows: Sequence[Row]) -> str:
    """Format one aligned line per row."""
    lines = cells(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [heading in _LEFT for heading in lines[0]]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        )
        for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    """Format as a Markdown table."""
    heading, *lines = cells(rows)
    marks = [":--" if name in _LEFT else "--:" for name in heading]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, marks, *lines))


def conditions(environment: Mapping[str, Any]) -> str:
    """Say in one line on what and with what the rows were measured."""
    images = environment["images"]
    length = (
        f"{environment['duration']:g} s"
        if environment["duration"] is not None
        else f"{environment['iterations']} batches"
    )
    return (
        f"{environment['cpu']}, threads: {environment['threads'] or 'automatic'}; "
        f"{images['count']} {images['source']} images ({images['name']}), "
        f"{images['megapixels']:.2f} megapixels; {length} per row in {environment['rounds']} turns"
    )


def write_json(file: IO[str], document: Mapping[str, Any]) -> None:
    """Write the document, floats with 6 digits and a list of numbers on one line."""
    text = json.dumps(_rounded(document), indent=1, ensure_ascii=False)
    file.write(re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", _on_one_line, text) + "\n")


def _rounded(part: Any) -> Any:
    if isinstance(part, float):
        return float(f"{part:.6g}")
    if isinstance(part, Mapping):
        return {name: _rounded(value) for name, value in part.items()}
    return [_rounded(value) for value in part] if isinstance(part, (list, tuple)) else part


def _on_one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers[1].split())}]"


def write_csv(file: IO[str], rows: Sequence[Row]) -> None:
    """Write one line per row: every statistic of every stage, and the rest but the samples."""
    flat = [dict(_flat(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(file, names, restval="")
    writer.writeheader()
    writer.writerows(flat)


def _flat(part: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in part.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            found.append((f"{prefix}{name}", "" if value is None else value))
    return found
