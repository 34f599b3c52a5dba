"""Labelled images in tars of WebDataset's layout: KEY.jpg beside KEY.json, KEY.cls or KEY.txt."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numclip.data.columns import Alternative, simple_name, way_out
from numclip.data.labels import is_missing
from numclip.data.numbers import is_like_number, number
from numclip.data.tables import Row
from numclip.data.tar_index import TarMember, tar_index
from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.errors import first_line
from numclip_runtime.fields import JSON_LIMIT, parse_json, shown
from numclip_runtime.images.folder import is_image_name, is_rubbish

MAX_TARS = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def tars_of(source: Path) -> list[Path]:
    """Return the tars that a name stands for: itself, a pattern ("*.tar"), a range ("{000..011}").

    Raises:
        UsageError: if it matches nothing, or something that is no tar.
    """
    if source.is_file():
        return [source]
    names = _expanded(str(source))
    found = [match for name in names for match in (sorted(glob.glob(name)) or [name])]  # noqa: PTH207
    tars = list(map(Path, found))
    for tar in tars:
        if not tar.is_file():
            raise UsageError(f"{visible(tar)}: no such file, or no file matches this pattern.")
        if tar.suffix.lower() != ".tar":
            raise UsageError(f"{visible(source)}: matches {visible(tar.name)}, which is no .tar.")
    return tars


def _expanded(name: str) -> list[str]:
    """Return the names of a range, as shells and WebDataset expand it."""
    match = _RANGE.search(name)
    if match is None:
        return [name]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_TARS:
        raise UsageError(
            f"{visible(name)}: the range must rise, and have {MAX_TARS:,} names at most."
        )
    numbers = (f"{number:0{len(match[1])}}" for number in range(first, last + 1))
    before, after = name[: match.start()], name[match.end() :]
    return [inner for number in numbers for inner in _expanded(before + number + after)]


def read_tar(
    archive: Path,
    names: Mapping[str, str],
    instead: Mapping[str, Alternative],
    *,
    sure: bool,
    notes: list[str],
) -> Iterator[Row]:
    """Yield the images of a tar with their labels; the cell of the path is a `TarMember`.

    A key is a member's name up to the first point of its last part. Hidden files and the rubbish of
    systems are left out, as in folders.

    Args:
        archive: Tar.
        names: Of the cells "path", "label" and, if wanted, "group": the latter two are fields of
            the JSON, the label also the content of KEY.cls or KEY.txt.
        instead: By name, fields that mean the same, and the option that names another one. A label
            without such fields is the user's own choice: a field, or a member KEY.NAME.
        sure: Refuse an image without the label's field; False yields None in its place.
        notes: Gets the number of keys without an image.

    Raises:
        UsageError: if the archive is refused, see `tar_index`, a key has two images, or what
            belongs to it cannot be read, or contradicts itself.
    """
    keys: dict[str, dict[str, TarMember]] = {}
    for name, member in tar_index(archive).items():
        if not any(map(is_rubbish, name.split("/"))):
            folder, slash, last = name.rpartition("/")
            stem, _, kind = last.partition(".")
            group = keys.setdefault(folder + slash + stem, {})
            if (other := group.setdefault(kind.lower(), member)) is not member:
                raise UsageError(
                    f"{visible(archive)}: has {shown(other.inside)} and {shown(name)}; keep one of "
                    "them."
                )
    lonely, place = 0, visible(archive)
    for key, members in keys.items():
        images = [kind for kind in members if is_image_name(f"x.{kind}")]
        images = [kind for kind in images if "." not in kind] or images  # not "mask.png"
        if len(images) > 1:
            raise UsageError(
                f"{visible(archive)}: the key {shown(key)} has several images "
                f"({', '.join(images)}); keep one of them."
            )
        lonely += not images
        if images:
            fields = _fields(members["json"]) if "json" in members else None
            cells: dict[str, Any] = {names["path"]: members[images[0]]}
            cells[names["label"]] = _label(members, fields, names["label"], instead, sure=sure)
            if "group" in names:
                cells[names["group"]] = _field(members, fields, names["group"], instead, sure=True)
            yield Row(f"{place}/{visible(key)}", cells)
    if lonely:
        notes.append(f"{lonely:,} keys without an image left out")


def _label(
    members: Mapping[str, TarMember],
    fields: Mapping[str, Any] | None,
    name: str,
    instead: Mapping[str, Alternative],
    *,
    sure: bool,
) -> object:
    """Return an image's label as it is written; None if there is none."""
    text = _text(members["cls"]) if "cls" in members else None
    if text is None and "txt" in members:  # a caption, where there is another source
        text = _text(members["txt"])
        text = text if fields is None or is_like_number(text) else None
    if not instead[name].names:
        text = _text(members[name.lower()]) if name.lower() in members.keys() - {"json"} else None
    value = _field(members, fields, name, instead, sure=sure and text is None)
    if is_missing(value) or text is None or is_missing(text):
        return text if is_missing(value) and text is not None else value
    if number(value) != number(text):
        image = next(iter(members.values()))
        raise UsageError(
            f"{visible(image.archive)}: the key of {shown(image.inside)} has the label "
            f"{shown(value)} in its JSON, and {shown(text)} beside it; choose with --label-column."
        )
    return value


def _field(
    members: Mapping[str, TarMember],
    fields: Mapping[str, Any] | None,
    name: str,
    instead: Mapping[str, Alternative],
    *,
    sure: bool,
) -> object:
    """Return a field of the JSON, whatever its case; None, or an error, if there is none."""
    simple: dict[str, list[object]] = {}
    for field, value in (fields or {}).items():
        simple.setdefault(simple_name(field), []).append(value)
    found = simple.get(simple_name(name), [])
    found = found or [value for other in instead[name].names for value in simple.get(other, [])]
    if len(found) == 1 or not (found or sure):
        return found[0] if found else None
    place = members["json"].name if "json" in members else next(iter(members.values())).name
    if found:
        raise UsageError(
            f"{visible(place)}: has {len(found)} fields for {name!r}; name the right one with "
            f"{instead[name].option}."
        )
    if fields is None:
        raise UsageError(
            f"{visible(place)}: no .json, .cls or .txt with its {name!r} lies beside it; "
            "a CSV file may hold the labels as well, with paths into the tar (a.tar/0001.jpg)."
        )
    names = ", ".join(map(shown, list(fields)[:10])) + (", ..." if len(fields) > 10 else "")
    hint = way_out(name, list(fields), Alternative(instead[name].option))
    raise UsageError(f"{visible(place)}: has no field {name!r} (found [{names}]){hint}.")


def _text(member: TarMember) -> str:
    """Return the text of a small member.

    Raises:
        UsageError: if it is long, or not UTF-8.
    """
    try:
        content = member.read(JSON_LIMIT + 1)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UsageError(f"{visible(member.name)}: cannot be read ({reason}).") from None
    if len(content) > JSON_LIMIT:
        raise UsageError(f"{visible(member.name)}: is larger than {JSON_LIMIT:,} bytes.")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UsageError(f"{visible(member.name)}: is not UTF-8 text.") from None


def _fields(member: TarMember) -> dict[str, Any]:
    try:
        fields = parse_json(_text(member))
    except ValueError as error:
        raise UsageError(
            f"{visible(member.name)}: cannot be read as JSON ({first_line(error)[:200]})."
        ) from None
    if not isinstance(fields, dict):
        raise UsageError(f"{visible(member.name)}: must be a table of fields, got {shown(fields)}.")
    return fields
