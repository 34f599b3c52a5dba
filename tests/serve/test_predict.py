"""POST /predict: the records of the command, and a status that fits what went wrong."""

from __future__ import annotations

import gc
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import load
from numclip_runtime.serve.predict_line import Upload
from numclip_runtime.serve.serve_options import ServeOptions
from numclip_runtime.serve.warm import Unobserved, open_line
from tests.runtime.conftest import invoke, records
from tests.serve.conftest import (
    PATIENCE_S,
    TINY,
    Running,
    ask,
    eventually,
    form,
    picture,
    read_answer,
    running,
    send_raw,
)
from tests.serve.malformed import png, post

KINDS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")


@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_picture_gets_the_record_of_the_command(
    server: Running, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "a.bin").write_bytes(content := picture(kind))
    (expected,) = records(invoke(TINY, tmp_path / "a.bin", "--device", "cpu"))
    found = ask(server.port, body=content, content_type="image/x")
    assert (found.status, found.headers["content-type"]) == (200, "application/json")
    assert list(found.json) == list(expected)
    assert found.json == {**expected, "path": ""}


def test_several_pictures_get_the_records_of_the_command(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cut = picture(size=(64, 48))[:300]
    parts = [("a.png", picture()), ("täxt.jpg", b"text"), ("cut.png", cut), ("b", picture(level=9))]
    for name, content in parts:
        Path(name).write_bytes(content)
    expected = records(invoke(TINY, *(name for name, _ in parts), "--device", "cpu"))
    body, kind = form([*parts])
    found = ask(server.port, body=body, content_type=kind)
    assert found.status == 200
    assert [json.dumps(record) for record in found.json] == list(map(json.dumps, expected))
    assert ["error" in record for record in found.json] == [False, True, True, False]


def test_names_come_back_as_they_were_given(server: Running) -> None:
    names = ["a b.png", "💥.png", 'say \\"cheese\\".png', "../../a.png"]
    body, kind = form([(name, picture()) for name in names] + [(b"\xff.png", picture())])
    found = [record["path"] for record in ask(server.port, body=body, content_type=kind).json]
    assert found == ["a b.png", "💥.png", 'say "cheese".png', "../../a.png", "\\xff.png"]
    header = 'attachment; filename="a.png"'
    assert ask(server.port, body=b"x", content_disposition=header).json == {
        "path": "a.png",
        "error": "a.png: not an image that Pillow can read.",
    }


def test_one_part_gets_a_list(server: Running) -> None:
    body, kind = form([("a.png", picture())])
    assert [r["path"] for r in ask(server.port, body=body, content_type=kind).json] == ["a.png"]


def test_a_chunked_body(server: Running) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, bytes([byte])) for byte in picture("PNG"))
    data = post(chunks + b"0\r\n\r\n", length=None, extra="Transfer-Encoding: chunked\r\n")
    assert send_raw(server.port, data).json == ask(server.port, body=picture("PNG")).json


def test_what_curl_calls_it_by_default(server: Running) -> None:
    kind = "application/x-www-form-urlencoded"
    assert ask(server.port, body=picture(), content_type=kind).status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", "image/png", 400, "the body is empty"),
        (b"text", "image/png", 415, "not an image"),
        (b"8BPS\0\1" + b"\0" * 99, "image/png", 415, "Photoshop"),
        (picture(size=(64, 48))[:300], "image/png", 422, "cannot be decoded"),
        (png(60_000, 60_000), "image/png", 413, "against decompression bombs"),
        (picture(), "application/json", 415, "Content-Type application/json: send the bytes"),
        (picture(), "multipart/form-data", 400, "without a boundary"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400, "has no part"),
        (b"--x\r\n\r\na", "multipart/form-data; boundary=x", 400, "before its last boundary"),
    ],
)
def test_a_wrong_body(server: Running, body: bytes, kind: str, status: int, words: str) -> None:
    found = ask(server.port, body=body, content_type=kind)
    assert found.status == status
    assert words in found.json["error"]
    assert found.json["error"].endswith(".")


@pytest.fixture(scope="module")
def narrow() -> Iterator[Running]:
    with running(max_bytes=5000, max_images=3, max_buffer=9000) as started:
        yield started


@pytest.mark.parametrize("framing", ["Content-Length: 5001", "Transfer-Encoding: chunked"])
def test_a_large_body_is_refused_before_it_is_complete(narrow: Running, framing: str) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode()
    part = b"fff\r\n" + b"x" * 0xFFF + b"\r\nfff\r\n" + b"x" * 0xFFF
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=PATIENCE_S) as sock:
        sock.sendall(head + (part if "chunked" in framing else b"x"))
        found = read_answer(sock)
    assert found.status == 413
    assert "5000 bytes" in found.json["error"]
    assert ask(narrow.port, body=picture()).status == 200


def test_too_many_pictures(narrow: Running) -> None:
    body, kind = form([("a", picture(size=(4, 4)))] * 3)
    assert ask(narrow.port, body=body, content_type=kind).status == 200
    body, kind = form([("a", b"x")] * 4)
    found = ask(narrow.port, body=body, content_type=kind)
    assert (found.status, found.json["error"]) == (413, "more than 3 pictures in one request.")


def test_too_many_bytes_at_a_time(narrow: Running) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4900\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", narrow.port)) for _ in range(2)]
    for sock in slow:
        sock.sendall(head + b"x" * 4400)
    while narrow.app._buffer.used < 8800:
        pass
    found = ask(narrow.port, body=b"x" * 500)
    assert (found.status, found.headers["retry-after"]) == (429, "1")
    for sock in slow:
        sock.close()
    while narrow.app._buffer.used:
        pass
    assert ask(narrow.port, body=picture()).status == 200


def test_a_client_that_still_sends_gets_its_answer(narrow: Running) -> None:
    """A connection that is reset would lose it."""
    for _ in range(5):
        assert ask(narrow.port, body=b"x" * 3_000_000).status == 413


def test_a_network_that_gives_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = open_line(TINY, ServeOptions(), _nobody())
    with running(line) as started:
        run = line.predictor.backend.run

        def broken(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values, bin_probs = run(images)
            return values * np.nan, bin_probs

        monkeypatch.setattr(line.predictor.backend, "run", broken)
        found = ask(started.port, body=picture())
        assert (found.status, found.json["error"]) == (
            422,
            "image: the model gives no number, but nan.",
        )


def test_a_network_that_fails_is_a_fault_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    line = open_line(TINY, ServeOptions(), _nobody())
    with running(line) as started:

        def broken(images: np.ndarray) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(line.predictor.backend, "run", broken)
        found = ask(started.port, body=picture())
        assert found.status == 500
        assert b"secret" not in found.body
        assert ask(started.port, "/readyz").status == 503
        assert ask(started.port, "/healthz").status == 200
        monkeypatch.undo()
        assert ask(started.port, body=picture()).status == 200
        assert ask(started.port, "/readyz").status == 200


def test_values_are_those_of_the_predictor(server: Running) -> None:
    for level in range(5, 250, 40):
        content = picture(level=level, size=(33, 21))
        with load(TINY, threads=1) as predictor:
            expected = predictor.predict(content)
        assert ask(server.port, body=content).json["value"] == expected.value


def test_pictures_of_a_camera_are_turned(server: Running) -> None:
    wide = Image.new("RGB", (40, 8), (200, 10, 10))
    exif = wide.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    wide.save(file, "JPEG", exif=exif)
    with load(TINY, threads=1) as predictor:
        expected = predictor.predict(file.getvalue()).value
    assert ask(server.port, body=file.getvalue()).json["value"] == expected


def _nobody() -> Unobserved:

    return Unobserved()


def test_pictures_are_freed_at_once() -> None:
    """Not when Python looks for objects that refer to each other: seen, 0.7 MB for a broken one."""
    form_body, kind = form([("a", picture()), ("b", b"no"), ("c", picture(size=(64, 48))[:300])])

    def held() -> int:
        return sum(type(thing) is Upload for thing in gc.get_objects())

    with running(read_timeout=0.3) as started:
        gc.collect()
        gc.disable()
        try:
            for body, given in (
                (picture(), "image/png"),
                (b"text", "image/png"),
                (picture(size=(64, 48))[:300], "image/png"),
                (form_body, kind),
                (form_body[:-20], kind),
            ):
                ask(started.port, body=body, content_type=given)
                send_raw(started.port, post(body, given, length=str(len(body) + 5)))  # too late
                with socket.create_connection(("127.0.0.1", started.port)) as sock:
                    sock.sendall(post(body, given))  # and hangs up
                eventually(lambda: held() == 0)
        finally:
            gc.enable()
