"""What a latency run prints and writes: plain-text table and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

from benchmarks.stages import STAGES, TOTAL, Row

FirstPredictions = Mapping[str, Mapping[str, float]]

_TEXT_COLUMNS = ("model", "backend", "precision")  # left-aligned; numbers are right-aligned
_COLUMNS = (*_TEXT_COLUMNS, "batch", *STAGES, "total p50", "total p99", "img/s")


def table(rows: Sequence[Row]) -> str:
    """Format one aligned line per row: p50 of each stage, p50 and p99 of the total, ms."""
    lines = [_COLUMNS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = len(_TEXT_COLUMNS)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    summaries = row.timings.summaries
    return (
        row.model,
        row.backend,
        row.precision,
        str(row.batch),
        *(f"{summaries[stage].p50:.2f}" for stage in STAGES),
        f"{summaries[TOTAL].p50:.2f}",
        f"{summaries[TOTAL].p99:.2f}",
        f"{row.timings.throughput_img_s:.1f}",
    )


def first_prediction_lines(first: FirstPredictions) -> str:
    """Format the time from process start to first prediction, one line per program."""
    width = max(map(len, first))
    return "\n".join(
        f"{name.ljust(width)}  {times['median']:.2f} s  "
        f"({times['min']:.2f} to {times['max']:.2f}, {times['n']} fresh processes)"
        for name, times in first.items()
    )


def write_json(
    file: IO[str],
    rows: Sequence[Row],
    environment: Mapping[str, Any],
    first: FirstPredictions | None,
) -> None:
    """Write {"environment", "results"} and, when measured, "first_prediction_s"."""
    document: dict[str, Any] = {
        "environment": environment,
        "results": [row.to_dict() for row in rows],
    }
    if first is not None:
        document["first_prediction_s"] = first
    json.dump(document, file, indent=2, ensure_ascii=False)
    file.write("\n")
