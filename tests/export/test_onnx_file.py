"""The metadata of an ONNX file, read without the onnx package, equals what onnx reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import helper

from numclip_runtime import ModelError, ModelMetadata, read_metadata
from numclip_runtime.metadata import METADATA_KEY
from tests.export.chain import Chain

DATA = Path(__file__).parents[1] / "data"


def test_equals_what_onnx_reads(chain: Chain) -> None:
    (entry,) = chain.graph.metadata_props
    assert read_metadata(chain.done.onnx) == ModelMetadata.from_json(entry.value)


def test_other_entries_do_not_matter(tmp_path: Path) -> None:
    model = onnx.load(DATA / "tiny.onnx")
    text = model.metadata_props[0].value
    del model.metadata_props[:]
    helper.set_model_props(model, {"a": "b", METADATA_KEY: text, "": "", "z": "\u2603" * 200})
    model.model_version, model.doc_string = 2**62, "x" * 300  # fields of other kinds
    onnx.save(model, tmp_path / "a.onnx")
    assert read_metadata(tmp_path / "a.onnx") == read_metadata(DATA / "tiny.onnx")


def test_weights_are_not_read(tmp_path: Path) -> None:
    """A file of 1.5 GiB that takes no room on disk; reading it would take seconds."""
    path = tmp_path / "large.onnx"
    size = 3 << 29
    with path.open("wb") as file:
        file.write(b"\x08\x0a\x3a" + varint(size))
        file.seek(size, 1)
        file.write((DATA / "tiny.onnx").read_bytes())
    assert read_metadata(path) == read_metadata(DATA / "tiny.onnx")


def varint(value: int) -> bytes:
    content = b""
    while value > 127:
        content += bytes((value & 127 | 128,))
        value >>= 7
    return content + bytes((value,))


@pytest.mark.parametrize("kept", [0, 1, 2, 20, 300, -1, -100])
def test_truncated(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes((DATA / "tiny.onnx").read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"a\.onnx: (not an ONNX model|holds no numclip)"):
        read_metadata(path)


@pytest.mark.parametrize(
    "content", [b"\xff" * 30, b"hello, world\n" * 9, b"\x72\x04\x0a\x02\xff\xfe", b"\x0b\x01"]
)
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.onnx: (not an ONNX model|holds no numclip)"):
        read_metadata(path)


def test_foreign_missing_and_folder(tmp_path: Path) -> None:
    shutil.copy(DATA / "foreign.onnx", tmp_path)
    with pytest.raises(ModelError, match=r"foreign\.onnx: holds no numclip metadata"):
        read_metadata(tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match="no such file"):
        read_metadata(tmp_path / "no.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        read_metadata(tmp_path)
