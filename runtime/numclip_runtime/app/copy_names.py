"""Names of files that are made from the names of pictures, on any system."""

from __future__ import annotations

import os
from pathlib import PurePath, PurePosixPath, PureWindowsPath

LONGEST = 240  # bytes of a name; file systems take 255, and "-2" and ".png" may be added
ON_WINDOWS = os.name == "nt"
# Windows reads the superscripts as digits
_PORTS = {f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789¹²³"}
_RESERVED = _PORTS | {"con", "prn", "aux", "nul", "conin$", "conout$"}
_FORBIDDEN = frozenset('<>:"|?*')


def inside(path: str, *, windows: bool = ON_WINDOWS) -> str:
    """Return a relative path that stays inside any folder it is put into.

    Args:
        path: Of a picture; drives, servers and ".." are taken off.
        windows: By the rules of Windows: characters and names that it reserves are changed.
    """
    pure: PurePath = PureWindowsPath(path) if windows else PurePosixPath(path)
    parts = [part for part in pure.parts[1 if pure.anchor else 0 :] if part != ".."]
    if windows:
        parts = [_for_windows(part) for part in parts]
    return str(type(pure)(*map(_short, parts))) if parts else "image"


def _for_windows(part: str) -> str:
    part = "".join("_" if c in _FORBIDDEN or ord(c) < 32 else c for c in part)
    part = part.rstrip(". ") or "_"  # which it takes off
    return f"_{part}" if part.partition(".")[0].rstrip().lower() in _RESERVED else part


def _short(part: str) -> str:
    """Shorten a name to `LONGEST` bytes; a digest keeps names apart that begin alike."""
    if len(os.fsencode(part)) <= LONGEST:
        return part
    stem, dot, suffix = part.rpartition(".")
    if not stem or len(os.fsencode(suffix)) > 20:
        stem, dot, suffix = part, "", ""
    from hashlib import sha256  # 3 ms, for OpenSSL

    end = f"~{sha256(os.fsencode(part)).hexdigest()[:8]}{dot}{suffix}"
    return _cut(stem, LONGEST - len(os.fsencode(end))) + end


def _cut(text: str, most: int) -> str:
    """Return as many characters as fit into a number of bytes."""
    text = text[:most]  # each takes a byte or more; a path of 4 kB would else take 6 ms
    while len(os.fsencode(text)) > most:
        text = text[:-1]
    return text
