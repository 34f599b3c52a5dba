"""Text for Markdown pages in which no name, phrase or unit becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence


def md(value: object) -> str:
    """Escape what Markdown reads as markup; control and bidi characters become visible."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", printable(value))


def printable(value: object) -> str:
    """Return the text with control and bidi characters written as escapes, so on one line."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table; the cells are escaped already."""
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"
