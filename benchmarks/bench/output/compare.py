"""A run beside an older one: the change of each row, and the other differences."""

from __future__ import annotations

from benchmarks.bench.output.table import number
from benchmarks.bench.results import Document, Row

# Fields that identify a row; a changed file hash is reported instead
_SAME = ("name", "kind", "model", "backend", "precision", "batch", "threads")
_MACHINE = ("cpu", "logical_cores", "platform", "python", "numclip")


def comparison(new: Document, old: Document, *, name: str) -> list[str]:
    """Return lines of text: the change of each row, and the differences of the environment.

    Args:
        new: The run just made.
        old: The run to compare with.
        name: Of the old run's file.
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
    found = [f"Note: {what}: {was} then, {is_now} now." for what, was, is_now in pairs
             if was != is_now]  # fmt: skip
    if now.images != then.images:
        found.append("Note: the images were others.")
    return [*found, *(f"Note: then: {warning}" for warning in old.state.warnings)]
