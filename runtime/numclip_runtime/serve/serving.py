"""A server from its first byte to its last: listen, warm up, answer, drain."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from numclip_runtime.app.progress import chosen
from numclip_runtime.console import say
from numclip_runtime.errors import UsageError, require
from numclip_runtime.model_files.names import model_path
from numclip_runtime.posix import most_open_files
from numclip_runtime.serve.guard import MOST_HEADERS
from numclip_runtime.serve.http_protocol import http_protocol
from numclip_runtime.serve.reloading import watch_model
from numclip_runtime.serve.serve_options import ServeOptions
from numclip_runtime.serve.server_app import ServerApp
from numclip_runtime.serve.server_metrics import ServerMetrics
from numclip_runtime.serve.warm import open_line, warm_up
from numclip_runtime.signals import Stopped, signals_go_to

SERVE_PACKAGES = ("starlette", "uvicorn", "h11", "prometheus_client", "python_multipart")
BACKLOG = 512  # connections that the system keeps until they are taken
MOST_CONNECTIONS = 1000
SPARE_FILES = 64  # that the process opens beside its connections
SAVED_EVERY_S = 1.0  # looks whether the monitor's file is due
KEEP_ALIVE_S = 65  # longer than the 60 s after which most proxies close a connection


def serve(model: Path, options: ServeOptions) -> None:
    """Answer requests until a signal asks to stop.

    Raises:
        Stopped: by the signal, once the requests under way are answered.
        UsageError: if the address cannot be listened on, or the flags contradict each other.
        MissingDependencyError: if a package of the extra is missing.
        ModelError: if the model cannot be used.
    """
    options.check()
    require("serve", *SERVE_PACKAGES)
    model = model_path(model)
    metrics = ServerMetrics()
    with listening(options.host, options.port) as listener:
        line = open_line(model, options, metrics)
        try:
            app = ServerApp(line, options, metrics)
            say(_greeting(app, listener))
            predictor = line.predictor
            notes = (f"Note: {note}" for note in predictor.backend.notes)
            for sentence in filter(None, (predictor.choice, *notes)):
                say(sentence)
            stopped = asyncio.run(answer(app, model, listener))
        except BaseException:
            line.predictor.close()
            raise
    if stopped is not None:
        raise Stopped(stopped, "the requests under way were answered")


def listening(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; it takes connections once the server runs.

    Raises:
        UsageError: if there is no such address, or somebody else listens on it.
    """
    name = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host}: there is no such address on this machine.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"{host}:{port}: cannot be listened on ({error.strerror}); choose another --port, or 0 "
            "for a free one."
        ) from None
    return listener


async def answer(
    app: ServerApp, model: Path, listener: socket.socket, stop: asyncio.Event | None = None
) -> int | None:
    """Answer requests until a signal comes, or an event.

    Args:
        app: The server; its line is closed at the end.
        model: Its file, which is watched.
        listener: Bound.
        stop: Asks to stop as a signal does.

    Returns:
        The number of the signal; None: the event.

    Raises:
        Exception: of a model that cannot be warmed up.
    """
    loop, stop, came = asyncio.get_running_loop(), stop or asyncio.Event(), list[int]()

    def take(signum: int) -> None:
        came.append(signum)
        loop.call_soon_threadsafe(stop.set)

    server = _uvicorn(app)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    asked = asyncio.create_task(stop.wait())
    working = asyncio.create_task(_work(app, model))
    with signals_go_to(take):
        await asyncio.wait({serving, asked, working}, return_when=asyncio.FIRST_COMPLETED)
        app.draining = True
        if not working.done():
            await asyncio.sleep(app.options.drain_delay)
        server.should_exit = True
        await serving
        asked.cancel()
        if not working.done():
            working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        await asyncio.to_thread(app.line.close)
        if app.monitor is not None:
            app.monitor.conclude()
    return came[0] if came else None


async def _work(app: ServerApp, model: Path) -> None:
    """Warm the model up, and then look after its file and the monitor's."""
    await asyncio.to_thread(warm_up, app.line)
    app.is_warm()
    if app.options.reload_every > 0:
        await asyncio.gather(watch_model(app, model), _keep_monitor(app))
    await _keep_monitor(app)


async def _keep_monitor(app: ServerApp) -> None:
    while True:
        await asyncio.sleep(SAVED_EVERY_S)
        if app.monitor is not None:
            await asyncio.to_thread(app.monitor.save_if_due)


def _greeting(app: ServerApp, listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    host = f"[{host}]" if ":" in host else host
    line = app.line
    return f"{line.name} at http://{host}:{port} ({chosen(line.predictor, line.plan)})"


def _uvicorn(app: ServerApp) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:
            return nullcontext()  # they are numclip's

    for name in ("uvicorn", "uvicorn.error", "python_multipart"):
        logger = logging.getLogger(name)
        logger.propagate, logger.handlers = False, [_Say(logging.ERROR)]
    options = app.options
    return Server(
        uvicorn.Config(
            app.asgi,
            http=http_protocol(
                options.read_timeout, lambda status: app.metrics.request("other", status, 0)
            ),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_most_connections(),
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(options.drain_timeout)),
            h11_max_incomplete_event_size=MOST_HEADERS,
        )
    )


def _most_connections() -> int:
    files = most_open_files()
    if files is None:
        return MOST_CONNECTIONS
    return max(16, min(MOST_CONNECTIONS, files - SPARE_FILES))


class _Say(logging.Handler):
    """Prints the errors of uvicorn as lines of numclip's."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info and record.exc_info[1]
        if not isinstance(error, asyncio.CancelledError):  # at the end of `drain_timeout`
            say(f"Server: {record.getMessage().strip().rstrip('.')}.")
