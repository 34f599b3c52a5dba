"""What every request passes first: who asks, under which name, and a line about the answer."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from numclip_runtime.console import cut, json_text, say
from numclip_runtime.errors import first_line
from numclip_runtime.serve.server_metrics import ServerMetrics
from numclip_runtime.serve.uploads import HttpRefusal

Scope: TypeAlias = dict[str, Any]
Asgi: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

OPEN = ("/healthz", "/readyz")  # probes carry no token; the files of the page are open as well
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_NAME = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d*)?")
# A page of another site may send a form to a server of this machine without being asked
FOREIGN_SITES = (b"cross-site", b"same-site")
MOST_HEADERS = 16 << 10  # bytes of a request's line and headers
MOST_LINES = 100
FAULT = "a fault of the server; its log has the reason."
LOGGED = 80  # characters of a path in the log
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """An ASGI application before another one.

    Args:
        app: Answers what is let through.
        metrics: Counts the answers.
        token: That clients must send; None: none.
        local: Whether the address is of this machine only, whose server answers under its names
            only: a page of a stranger may have a name that leads here (DNS rebinding).
        open_paths: Paths that need no token, beside `OPEN`.
        quiet: Whether to print no line per request.
    """

    def __init__(
        self,
        app: Asgi,
        metrics: ServerMetrics,
        *,
        token: bytes | None,
        local: bool,
        open_paths: frozenset[str],
        quiet: bool,
    ) -> None:
        self._app, self._metrics = app, metrics
        self._token, self._local, self._quiet = token, local, quiet
        self._open = open_paths | set(OPEN)
        self.requests = 0  # that are being answered

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        began, status = time.perf_counter(), 499  # nothing was sent: the client had gone

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        self.requests += 1
        try:
            if (refusal := self._refusal(scope)) is not None:
                await refuse(sent, refusal)
            else:
                await self._app(scope, receive, sent)
        except Exception as error:
            say(f"Fault: {type(error).__name__}: {first_line(error)}")
            if status == 499:  # otherwise the application has answered
                await refuse(sent, HttpRefusal(500, FAULT))
        finally:
            self.requests -= 1
            seconds = time.perf_counter() - began
            self._metrics.request(scope["path"], status, seconds)
            if not self._quiet:
                self._log(scope, status, seconds)

    def _refusal(self, scope: Scope) -> HttpRefusal | None:
        # h11 limits them only while they are incomplete
        if len(scope["headers"]) > MOST_LINES or sum(map(_size, scope["headers"])) > MOST_HEADERS:
            return HttpRefusal(431, f"more than {MOST_LINES} headers, or {MOST_HEADERS} bytes.")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._local:
            name = _NAME.fullmatch(headers.get(b"host", b"").decode("latin-1").lower())
            if name is None or name[1] not in LOCAL_NAMES:
                return HttpRefusal(
                    421,
                    "this server answers as localhost only; behind a proxy, let that send "
                    "`Host: localhost`, or start it with --host.",
                )
        if scope["method"] == "POST" and headers.get(b"sec-fetch-site") in FOREIGN_SITES:
            return HttpRefusal(403, "pages of other sites may not send pictures here.")
        if self._token is None or scope["path"] in self._open:
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token):
            return None
        return HttpRefusal(
            401, "send the header `Authorization: Bearer TOKEN`.", {"WWW-Authenticate": "Bearer"}
        )

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        client = scope["client"][0] if scope.get("client") else "-"
        what = f"{cut(scope['method'], 10)} {cut(scope['path'], LOGGED)}"
        say(f"{client} {what} {status} {1000 * seconds:.1f} ms")


def _size(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])


async def refuse(send: Any, refusal: HttpRefusal) -> None:
    """Send a refusal: {"error": sentence}."""
    body = json_text({"error": str(refusal)}, encoding=None).encode()
    given = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    headers = [(k.lower().encode(), v.encode()) for k, v in (given | refusal.headers).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
