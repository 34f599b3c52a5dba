"""Names of rows: one line each, and different where the rows are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.bench.plots.theme import Row

LONGEST = 38  # characters, in a picture


def with_names(rows: Sequence[Row], *, short: bool = False) -> list[Row]:
    """Return the rows with names that are printable and tell them apart.

    Several models measured in one run bring the same names: then the model's comes first.

    Args:
        rows: Of a document.
        short: Cut names to LONGEST in the middle, for their ends tell them apart.
    """
    seen = Counter((row["name"], row["batch"]) for row in rows)
    several = any(count > 1 for count in seen.values())
    named: list[Row] = []
    for row in rows:
        model = f"{str(row['model']).partition('.')[0]} " if several else ""
        name = "".join(c if c.isprintable() else " " for c in f"{model}{row['name']}")
        if short and len(name) > LONGEST:
            name = f"{name[: LONGEST - 16]}…{name[-15:]}"
        named.append({**row, "name": name})
    return named
