"""Show the comments of fields in the API pages: this code base describes fields by comments.

mkdocstrings reads docstrings only. Loaded by `zensical.toml`, as an extension of griffe.
"""

from __future__ import annotations

from typing import Any

import griffe


def comment_of(lines: list[str], first: int, last: int) -> str:
    """Return the comment of a field: behind it, else the block of comment lines above it.

    Args:
        lines: Of the module's source.
        first: Line number of the field's first line, from 1 on.
        last: Of its last line.
    """
    _, mark, behind = lines[last - 1].rpartition("  # ")
    if mark:
        return behind.strip()
    above: list[str] = []
    while first > 1 and (line := lines[first - 2].strip()).startswith("#"):
        above.insert(0, line.lstrip("# "))
        first -= 1
    return " ".join(above)


class FieldComments(griffe.Extension):
    """Give a class that has no section of attributes one, made of its fields' comments."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Handle one class."""
        found = {}
        for name, member in cls.members.items():
            if isinstance(member, griffe.Attribute) and member.annotation and member.lineno:
                lines = cls.lines_collection[cls.filepath]
                found[name] = comment_of(lines, member.lineno, member.endlineno or member.lineno)
        rows = [f"    {name}: {text}" for name, text in found.items() if text]
        if rows and cls.docstring and "Attributes:" not in cls.docstring.value:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(rows)
