"""Lists of paths on standard input."""

from __future__ import annotations

import io
from collections.abc import Iterator

from numclip_runtime.app.readers import read_paths
from tests.fuzz.harness import FindingError, refusals


def target(data: bytes) -> None:
    for null in (False, True):
        with refusals():
            for path in read_paths(io.BytesIO(data), null=null):
                if not path or "\0" in path:
                    raise FindingError(f"path {path!r}")


def seeds() -> Iterator[bytes]:
    yield b"a.jpg\nb c.jpg\n\nd.jpg"
    yield "\ufeffä.jpg\r\n".encode() + b"\xff.jpg\n"
    yield b"a.jpg\0b\n.jpg\0"
