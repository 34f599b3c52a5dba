"""Opening a file with its weights left in it: same numbers, less memory, nothing mapped after."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from numclip_runtime import ModelError, load
from numclip_runtime.model_files import onnx_file, open_model
from numclip_runtime.model_files.onnx_file import MappedModel, encoded, fields, message, varint
from numclip_runtime.model_files.open_model import OpenModel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are mapped on Linux only")


@pytest.fixture
def model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model whose weights, however small, are mapped."""
    monkeypatch.setattr(onnx_file, "SMALLEST_MAPPED", 1)
    return Path(shutil.copy(tiny, tmp_path / "täglich neu.onnx"))


def values(path: Path) -> list[float]:
    images = [np.full((8, 8, 3), level, np.uint8) for level in (0, 90, 250)]
    with load(path, device="cpu") as predictor:
        return [predictor.predict(image).value for image in images]


def test_the_numbers_are_the_same(tiny: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenModel(model) as file:
        mapped = MappedModel(file)
    assert mapped.graph is not None
    assert mapped.graph.count(model.name.encode()) >= 2  # weights
    found = values(model)
    monkeypatch.setattr(onnx_file, "SMALLEST_MAPPED", 1 << 30)
    with OpenModel(tiny) as file:
        assert MappedModel(file).graph is None
    assert found == values(tiny)


@pytest.mark.posix("makes links")
def test_through_a_link(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = folder / "link.onnx"
    link.symlink_to(model)
    assert values(link) == values(model)


def test_a_file_that_changed_meanwhile_is_read_whole(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights would be taken from other places of another model."""
    expected = values(model)
    other = tmp_path / "other.onnx"
    other.write_bytes(b"\x3a\x00" + model.read_bytes())  # an empty graph: the later one counts
    seen = []

    class Replaced(MappedModel):
        def __init__(self, file: OpenModel) -> None:
            super().__init__(file)
            os.replace(other, model)  # noqa: PTH105
            seen.append(self.graph is not None and not self.unchanged())

    monkeypatch.setattr("numclip_runtime.backends.onnxruntime.MappedModel", Replaced)
    assert values(model) == expected
    assert seen == [True]


def test_a_file_system_that_maps_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = values(model)

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(open_model, "mmap", refuse)
    with OpenModel(model) as file:
        assert MappedModel(file).graph is None
    assert values(model) == expected


@pytest.mark.parametrize("change", ["unlink", "replace", "relink", "write", "folder"])
def test_a_name_that_did_not_mean_the_open_file_all_the_time(
    model: Path, tmp_path: Path, change: str
) -> None:
    time.sleep(0.05)  # a file that was just made is never trusted
    with OpenModel(model) as file:
        mapped = MappedModel(file)
        assert mapped.unchanged()
        if change == "unlink":
            model.unlink()
        elif change == "replace":
            shutil.copy(model, tmp_path / "new")
            (tmp_path / "new").replace(model)
        elif change == "relink":  # away and back: another one was there meanwhile
            model.rename(tmp_path / "away")
            (tmp_path / "away").rename(model)
        elif change == "write":
            with model.open("r+b") as written:
                written.write(b"\x08")
        else:
            tmp_path.rename(tmp_path.with_name("elsewhere"))
            tmp_path.with_name("elsewhere").rename(tmp_path)
        assert not mapped.unchanged()


def test_a_file_that_was_just_made_is_not_trusted(tiny: Path, tmp_path: Path) -> None:
    """The clock of the file system has ticks, and a change within one leaves no trace."""
    with OpenModel(Path(shutil.copy(tiny, tmp_path / "a.onnx"))) as file:
        assert not MappedModel(file).unchanged()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_damaged_file_is_refused(model: Path, keep: float) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(ModelError, match=r"neu\.onnx"):
        load(model, device="cpu")


def node(op: str, *inputs: str) -> bytes:
    return message(1, *(message(1, name.encode()) for name in inputs), message(4, op.encode()))


def tensor(name: str, numbers: bytes) -> bytes:
    return message(5, message(8, name.encode()), message(9, numbers))


def test_only_what_every_reader_packs_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "SMALLEST_MAPPED", 1000)
    names = ("packed", "added", "both", "unread", "small")
    weights = {name: os.urandom(100 if name == "small" else 2000) for name in names}
    graph = [
        *(tensor(name, numbers) for name, numbers in weights.items()),
        node("MatMul", "x", "packed"),
        node("Add", "added", "y"),
        node("Gemm", "x", "both", "z"),
        node("Mul", "both", "y"),
        node("MatMul", "x", "small"),
    ]
    path = tmp_path / "model.onnx"
    path.write_bytes(message(14, b"") + message(7, *graph))
    with OpenModel(path) as file:
        written = MappedModel(file).graph
    assert written is not None
    assert [name for name in names if weights[name] not in written] == ["packed"]
    offset = path.read_bytes().index(weights["packed"])
    for text in ("model.onnx", str(offset), "2000"):
        assert message(2, text.encode()) in written
    assert [field.number for field in fields(written, 0, len(written))] == [14, 7]


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**63])
def test_varints(number: int) -> None:
    written = encoded(number)
    assert varint(written, 0, len(written)) == (number, len(written))
    with pytest.raises(ValueError, match="no varint"):
        varint(written[:-1], 0, len(written) - 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x05abcd",
        b"\x0b",
        b"\x0d\x00",
        b"\x80" * 11,
        b"\x08",
        b"\x00\x00",  # the field of number 0
        b"\x8a\x80\x80\x80\x10\x00",  # a tag of 33 bits, which protobuf would cut to 0x0a
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of -1
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"wire type|ends early|no varint|no field"):
        list(fields(data, 0, len(data)))


def test_every_kind_of_field() -> None:
    data = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x02hi" + b"\x25" + bytes(4)
    found = [(f.number, f.kind, f.first, f.start, f.end) for f in fields(data, 0, len(data))]
    assert found == [(1, 0, 0, 1, 3), (2, 1, 3, 4, 12), (3, 2, 12, 14, 16), (4, 5, 16, 17, 21)]


def test_more_fields_than_any_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 3)
    assert len(list(fields(b"\x08\x01" * 3, 0, 6))) == 3
    with pytest.raises(ValueError, match="more than 3 fields in one message"):
        list(fields(b"\x08\x01" * 4, 0, 8))


def test_opening_says_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime 1.20 prints a red error when it opens such a model."""
    values(model)
    assert capfd.readouterr() == ("", "")
