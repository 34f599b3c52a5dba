"""Model files of every kind: what they are, their checksums, and swaps while they are opened."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from numclip_runtime import ModelError, UsageError, load, read_metadata
from numclip_runtime.backends import onnxruntime as backend_module
from numclip_runtime.model_files import onnx_file
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.pin import checksum_line, compared, pin_beside
from tests.runtime.conftest import invoke

posix = pytest.mark.posix("it makes names and files that others do not have")
GREY = np.full((8, 8, 3), 100, np.uint8)
LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 351807656\n"
)
SAFETENSORS = struct.pack("<Q", 200) + b'{"weight":{"dtype":"F32","shape":[2]}}' + bytes(100)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path: Path, tiny: Path) -> Path:
    return Path(shutil.copy(tiny, tmp_path / "a.onnx"))


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        (LFS, "a Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page", "download"),
        (b"\xef\xbb\xbf\r\n <HTML>", "a web page", "download"),
        (
            b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
            "a web page",
            "download",
        ),
        (gzip.compress(b"x" * 100, mtime=0), "a gzip archive", "unpack"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "a zstd archive", "unpack"),
        (b"PK\x03\x04" + bytes(26) + b"model.onnx" + bytes(90), "a zip archive", "unpack"),
        (b"PK\x03\x04" + bytes(26) + b"x/data.pkl" + bytes(90), "a PyTorch checkpoint", "--ckpt"),
        (b"\x80\x02}q\x00" + bytes(30), "a PyTorch checkpoint", "--ckpt"),
        (SAFETENSORS, "a safetensors file", "--ckpt"),
        (b'{"error": "not found"}', "JSON text", "give the model file"),
        (b"404: Not Found, or any other text of some length\n", "a text file", "copy"),
        (b"", "an empty file", "copy"),
        (b"\xff\xd8\xff\xe0" + bytes(30), "a picture", "first"),
        (b"\x7fELF" + bytes(30), "a program", "model file"),
        (b"\x18\x00\x00\x00ORTM" + bytes(30), "a model in another format", "--ckpt"),
        (b"ftrt" + bytes(60), "a TensorRT plan", ".plan"),
    ],
)
def test_other_files_are_called_what_they_are(
    tmp_path: Path, content: bytes, kind: str, remedy: str
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    for act in (load, read_metadata):
        with pytest.raises(ModelError) as error:
            act(path)
        assert str(error.value).startswith(f"{path}: not an ONNX model, but {kind}; ")
        assert remedy in str(error.value)
    if kind != "a TensorRT plan":
        path = path.rename(tmp_path / "a.plan")
        with pytest.raises(ModelError, match=f"not a TensorRT plan, but {kind}; "):
            load(path)


def test_what_is_neither_is_a_damaged_model(tmp_path: Path, tiny: Path) -> None:
    for content in (tiny.read_bytes()[:-50], os.urandom(300) + b"\xff", bytes(5000)):
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=r"not an ONNX model|numclip metadata"):
            load(tmp_path / "a.onnx")


@pytest.mark.parametrize("name", ["A.ONNX", "a.Onnx"])
def test_the_suffix_in_other_case(model: Path, name: str, tmp_path: Path) -> None:
    with load(model) as one, load(model.rename(tmp_path / name)) as other:
        assert one.predict(GREY) == other.predict(GREY)
    (tmp_path / "b.PLAN").write_bytes(b"any")
    with pytest.raises(ModelError, match="not a TensorRT plan, it begins with b'any'"):
        load(tmp_path / "b.PLAN")


@posix
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_name_that_is_no_text(
    model: Path, backend: str, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    monkeypatch.setattr(onnx_file, "SMALLEST_MAPPED", 1 if mapped else 1 << 30)
    with load(model) as predictor:
        expected = predictor.predict(GREY).value
    renamed = model.rename(model.with_name(os.fsdecode(b"\xff.onnx")))
    for path in (os.fsencode(renamed), str(renamed), renamed):
        with load(path, backend=backend) as predictor:  # type: ignore[arg-type]
            assert predictor.predict(GREY).value == pytest.approx(expected, abs=1e-4)


@pytest.mark.posix("makes pipes and links")
@posix
@pytest.mark.parametrize("name", ["a.onnx", "a.plan", "tiny.onnx.sha256"])
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
def test_no_regular_file_is_refused_without_waiting(
    tmp_path: Path, tiny: Path, name: str, kind: str
) -> None:
    path = tmp_path / name
    beside = name.endswith(".sha256")
    given = Path(shutil.copy(tiny, tmp_path / "tiny.onnx")) if beside else path
    keep = None
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        keep = socket.socket(socket.AF_UNIX)
        keep.bind(os.path.relpath(path))
    ended: list[str] = []

    def act() -> None:
        try:
            load(given)
        except (ModelError, UsageError) as error:
            ended.append(str(error))

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(30)
    if keep is not None:
        keep.close()
    assert ended, "it waits"
    assert ended[0].startswith(str(path))
    assert "is a folder" in ended[0] if kind == "folder" else "is a pipe, socket or dev" in ended[0]


def test_a_name_that_is_too_long_or_in_a_closed_folder(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300 + ".onnx"), tmp_path / "a\0.onnx"):
        with pytest.raises(ModelError):
            load(path)


# Checksums


def write_beside(model: Path, text: str) -> Path:
    beside = model.with_name(f"{model.name}.sha256")
    beside.write_text(text)
    return beside


def test_a_checksum_beside_an_onnx_file(model: Path, photos: Path) -> None:
    beside = write_beside(model, f"{digest(model)}  a.onnx\n")
    load(model).close()
    write_beside(model, f"{digest(model).upper()} *a.onnx\n")
    load(model).close()
    write_beside(model, f"{'0' * 64}  b.onnx\n{digest(model)}  a.onnx\n")
    load(model).close()
    write_beside(model, f"{'0' * 64}  a.onnx\n")
    message = (
        f"{model}: its SHA-256 is {digest(model)}, but {beside} states {'0' * 64}; it was not "
        "loaded. Copy it again from a trusted place, or build it again; if you changed it "
        f"yourself, delete {beside}."
    )
    with pytest.raises(ModelError) as error:
        load(model)
    assert str(error.value) == message
    result = invoke(model, photos)
    assert (result.exit_code, result.stderr) == (2, f"Error: {message}\n")
    load(model, sha256=digest(model)).close()  # what is given comes first
    beside.unlink()
    load(model).close()


@pytest.mark.parametrize(
    "content", ["", "\n", "abc  a.onnx\n", "x" * 70_000, "0" * 64 + " a\nff b\n"]
)
def test_a_checksum_file_that_states_none(model: Path, content: str) -> None:
    beside = write_beside(model, content)
    with pytest.raises(UsageError) as error:
        load(model)
    assert str(error.value).startswith(str(beside))
    assert len(str(error.value)) < 400


@pytest.mark.posix("makes links")
@posix
def test_a_checksum_file_that_cannot_be_read(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx.sha256").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"a\.onnx\.sha256: cannot read this checksum \(No such"):
        load(model)


@posix
@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
@pytest.mark.parametrize("name", ["a.onnx", "a b*.onnx", "a\\b.onnx", "a\nb.onnx"])
def test_sha256sum_reads_what_is_written_and_the_other_way(
    model: Path, tmp_path: Path, name: str
) -> None:
    path = model.rename(tmp_path / name)
    beside = write_beside(path, checksum_line(digest(path), name))
    subprocess.run(["sha256sum", "-c", beside.name], cwd=tmp_path, check=True)
    done = subprocess.run(["sha256sum", name], cwd=tmp_path, check=True, capture_output=True)
    assert beside.read_bytes() == done.stdout
    assert pin_beside(path) == digest(path)
    load(path).close()


def test_the_checksum_counts_more_than_what_is_wrong_inside(model: Path) -> None:
    write_beside(model, f"{digest(model)}  a.onnx\n")
    model.write_bytes(model.read_bytes()[:-30])
    with pytest.raises(ModelError, match="its SHA-256 is"):
        load(model)


def test_a_given_checksum_is_compared_before_anything_is_parsed(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("read_onnx_metadata", "check_graph", "MappedModel"):
        monkeypatch.setattr(backend_module, name, lambda *args: pytest.fail("parsed"))
    with pytest.raises(ModelError, match="its SHA-256 is"):
        load(model, sha256="0" * 64)
    with pytest.raises(UsageError, match="is not a SHA-256, which has 64 hexadecimal digits"):
        load(model, sha256="0" * 63)


def test_without_another_thread(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_beside(model, "0" * 64)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with (
        OpenModel(model) as file,
        pytest.raises(ModelError, match="its SHA-256 is"),
        compared(file, None),
    ):
        pass


# Swaps


def test_written_to_while_it_is_loaded(model: Path) -> None:
    with OpenModel(model) as file:
        file.check_unchanged()
        time.sleep(0.02)
        with model.open("r+b") as other:
            other.write(b"\x08")
        with pytest.raises(ModelError, match="was written to while it was loaded; load it again"):
            file.check_unchanged()


@pytest.mark.posix("opens an open file again by /proc")
def test_another_file_under_the_name_changes_nothing(model: Path, tmp_path: Path) -> None:
    expected = digest(model)
    with OpenModel(model) as file:
        (tmp_path / "new").write_bytes(b"another")
        (tmp_path / "new").replace(model)
        file.check_unchanged()
        assert file.sha256() == expected
        if file.place is not None:
            assert digest(Path(file.place)) == expected


@pytest.mark.posix("makes links")
@posix
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("pinned", ["given", "beside"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_swap_never_loads_the_model_that_was_not_pinned(
    tmp_path: Path,
    tiny: Path,
    mapped: bool,
    pinned: str,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two models take turns under one name, thousands of times a second."""
    pytest.importorskip(backend)
    monkeypatch.setattr(onnx_file, "SMALLEST_MAPPED", 1 if mapped else 1 << 30)
    weights = np.array([5, 15, 25], np.float32)  # the values of the bins
    good, bad, path = (tmp_path / name for name in ("good", "bad", "a.onnx"))
    good.write_bytes(tiny.read_bytes())
    if good.read_bytes().count(weights.tobytes()) != 1:
        pytest.fail("tiny.onnx has other weights now")
    bad.write_bytes(tiny.read_bytes().replace(weights.tobytes(), (weights + 100).tobytes()))
    shutil.copy(good, path)
    with load(path) as predictor:
        expected = predictor.predict(GREY).value
    if pinned == "beside":
        write_beside(path, f"{digest(good)}  a.onnx\n")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for source in (bad, good):
                link = tmp_path / "link"
                os.link(source, link)
                link.replace(path)

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes: list[float | str | None] = []
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                pin = digest(good) if pinned == "given" else None
                with load(path, sha256=pin, backend=backend) as predictor:  # type: ignore[arg-type]
                    outcomes.append(predictor.predict(GREY).value)
            except ModelError as error:
                outcomes.append(None if "its SHA-256 is" in str(error) else str(error))
    finally:
        stop.set()
        thread.join()
    wrong = [v for v in outcomes if v is not None and v != pytest.approx(expected, abs=1e-4)]
    assert not wrong
    assert outcomes
