"""The table of a proof: for the terminal, and for the documentation."""

from __future__ import annotations

from textwrap import shorten
from typing import Any

from benchmarks.bench.gpu.checks import Check
from benchmarks.bench.gpu.proof import PartResult, Proof
from numclip_runtime.errors import UsageError

CELL = 300  # characters; the document has all
REHEARSAL = "REHEARSAL on the CPU with a stand-in for the driver: it says nothing of a GPU."


def part_lines(part: PartResult) -> list[str]:
    """Return a part for the terminal: its line, and one for each check that did not pass."""
    passed = sum(check.status == "passed" for check in part.checks)
    count = f"{passed} of {len(part.checks)} checks" if part.checks else ""
    line = f"{part.letter}  {part.title:<26} {part.status:<10} {part.seconds:>6.1f} s  {count}"
    lines = [line.rstrip()]
    for check in part.checks:
        if check.status != "passed":
            lines.append(f"   {check.status}: {check.name}: {_last_line(check.reason)}")
    if part.status in ("failed", "timed out") and part.reason and not _explained(part):
        lines.append(f"   {part.reason}")
    return lines


def _explained(part: PartResult) -> bool:
    return any(check.status == "failed" for check in part.checks) and part.status == "failed"


def _last_line(reason: str | None) -> str:
    return (reason or "").strip().splitlines()[-1] if reason else ""


def proof_section(proof: Proof) -> str:
    """Return the proof as Markdown.

    Raises:
        UsageError: if it is a rehearsal, which says nothing of a GPU.
    """
    if proof.rehearsal:
        raise UsageError("a rehearsal of the GPU proof is not published; leave its file out.")
    gpus = ", ".join(gpu.name for gpu in proof.gpus_before) or "a GPU that NVML does not show"
    driver = next((gpu.driver for gpu in proof.gpus_before if gpu.driver), "unknown")
    packages = ", ".join(f"{name} {v}" for name, v in sorted(proof.environment.versions.items()))
    lines = [
        f"{gpus}, driver {driver}, {proof.environment.date[:10]}; {packages}.",
        "",
        "| part | check | result | figures |",
        "| :-- | :-- | :-- | :-- |",
    ]
    for part in proof.parts:
        for check in part.checks:
            lines.append(f"| {part.title} | {check.name} | {check.status} | {figures(check)} |")
        if part.status == "timed out" or not part.checks:
            lines.append(f"| {part.title} | | {part.status} | {_cell(part.reason or '')} |")
    return "\n".join(lines)


def figures(check: Check) -> str:
    """Return a check's facts, or its reason, for a cell of the table."""
    if check.reason is not None:
        return _cell(_last_line(check.reason))
    given = {k: v for k, v in check.facts.items() if v not in (None, [], {})}
    return _cell("; ".join(f"{name} {_figure(value)}" for name, value in given.items()))


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_figure(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_figure, value))
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
    return str(value)


def _cell(text: str) -> str:
    return shorten(text, CELL, placeholder=" ...").replace("|", "\\|")
