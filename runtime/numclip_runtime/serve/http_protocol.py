"""HTTP/1.1 of the server: uvicorn's, with limits of time and clearer refusals."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from numclip_runtime.console import json_text

LINGER_S = 5.0  # for a body that comes after its answer: a reset would make the client lose that


def http_protocol(read_timeout: float, refused: Callable[[int], object]) -> type[asyncio.Protocol]:
    """Return the class of a connection.

    Args:
        read_timeout: Seconds from the first byte of a request to the end of its headers; and from
            the connection to its first byte.
        refused: Called with the status of a request that the application never saw.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self._wait(read_timeout)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()  # the application has it
            elif self._timer is None:
                rest = self.conn.their_state is h11.SEND_BODY
                self._wait(min(LINGER_S, read_timeout) if rest else read_timeout)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY and self._timer is None:
                self._wait(min(LINGER_S, read_timeout))

        def _wait(self, seconds: float) -> None:
            self._timer = self.loop.call_later(seconds, self._too_slow)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            error = sys.exc_info()[1]
            status = getattr(error, "error_status_hint", 400)
            if status >= 500:  # h11: 501 for an unknown coding, which is the client's mistake
                status = 400
            refused(status)
            body = json_text({"error": f"not a request of HTTP/1.1: {error}."}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            reason = HTTPStatus(status).phrase.encode()
            events: list[Any] = [
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            try:
                for event in events:
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:  # an answer was sent already, or is half sent
                pass
            self.transport.close()

    return Connection
