"""The files of the page, as they are sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

OWN = Path(__file__).with_name("page")
SHARED = Path(__file__).parents[1] / "webpage"  # also of the page that numclip-export writes
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class StaticFile:
    """A file and its headers."""

    content: bytes
    headers: dict[str, str]


def page_files() -> dict[str, StaticFile]:
    """Return the files of the page by path; / is index.html."""
    found = {}
    for folder in (SHARED, OWN):
        for file in sorted(folder.iterdir()):
            headers = {
                "Content-Type": _TYPES[file.suffix],
                "Content-Security-Policy": POLICY,
                "Cache-Control": "no-cache",
            }
            path = "/" if file.name == "index.html" else f"/{file.name}"
            found[path] = StaticFile(file.read_bytes(), headers)
    return found
