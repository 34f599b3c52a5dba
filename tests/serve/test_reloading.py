"""A model file that is replaced answers from then on; no request is lost on the way."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from numclip_runtime.files import sha256
from tests.serve.conftest import TINY, Running, ask, eventually, picture, running

EVERY_S = 0.05


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(TINY, tmp_path / "model.onnx"))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return another model with the same answers: its metadata name another task."""
    content = TINY.read_bytes()
    assert content.count(b"points") == 1
    file = tmp_path / "other.onnx"
    file.write_bytes(content.replace(b"points", b"grades"))
    return file


@contextmanager
def watching(model: Path) -> Iterator[Running]:
    with running(model=model, reload_every=EVERY_S) as server:
        yield server


def replace(model: Path, other: Path) -> None:
    """Give a copy of another file the model's name."""
    os.replace(shutil.copy(other, model.with_suffix(".new")), model)  # noqa: PTH105


def test_a_replaced_model_answers_and_the_one_before_is_closed(
    model: Path, other: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with watching(model) as server:
        old = server.app.line
        assert ask(server.port, body=picture()).json["unit"] == "points"
        statuses: Counter[int] = Counter()
        units: list[str] = []
        stop = threading.Event()

        def keep_asking() -> None:
            while not stop.is_set():
                found = ask(server.port, body=picture())
                statuses[found.status] += 1
                units.append(found.json["unit"])

        threads = [threading.Thread(target=keep_asking) for _ in range(3)]
        for thread in threads:
            thread.start()
        replace(model, other)
        eventually(lambda: server.app.line is not old and "grades" in units[-3:])
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert ask(server.port, "/model").json["sha256"] == sha256(other)
        assert (
            'numclip_reloads_total{outcome="loaded"} 1.0'
            in ask(server.port, "/metrics").body.decode()
        )
        eventually(lambda: not any(thread.is_alive() for thread in old._workers))
        with pytest.raises(ValueError, match="was closed"):
            old.predictor.predict(picture())
    assert f"model.onnx was replaced: {sha256(TINY)[:12]} -> {sha256(other)[:12]}." in (
        capfd.readouterr().err
    )


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "foreign"])
def test_a_bad_file_leaves_the_model_that_answers(
    model: Path, other: Path, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.onnx"
    foreign = (TINY.parent / "foreign.onnx").read_bytes()
    content = {"text": b"x" * 99, "empty": b"", "truncated": TINY.read_bytes()[:500]}
    bad.write_bytes(content.get(damage, foreign))
    refused = 'numclip_reloads_total{outcome="refused"} 1.0'
    with watching(model) as server:
        replace(model, bad)
        eventually(lambda: refused in ask(server.port, "/metrics").body.decode())
        assert ask(server.port, body=picture()).json["unit"] == "points"
        assert ask(server.port, "/readyz").status == 200
        replace(model, other)  # and a good one is taken after it
        eventually(lambda: ask(server.port, body=picture()).json["unit"] == "grades")
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if "was refused, the one before answers" in line]) == 1


def test_the_checksum_may_come_second(model: Path, other: Path) -> None:
    beside = model.with_name("model.onnx.sha256")
    beside.write_text(f"{sha256(model)}  model.onnx\n")
    with watching(model) as server:
        replace(model, other)
        refused = 'numclip_reloads_total{outcome="refused"} 1.0'
        eventually(lambda: refused in ask(server.port, "/metrics").body.decode())
        beside.write_text(f"{sha256(other)}  model.onnx\n")
        eventually(lambda: ask(server.port, body=picture()).json["unit"] == "grades")


def test_a_missing_file_or_the_same_content_changes_nothing(model: Path, tmp_path: Path) -> None:
    from numclip_runtime.serve import reloading

    with watching(model) as server:
        line, hashed = server.app.line, []
        original = sha256

        def noted(path: Path) -> str:
            hashed.append(path)
            return original(path)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(reloading, "sha256", noted)
            kept = tmp_path / "kept.onnx"
            model.rename(kept)
            assert ask(server.port, body=picture()).status == 200
            replace(model, kept)
            eventually(lambda: bool(hashed))
        assert ask(server.port, body=picture()).status == 200
        assert server.app.line is line
