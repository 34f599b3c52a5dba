"""The body of a request, read within limits: one picture, or several as multipart/form-data."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from numclip_runtime.errors import first_line
from numclip_runtime.serve.predict_line import Upload
from numclip_runtime.serve.serve_options import ServeOptions

Receive: TypeAlias = Callable[[], Awaitable[Any]]  # of ASGI

MAX_PART_HEADERS = 8
MAX_PART_HEADER = 4096  # bytes of one header of a part
MAX_BOUNDARY = 70  # characters, RFC 2046
# curl sends the third with --data-binary; what the bytes are, is told by the bytes
RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
FORM_TYPE = "multipart/form-data"


class HttpRefusal(Exception):  # noqa: N818 (it is no fault of ours)
    """A request that is answered with 4xx or 503.

    Args:
        status: Of HTTP.
        sentence: For the client; says the way out.
        headers: Of the answer.
    """

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, dict(headers or {})


class ClientGoneError(Exception):
    """The client hung up."""


@dataclass
class BodyBuffer:
    """The memory that bodies take, of all requests together; one event loop uses it."""

    limit: int  # bytes
    used: int = 0  # bytes

    def take(self, size: int) -> None:
        """Count bytes that have come in.

        Raises:
            HttpRefusal: if they are too many.
        """
        if self.used + size > self.limit:
            raise HttpRefusal(
                429, "too many uploads at a time; try again later.", {"Retry-After": "1"}
            )
        self.used += size


class Body:
    """The body of a request, of which no more is read than the limits allow.

    Args:
        receive: Of ASGI.
        headers: By name in lower case.
        options: The limits.
        buffer: Of all requests; `release` gives back what this one took.
    """

    def __init__(
        self,
        receive: Receive,
        headers: Mapping[str, str],
        options: ServeOptions,
        buffer: BodyBuffer,
    ) -> None:
        self._receive, self._options, self._buffer = receive, options, buffer
        self._headers = headers
        self.size = 0  # bytes that have come

    def release(self) -> None:
        """Give back the memory."""
        self._buffer.used -= self.size

    async def uploads(self) -> tuple[list[Upload], bool]:
        """Return the pictures, and whether they came as a list.

        Raises:
            HttpRefusal: if the body is not what it should be, or comes too slowly.
            ClientGoneError: if the client hung up.
        """
        boundary = self._boundary()
        length = self._headers.get("content-length", "")
        if length.isascii() and length.isdecimal() and int(length) > self._options.max_bytes:
            raise self._too_large()
        return await self._in_time(boundary)

    async def _in_time(self, boundary: bytes | None) -> tuple[list[Upload], bool]:
        """Read the body, or be too late.

        Not `asyncio.wait_for`: what that raises refers to itself, and so keeps the body in memory
        until Python looks for such circles.
        """
        limit, task, late = self._options.read_timeout, asyncio.current_task(), False

        def end() -> None:
            nonlocal late
            late = True
            assert task is not None
            task.cancel()

        timer = asyncio.get_running_loop().call_later(limit, end)
        try:
            return await self._read(boundary)
        except asyncio.CancelledError:
            if not late:
                raise
            if sys.version_info >= (3, 11) and task is not None:
                task.uncancel()
            sentence = f"the body did not arrive within {limit:g} s."
            raise HttpRefusal(408, sentence, {"Connection": "close"}) from None
        finally:
            timer.cancel()

    async def _read(self, boundary: bytes | None) -> tuple[list[Upload], bool]:
        if boundary is not None:
            return await self._parts(boundary), True
        content = b"".join([chunk async for chunk in self._chunks()])
        if not content:
            raise HttpRefusal(400, "the body is empty; send the bytes of a picture.")
        name = _filename(self._headers.get("content-disposition", "").encode("latin-1"))
        return [Upload(name, content)], False

    def _boundary(self) -> bytes | None:
        """Return the boundary of a form; None: the body is one picture."""
        given = self._headers.get("content-type", "")
        kind = given.partition(";")[0].strip().lower()
        if encoding := self._headers.get("content-encoding", ""):
            raise HttpRefusal(415, f"Content-Encoding {encoding[:40]}: send the picture as it is.")
        if kind == FORM_TYPE:
            boundary = _options_of(given.encode("latin-1")).get(b"boundary", b"")
            if not 0 < len(boundary) <= MAX_BOUNDARY:
                raise HttpRefusal(
                    400, f"{FORM_TYPE} without a boundary of 1 to {MAX_BOUNDARY} characters."
                )
            return boundary
        if kind not in RAW_TYPES and not kind.startswith("image/"):
            raise HttpRefusal(
                415,
                f"Content-Type {kind[:80]}: send the bytes of a picture as image/* or "
                f"application/octet-stream, or several as {FORM_TYPE}.",
            )
        return None

    def _too_large(self) -> HttpRefusal:
        return HttpRefusal(
            413, f"the body has more than {self._options.max_bytes} bytes, which is the limit."
        )

    async def _chunks(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if self.size + len(chunk) > self._options.max_bytes:
                raise self._too_large()
            self._buffer.take(len(chunk))
            self.size += len(chunk)
            yield chunk

    async def _parts(self, boundary: bytes) -> list[Upload]:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser

        parts = _Parts(self._options.max_images)
        try:
            parser = MultipartParser(
                boundary,
                parts.callbacks(),  # type: ignore[arg-type]  # a dictionary with optional keys
                max_header_count=MAX_PART_HEADERS,
                max_header_size=MAX_PART_HEADER,
            )
            async for chunk in self._chunks():
                parser.write(chunk)
        except FormParserError as error:
            raise HttpRefusal(
                400, f"the multipart body is damaged: {first_line(error).rstrip('.')}."
            ) from None
        if not parts.ended:
            raise HttpRefusal(400, "the multipart body ends before its last boundary.")
        if not parts.uploads:
            raise HttpRefusal(400, "the multipart body has no part; send each picture as one.")
        return parts.uploads


class _Parts:
    """Collects the parts of a form while it is parsed."""

    def __init__(self, most: int) -> None:
        self.uploads: list[Upload] = []
        self.ended = False
        self._most = most
        self._content, self._field, self._value = bytearray(), bytearray(), bytearray()
        self._name = ""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_content,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.uploads) == self._most:
            raise HttpRefusal(413, f"more than {self._most} pictures in one request.")
        self._content, self._name = bytearray(), ""

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._name = _filename(bytes(self._value))
        self._field, self._value = bytearray(), bytearray()

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        self._content += memoryview(data)[start:end]

    def _end_part(self) -> None:
        self.uploads.append(Upload(self._name, bytes(self._content)))

    def _end(self) -> None:
        self.ended = True


def _options_of(value: bytes) -> dict[bytes, bytes]:
    from python_multipart.multipart import parse_options_header

    with suppress(ValueError, IndexError):
        return parse_options_header(value)[1]
    return {}


def _filename(disposition: bytes) -> str:
    """Return the name that a client gives a picture; never used as a path."""
    return _options_of(disposition).get(b"filename", b"").decode("utf-8", "backslashreplace")
