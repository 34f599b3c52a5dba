"""Fixtures of the tests of stores: a web server with faults, and fsspec's store in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

from numclip_runtime.remote import fetch
from numclip_runtime.remote.fetch import Retries
from tests.remote.faulty_server import FaultyServer
from tests.runtime import conftest as runtime_fixtures

tiny, photos = runtime_fixtures.tiny, runtime_fixtures.photos
predictor, probs_of = runtime_fixtures.predictor, runtime_fixtures.probs_of


def picture(grey: int, size: int = 24, kind: str = "PNG") -> bytes:
    """Return the file of an even picture."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (grey,) * 3).save(file, kind)
    return file.getvalue()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a hundredth of the time between tries."""
    monkeypatch.setattr(fetch, "RETRIES", Retries(first_s=0.005, most_s=0.2, most_asked_s=0.3))


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    server = FaultyServer()
    yield server
    server.close()


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Callable[[dict[str, bytes]], Any]]:
    """Return a function that puts files into a bucket of `memory://`; gone at the end."""
    import fsspec

    fs = fsspec.filesystem("memory")

    def put(files: dict[str, bytes]) -> Any:
        for path, content in files.items():
            fs.pipe_file(path, content)
        return fs

    yield put
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
