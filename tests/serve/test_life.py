"""From start to end: what is refused at once, readiness, and an end that loses nothing."""

from __future__ import annotations

import re
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from numclip_runtime.pipeline import StreamPlan
from tests.runtime.test_numclip_command import invoke, python
from tests.serve.conftest import (
    PATIENCE_S,
    TINY,
    ask,
    command,
    eventually,
    picture,
    read_answer,
    running,
)
from tests.serve.malformed import post
from tests.serve.test_admission import held_server

PLAN = StreamPlan(batch_size=1, workers=1, lanes=1, whole=True)


@pytest.mark.posix("sends signals")
@pytest.mark.parametrize(
    ("signum", "code", "word"),
    # Ctrl-C is in the next test
    [(signal.SIGTERM, 143, "Terminated")],
)
def test_a_signal_ends_it_after_the_requests_under_way(
    default_signals: None, signum: int, code: int, word: str
) -> None:
    with command("--quiet") as server:
        body = picture("PNG", size=(2000, 1500))
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as sock:
            data = post(body)
            sock.sendall(data[:-1000])
            eventually(
                lambda: b"numclip_requests_in_flight 2.0" in ask(server.port, "/metrics").body
            )
            server.process.send_signal(signum)
            time.sleep(0.3)
            sock.sendall(data[-1000:])
            assert read_answer(sock).status == 200
        ended, err = server.end()
        assert (ended, err) == (code, f"{word}: the requests under way were answered.\n")


@pytest.mark.posix("sends signals")
def test_a_second_signal_ends_it_at_once(default_signals: None) -> None:
    with command("--quiet") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(post(b"", length="1000"))
            eventually(
                lambda: b"numclip_requests_in_flight 2.0" in ask(server.port, "/metrics").body
            )
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert server.process.poll() is None
            server.process.send_signal(signal.SIGINT)
            code, err = server.end()
        assert (code, err.splitlines()[-1]) == (130, "Interrupted.")
        assert "Traceback" not in err


def test_not_ready_while_it_drains_but_it_still_answers() -> None:
    with running(drain_delay=1.0) as server:
        assert ask(server.port, "/readyz").json == {"status": "ready"}
        server.stop()
        eventually(lambda: server.app.draining)
        found = ask(server.port, "/readyz")
        assert (found.status, found.json) == (503, {"status": "draining"})
        assert ask(server.port, body=picture()).status == 200
        assert server.ended.wait(PATIENCE_S)
        with pytest.raises(ConnectionRefusedError):
            ask(server.port, "/healthz")


def test_what_waits_is_answered_before_the_end() -> None:
    with held_server(PLAN, max_wait=60.0) as (server, held):
        line = server.app.line
        with ThreadPoolExecutor(5) as pool:
            ends = [pool.submit(ask, server.port, body=picture()) for _ in range(5)]
            eventually(lambda: line.waiting + line.running == 5)
            server.stop()
            eventually(lambda: server.app.draining)
            held.gate.set()
            assert [end.result().status for end in ends] == [200] * 5
        assert server.ended.wait(PATIENCE_S)
        assert held.backend.closed


def test_the_end_does_not_wait_for_ever() -> None:
    options = {"max_wait": 60.0, "drain_timeout": 1.0, "read_timeout": 600.0}
    with (
        held_server(PLAN, **options) as (server, _),
        socket.create_connection(("127.0.0.1", server.port)) as sock,
    ):
        sock.sendall(post(b"", length="1000"))
        eventually(lambda: server.app.asgi.requests == 1)
        began = time.monotonic()
        server.stop()
        assert server.ended.wait(PATIENCE_S)
        assert time.monotonic() - began < 30


def test_not_ready_before_it_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    from numclip_runtime.serve import serving
    from numclip_runtime.serve.warm import warm_up

    gate, begun = threading.Event(), threading.Event()

    def held(line: Any) -> None:
        begun.set()
        assert gate.wait(PATIENCE_S)
        warm_up(line)

    monkeypatch.setattr(serving, "warm_up", held)
    found: list[int] = []

    def look() -> None:
        assert begun.wait(PATIENCE_S)
        port = ports[0]
        found.extend(
            (
                ask(port, "/healthz").status,
                ask(port, "/readyz").status,
                ask(port, body=picture()).status,
            )
        )
        gate.set()

    ports: list[int] = []
    listening = serving.listening

    def noted(host: str, port: int) -> socket.socket:
        listener = listening(host, port)
        ports.append(listener.getsockname()[1])
        return listener

    monkeypatch.setattr("tests.serve.conftest.listening", noted)
    import tests.serve.conftest as home

    monkeypatch.setattr(home, "listening", noted)
    thread = threading.Thread(target=look)
    thread.start()
    with home.running() as server:
        thread.join()
        assert found == [200, 503, 503]
        assert ask(server.port, "/readyz").status == 200
        page = ask(server.port, "/metrics").body.decode()
    assert 'numclip_images_total{outcome="predicted"} 0.0' in page  # not those of the warm-up


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = invoke("serve", TINY, "--port", port)
    assert (code, out) == (2, "")
    assert re.fullmatch(
        rf"Error: 127\.0\.0\.1:{port}: cannot be listened on \(.+\); choose another --port, or 0 "
        r"for a free one\.\n",
        err,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'MODEL'."),
        ([TINY, "--model", TINY], "leave one out"),
        (["none.onnx"], "none.onnx: no such file"),
        ([Path(__file__)], "expected a .onnx or .plan file"),
        ([TINY, "--sha256", "0" * 64], "it was not loaded"),
        ([TINY, "--host", "0.0.0.0"], "give --token-file FILE"),
        ([TINY, "--host", "no.such.host.invalid", "--no-token"], "there is no such address"),
        ([TINY, "--max-wait", "-1"], "--max-wait"),
        ([TINY, "--require-gpu"], "a GPU is required"),
    ],
)
def test_wrong_use_is_refused_at_once(
    arguments: list[object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = invoke("serve", *arguments, "--port", "0")
    assert (code, out) == (2, "")
    assert words in err


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("starlette", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = invoke("serve", TINY)
    assert code == 2
    assert "starlette, uvicorn are not installed; " in err
    assert err.endswith("install with: pip install 'numclip[serve]'\n")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from numclip.entry import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: print('LOADED', *sys.modules, sep='\\n')"
    )
    loaded = set(python("-c", code).stdout.partition("LOADED")[2].split())
    assert "numclip_runtime.serve.serve_command" in loaded
    assert not loaded & {"starlette", "uvicorn", "h11", "prometheus_client", "onnxruntime"}
