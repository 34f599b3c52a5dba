"""Which objects an address stands for: one, those under a prefix, or those of a pattern."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from numclip_runtime.errors import UsageError
from numclip_runtime.images.folder import (
    LEFT_OUT_SUFFIXES,
    RUBBISH,
    LeftOut,
    is_image_name,
    is_rubbish,
)
from numclip_runtime.images.formats import HEIF_SUFFIXES, IMAGE_SUFFIXES
from numclip_runtime.model_files.given import kind_of
from numclip_runtime.remote.addresses import WEB
from numclip_runtime.remote.failures import failure_of
from numclip_runtime.remote.fetch import ask, object_of
from numclip_runtime.remote.stores import RemoteObject


def find_objects(address: str, left_out: LeftOut) -> Iterator[tuple[str, RemoteObject]]:
    """Expand an address as `find_images` expands a path, by the same rules for names.

    An object that does not exist is kept: it becomes one failed record. Objects without a suffix
    are not looked into, since each would be a request.

    Args:
        address: Of an object, a prefix of objects ("folder"), a bucket, or a pattern. On the web,
            where nothing is listed, a picture, or a pattern with "*" in a page of links.
        left_out: Counts the pictures of other kinds under a prefix.

    Yields:
        Name relative to the prefix or the fixed part of the pattern, and object; sorted.

    Raises:
        UsageError: if the address cannot be read, there is no picture under the prefix, or the
            pattern matches nothing.
        StoreError: if the store cannot be listed.
        MissingDependencyError: if a package for it is not installed.
    """
    one, folder = object_of(address), address.endswith("/")
    if _is_pattern(one):
        yield from _matching(one)
        return
    in_bucket = "/" in one.path.strip("/")
    if not folder and (one.store.scheme in WEB or (in_bucket and kind_of(one.path) is not None)):
        yield _last(one), one
        return
    found = _listed(one, partial(one.store.fs.find, one.path, detail=True))
    if not folder and in_bucket and not found.keys() - {one.path}:
        yield _last(one), one
        return
    yield from _pictures(one, found, left_out)


def _last(one: RemoteObject) -> str:
    path = one.path.partition("?")[0] if one.store.scheme in WEB else one.path
    return path.rpartition("/")[2]


def _pictures(
    one: RemoteObject, found: dict[str, int | None], left_out: LeftOut
) -> Iterator[tuple[str, RemoteObject]]:
    count, others = 0, LeftOut()
    for path in sorted(found):
        name = _inside(one, path)
        if not name or any(map(is_rubbish, name.split("/"))):
            continue
        if is_image_name(name):
            count += 1
            yield name, _below(one, path, found[path])
            continue
        file = name.rpartition("/")[2]
        suffix = f".{file.rpartition('.')[2].lower()}" if "." in file[1:] else ""
        if not suffix or suffix in LEFT_OUT_SUFFIXES | HEIF_SUFFIXES | {".avif"}:
            others[suffix] += 1
    if not count:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        rest = f"; {others}" if others else ""
        raise UsageError(f"{one.name}: no images under this prefix (looked for {kinds}){rest}.")
    others.pop("", None)  # such as _SUCCESS: most are no pictures
    left_out.update(others)


def _is_pattern(one: RemoteObject) -> bool:
    """Return whether an address is a pattern, and not the name of an object that is there."""
    if one.store.scheme in WEB:  # "?" begins a query
        return "*" in one.path.partition("?")[0]
    if "*" in one.path or not glob.has_magic(one.path):
        return "*" in one.path
    try:
        return not one.store.fs.exists(one.path)
    except Exception:  # the listing tells it with more words
        return True


def _matching(one: RemoteObject) -> Iterator[tuple[str, RemoteObject]]:
    parts = one.path.split("/")
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root, pattern = "/".join(parts[:fixed]), parts[fixed:]
    bucket = 3 if one.store.scheme in WEB else 1 + (parts[0] == "")  # parts of a host, or bucket
    if fixed < bucket:
        raise UsageError(f"{one.name}: the pattern has no {'host' if bucket == 3 else 'bucket'}.")
    # Without "**", folders below are not listed
    depth = None if "**" in pattern else len(pattern)
    base = RemoteObject(f"{one.address.partition('://')[0]}://{root.strip('/')}", one.store, root)
    if bucket == 3:
        base = RemoteObject(root, one.store, root)
    listing = partial(one.store.fs.find, f"{root}/" if bucket == 3 else root, maxdepth=depth)
    found = _listed(base, partial(listing, detail=True))
    count = 0
    for path in sorted(found):
        name = _inside(base, path)
        if name and _matches(pattern, name.split("/")):
            count += 1
            yield name, _below(base, path, found[path])
    if not count:
        raise UsageError(f"{one.name}: the pattern matches no object.")


def _matches(pattern: list[str], names: list[str]) -> bool:
    """Return whether a path matches, by the rules of `find_images`."""
    if not pattern or not names:
        return not pattern and not names
    first, name = pattern[0], names[0]
    if first == "**":
        if _matches(pattern[1:] or ["*"], names):
            return True
        return len(names) > 1 and not is_rubbish(name) and _matches(pattern, names[1:])
    hidden = name.startswith(".") and not first.startswith(".")
    rubbish = name.lower() in RUBBISH and name not in first
    fits = fnmatchcase(name, first) and not hidden and not rubbish
    return fits and _matches(pattern[1:], names[1:])


def _listed(one: RemoteObject, find: Callable[[], Any]) -> dict[str, int | None]:
    """Return the objects of a listing: path within the store -> bytes, if known."""

    def question() -> dict[str, int | None]:
        try:
            found = find()
            if not found:  # some listings leave out what they may not read, without a word
                one.store.fs.ls(one.path, detail=False)
        except FileNotFoundError as error:
            if failure_of(error).kind == "store":
                raise
            found = {}
        return {
            path: info.get("size")
            for path, info in found.items()
            if info.get("type") != "directory" and not path.endswith("/")
        }

    return ask(one.name, question)


def _inside(base: RemoteObject, path: str) -> str:
    return path.removeprefix(base.path).lstrip("/") if path != base.path else ""


def _below(base: RemoteObject, path: str, size: int | None) -> RemoteObject:
    address = f"{base.address.rstrip('/')}/{_inside(base, path)}"
    return RemoteObject(address, base.store, path, size)
