"""A real server on a free port of this machine: in a thread, or as the command in a process."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
pytest.importorskip("uvicorn", reason="pip install 'numclip[serve]'")

from numclip_runtime.serve import warm
from numclip_runtime.serve.predict_line import PredictLine
from numclip_runtime.serve.serve_options import ServeOptions
from numclip_runtime.serve.server_app import ServerApp
from numclip_runtime.serve.server_metrics import ServerMetrics
from numclip_runtime.serve.serving import answer, listening
from numclip_runtime.serve.warm import Unobserved

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/data/tiny.onnx"
PATIENCE_S = 60.0  # for what takes milliseconds on a quiet machine


@dataclass(frozen=True)
class Answered:
    """An answer of the server."""

    status: int
    headers: dict[str, str]  # by name in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def picture(kind: str = "PNG", level: int = 60, size: tuple[int, int] = (20, 14)) -> bytes:
    """Return the file of a grey picture with some noise."""
    rng = np.random.default_rng(level)
    pixels = np.clip(level + rng.integers(-9, 9, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def ask(
    port: int,
    path: str = "/predict",
    body: bytes | None = None,
    *,
    method: str | None = None,
    **headers: str,
) -> Answered:
    """Send one request; a keyword `content_type` is the header Content-Type."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), path, body, fields)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    content = response.read()
    connection.close()
    return Answered(response.status, found, content)


def form(parts: list[tuple[str | bytes, bytes]], boundary: str = "b0und") -> tuple[bytes, str]:
    """Return a multipart body of (file name, content), and its Content-Type."""
    body = b""
    for name, content in parts:
        raw = name.encode() if isinstance(name, str) else name
        body += f"--{boundary}\r\nContent-Disposition: form-data; ".encode()
        body += b'name="i"; filename="' + raw + b'"\r\n\r\n' + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def read_answer(sock: socket.socket) -> Answered:
    """Read one answer off a socket; a connection that is closed without one has status 0."""
    response = http.client.HTTPResponse(sock)
    try:
        response.begin()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return Answered(0, {}, b"")
    return Answered(
        response.status, {name.lower(): value for name, value in response.getheaders()}, body
    )


def send_raw(port: int, data: bytes) -> Answered:
    """Send bytes, say that no more will come, and read the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        with suppress(OSError):  # the server has answered already
            sock.sendall(data)
        return read_answer(sock)


def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    app: ServerApp
    port: int
    stop: Callable[[], None]  # as a signal does
    ended: threading.Event


@contextmanager
def running(
    line: PredictLine | None = None, model: Path = TINY, **options: Any
) -> Iterator[Running]:
    """Run a server; without a line, one of the model, warmed up."""
    chosen = ServeOptions(**{"port": 0, "quiet": True, "reload_every": 0.0, **options})
    metrics = ServerMetrics()
    listener = listening("127.0.0.1", 0)
    app = ServerApp(line or warm.open_line(model, chosen, metrics), chosen, metrics)
    began, ended = threading.Event(), threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        loops.append((asyncio.get_running_loop(), asyncio.Event()))
        began.set()
        await answer(app, model, listener, loops[0][1])

    def target() -> None:
        try:
            asyncio.run(run())
        finally:
            ended.set()

    def stop() -> None:
        loop, event = loops[0]
        if not ended.is_set():
            loop.call_soon_threadsafe(event.set)

    with patch.object(warm, "LEAST_S", 0.0), patch.object(warm, "SIZE", (64, 48)):
        thread = threading.Thread(target=target)
        thread.start()
        began.wait(PATIENCE_S)
        try:
            eventually(lambda: app.warm or ended.is_set())
            yield Running(app, listener.getsockname()[1], stop, ended)
        finally:
            stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """Return a server of the tiny model, for tests that leave it as it was."""
    with running() as started:
        yield started


@dataclass(frozen=True)
class Command:
    """`numclip serve` in a process."""

    process: subprocess.Popen[str]
    port: int

    def end(self) -> tuple[int, str]:
        """Wait for the end; return exit code and what else stderr said."""
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err


@contextmanager
def command(*args: object, model: Path | str = TINY) -> Iterator[Command]:
    """Run the command, and wait until it listens and is ready."""
    words = [sys.executable, "-m", "numclip", "serve", str(model), "--port", "0"]
    process = subprocess.Popen(
        [*words, *map(str, args)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.search(r" at http://[\d.:\[\]]+:(\d+) \(", first)
        assert found, first
        port = int(found[1])
        eventually(lambda: _ready(port))
        yield Command(process, port)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _ready(port: int) -> bool:
    try:
        return ask(port, "/readyz").status == 200
    except OSError:
        return False


def unobserved_line(predictor: Any, plan: Any) -> PredictLine:
    """Return a line of its own."""
    return PredictLine(predictor, plan, Unobserved(), name="x.onnx", digest="0" * 64)
