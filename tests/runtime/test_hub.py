"""Models of a hub, from a stand-in on this machine that answers as huggingface.co does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from numclip_runtime import ModelError, read_metadata
from numclip_runtime.model_files.names import model_path

pytest.importorskip("huggingface_hub")
TINY = Path(__file__).parents[1] / "data" / "tiny.onnx"
COMMIT = "a" * 40
FILES = {"model.onnx": TINY.read_bytes(), "more/small.onnx": TINY.read_bytes()}


class Hub(BaseHTTPRequestHandler):
    """One repository, owner/name, with one commit, which the tag v1 names."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.asked.append(self.path)
        repository, _, rest = self.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repository != "owner/name":
            return self._missing("RepoNotFound")
        if revision not in (COMMIT, "v1"):
            return self._missing("RevisionNotFound")
        if name not in FILES:
            return self._missing("EntryNotFound")
        content = FILES[name]
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield the paths that were asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHub", (Hub,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("place", ["hf://owner/name", "hf://owner/name/more/small.onnx"])
@pytest.mark.parametrize("revision", [COMMIT, "v1"])
def test_a_file_of_a_revision(hub: list[str], place: str, revision: str) -> None:
    found = model_path(f"{place}@{revision}")
    assert found.read_bytes() == TINY.read_bytes()
    assert COMMIT in found.parts
    assert read_metadata(f"{place}@{revision}") == read_metadata(TINY)


def test_a_commit_in_the_cache_needs_no_network(hub: list[str]) -> None:
    first = model_path(f"hf://owner/name@{COMMIT}")
    before = len(hub)
    assert before >= 1
    assert model_path(f"hf://owner/name@{COMMIT}") == first
    assert len(hub) == before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("hf://owner/other@v1", "no such repository, or it is private"),
        ("hf://owner/name@v2", "the repository has no revision v2"),
        ("hf://owner/name/x.onnx@v1", "the repository has no file x.onnx at this revision"),
    ],
)
def test_what_is_not_there(hub: list[str], place: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{place}: .*{message}"):
        model_path(place)


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again for 23 s
    with pytest.raises(ModelError, match=r"^hf://owner/name@v1: .*cannot be reached"):
        model_path("hf://owner/name@v1")
