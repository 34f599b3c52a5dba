"""Clients that send slowly, or nothing, take no place for ever, and delay nobody."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.serve.conftest import PATIENCE_S, Running, ask, picture, read_answer, running

TIMEOUT_S = 0.4
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"


@pytest.fixture(scope="module")
def impatient() -> Iterator[Running]:
    with running(read_timeout=TIMEOUT_S) as started:
        yield started


def drip(sock: socket.socket, data: bytes) -> None:
    """Send a byte every 50 ms until the other side hangs up."""
    try:
        for byte in data:
            sock.sendall(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        return


@pytest.mark.parametrize("beginning", [b"", b"POST /pre", HEAD], ids=["none", "line", "headers"])
def test_a_head_that_does_not_come_is_hung_up(impatient: Running, beginning: bytes) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=PATIENCE_S) as sock:
        sock.sendall(beginning)
        assert sock.recv(1) == b""
    assert time.monotonic() - began >= 0.9 * TIMEOUT_S


def test_a_head_that_drips_is_hung_up(impatient: Running) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=PATIENCE_S) as sock:
        drip(sock, HEAD * 20)
    assert time.monotonic() - began < 30  # all of it would take 67 s


@pytest.mark.parametrize("framing", [b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"])
def test_a_body_that_does_not_come_gets_408(impatient: Running, framing: bytes) -> None:
    head = HEAD if framing == b"\r\n" else HEAD.replace(b"Content-Length: 1000\r\n", b"")
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=PATIENCE_S) as sock:
        sock.sendall(head + framing + b"xx")
        found = read_answer(sock)
        assert (found.status, found.json["error"]) == (
            408,
            "the body did not arrive within 0.4 s.",
        )
        assert sock.recv(1) == b""


def test_others_are_served_meanwhile(impatient: Running) -> None:
    slow = [socket.create_connection(("127.0.0.1", impatient.port)) for _ in range(50)]
    for number, sock in enumerate(slow):
        sock.sendall([b"POST", HEAD, HEAD + b"\r\nxx"][number % 3])
    assert ask(impatient.port, body=picture()).status == 200
    for sock in slow:
        sock.close()


def test_a_connection_is_kept_for_the_next_request(impatient: Running) -> None:
    """Also when that comes later than a request may take: it is not in the middle of one."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", impatient.port, timeout=PATIENCE_S)
    for _ in range(3):
        connection.request("POST", "/predict", picture())
        assert connection.getresponse().read()
        sock = connection.sock
        time.sleep(1.5 * TIMEOUT_S)
        assert connection.sock is sock
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    assert connection.sock is sock
    connection.close()
