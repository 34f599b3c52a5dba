"""A run beside an older one: did it get faster, and is the comparison worth anything?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench.output.table import SCHEMA, number
from numclip_runtime.errors import UsageError

Document = Mapping[str, Any]
# What identifies a row; the file's hash may have changed, which is said
_SAME = ("name", "kind", "model", "backend", "precision", "batch", "threads")
_MACHINE = ("cpu", "logical_cores", "platform", "python")


def read_document(path: Path) -> dict[str, Any]:
    """Read the JSON of a run.

    Raises:
        UsageError: if it is none, or one of another schema.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        schema = document.get("schema")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: not the JSON of a run ({error}).") from None
    if schema != SCHEMA:
        raise UsageError(
            f"{path}: a run of schema {schema!r}, this version reads {SCHEMA}; measure again."
        )
    result: dict[str, Any] = document
    return result


def comparison(new: Document, old: Document, *, name: str) -> list[str]:
    """Return lines of text: how each row changed, and what else did.

    Args:
        new: The run just made.
        old: The run to compare with.
        name: Of the old run's file.
    """
    before = {_key(row): row for row in old["rows"]}
    lines = []
    for row in new["rows"]:
        other = before.get(_key(row))
        if other is None:
            continue
        parts = []
        for stage in ("inference", "total"):
            was, now = (part["stages_ms"][stage]["p50"] for part in (other, row))
            parts.append(
                f"{stage} {number(was)} -> {number(now)} ms ({was / now:.2f} times as fast)"
            )
        changed = "" if row["sha256"] == other["sha256"] else "; another file of this name"
        lines.append(f"{row['name']}, batch {row['batch']}: {', '.join(parts)}{changed}")
    if not lines:
        return [f"compared with {name}: no row is in both."]
    return [f"Compared with {name}, p50:", *lines, *_differences(new, old)]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[field] for field in _SAME)


def _differences(new: Document, old: Document) -> list[str]:
    now, then = new["environment"], old["environment"]
    found = [
        f"Note: {field}: {then.get(field)} then, {now.get(field)} now."
        for field in (*_MACHINE, "numclip")
        if now.get(field) != then.get(field)
    ]
    for package in sorted({*now["versions"], *then["versions"]}):
        was, is_now = (part["versions"].get(package, "absent") for part in (then, now))
        if was != is_now:
            found.append(f"Note: {package}: {was} then, {is_now} now.")
    if now["images"] != then["images"]:
        found.append("Note: the images were others.")
    found += [f"Note: then: {warning}" for warning in old["state"]["warnings"]]
    return found
