"""Columns of tables: their names, the ones that may replace them, and their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.fields import shown

# What names a column, by what it holds
COLUMN_OPTIONS = {"path": "--path-column", "label": "--label-column", "group": "--group-column"}
# Columns of images that need no --path-column
PATH_COLUMNS = (
    *("image", "images", "file", "files", "filename", "file_name", "filepath", "file_path"),
    *("image_path", "image path", "image_file", "image_name", "img", "img_path", "paths"),
)


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How to read tables; in tars of images, a column is a field of the JSON."""

    path_column: str | None = None  # None: `path`, or the only one of `PATH_COLUMNS`
    label_column: str | None = None  # None: `label`, or the only one of `labels`, the task's name
    skip_unlabelled: bool = False  # leave rows without label out; False refuses them

    @property
    def table(self) -> TableOptions:
        """These options alone, of a class that has more."""
        names = ("path_column", "label_column", "skip_unlabelled")
        return TableOptions(**{name: getattr(self, name) for name in names})


PLAIN_TABLE = TableOptions()


class Alternative(NamedTuple):
    """The way out where a table lacks a column."""

    option: str  # of the commands, which names another column
    names: Sequence[str] = ()  # columns that mean the same: the only one that is there is taken


def simple_name(name: str) -> str:
    """Return a name without regard to case, blanks and quotes around it."""
    return name.strip().strip("\"'").strip().casefold()


def column_places(
    path: Path,
    found: Sequence[str],
    needed: Sequence[str],
    optional: Sequence[str] = (),
    *,
    instead: Mapping[str, Alternative] | None = None,
    notes: list[str] | None = None,
) -> dict[str, int]:
    """Return the place of each needed column, and of the optional ones that are there.

    For `instead` and `notes`, see `read_csv`.

    Raises:
        UsageError: if a needed one is missing, or one is there twice.
    """
    simple, instead = [simple_name(name) for name in found], instead or {}
    missing = sorted(name for name in needed if simple_name(name) not in simple)
    taken: dict[str, str] = {}
    for name in missing:
        others = [other for other in instead.get(name, Alternative("")).names if other in simple]
        if len(others) > 1:
            raise UsageError(
                f"{visible(path)}: has no column {name!r}, but {' and '.join(map(repr, others))}; "
                f"name the right one with {instead[name].option}."
            )
        if others:
            taken[name] = others[0]
    if missing := [name for name in missing if name not in taken]:
        names = ", ".join(map(shown, found[:10])) + (", ..." if len(found) > 10 else "")
        raise UsageError(
            f"{visible(path)}: lacks the column(s) {missing}; it must name "
            f"{', '.join(map(repr, needed))} in its first line, separated by commas, semicolons or "
            f"tabs (found [{names}])"
            + "".join(
                way_out(name, found, instead[name])
                for name in missing
                if name in instead and len(found) > 1
            )
            + "."
        )
    wanted = [*needed, *(name for name in optional if simple_name(name) in simple)]
    places = {name: simple_name(taken.get(name, name)) for name in wanted}
    for name, column in places.items():
        if (count := simple.count(column)) > 1:
            raise UsageError(
                f"{visible(path)}: has {count} columns named {taken.get(name, name)!r}; "
                "keep one of them."
            )
    if notes is not None:
        notes += (f"{other!r} read as {name}" for name, other in taken.items())
    return {name: simple.index(column) for name, column in places.items()}


def way_out(name: str, found: Sequence[str], instead: Alternative) -> str:
    """Return what continues the sentence that a column is missing: the nearest names, the option.

    Args:
        name: Column that was asked for.
        found: Columns that are there.
        instead: See `Alternative`.
    """
    wanted, names = simple_name(name), {simple_name(other): other.strip() for other in found[:1000]}
    near = [
        other
        for other in names
        if len(other) > 2
        and any(other in word or word in other for word in (wanted, *instead.names))
    ]
    near = list(dict.fromkeys([*get_close_matches(wanted, names, 3, 0.6), *near]))[:3]
    if not near:
        return f"; name the column for {name!r} with {instead.option}"
    nearest = " or ".join(shown(names[other]) for other in near)
    return f"; is it {nearest}? Name it with {instead.option}"
