"""A raw HTTP/1.1 client for load: it measures, and may misbehave on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

BOUNDARY = "numclip-benchmark"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    retry_after_s: float
    body: bytes


def raw_request(body: bytes, *, chunked: bool = False) -> bytes:
    """Return a POST of one picture."""
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    if not chunked:
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    size = max(1, len(body) // 3)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


def form_request(bodies: Sequence[bytes]) -> bytes:
    """Return a POST of several pictures."""
    parts = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; '
        f'filename="{number}.jpg"\r\n\r\n'.encode()
        + body
        + b"\r\n"
        for number, body in enumerate(bodies)
    )
    body = parts + f"--{BOUNDARY}--\r\n".encode()
    head = (
        "POST /predict HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get_request(path: str) -> bytes:
    """Return a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Client:
    """One connection, opened when it is needed.

    Args:
        port: Of a server on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return its answer.

        Raises:
            OSError: if the connection fails.
            TimeoutError: after `TIMEOUT_S`.
        """
        try:
            return await asyncio.wait_for(self._ask(request), TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    async def send_part(self, request: bytes, wait_s: float) -> None:
        """Send the beginning of a request, wait, and hang up."""
        _, writer = await self._open()
        writer.write(request)
        await writer.drain()
        await asyncio.sleep(wait_s)
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    async def _ask(self, request: bytes) -> Answer:
        reader, writer = await self._open()
        writer.write(request)
        await writer.drain()
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            body = await reader.readexactly(int(fields.get("content-length", "0")))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the server hung up") from error
        if fields.get("connection") == "close":
            self.close()
        return Answer(int(lines[0].split()[1]), float(fields.get("retry-after", "0")), body)
