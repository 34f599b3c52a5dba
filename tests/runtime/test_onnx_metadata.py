"""The texts inside an ONNX file, read without onnx and without loading the model."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from numclip_runtime import ModelError, read_metadata
from numclip_runtime.model_files.onnx_file import metadata_props


def test_equals_what_onnxruntime_reads(tiny: Path) -> None:
    session = ort.InferenceSession(str(tiny), providers=["CPUExecutionProvider"])
    expected = session.get_modelmeta().custom_metadata_map
    assert set(expected) == {"numclip"}
    assert metadata_props(tiny) == expected


def test_no_metadata(foreign: Path) -> None:
    assert metadata_props(foreign) == {}


def assert_not_ours(model: Path) -> None:
    with pytest.raises(ModelError, match=r"a\.onnx: (not an ONNX model|holds no numclip)"):
        read_metadata(model)


@pytest.mark.parametrize("end", [1, 2, 40, -1, -200])
def test_truncated(tiny: Path, tmp_path: Path, end: int) -> None:
    (tmp_path / "a.onnx").write_bytes(tiny.read_bytes()[:end])
    assert_not_ours(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"weights, perhaps",
        b"",
        b"\xff" * 30,
        b"\x72\xff\xff\xff\xff\x7f",  # metadata_props of 34 GB
        b"\x70\x01",  # metadata_props as a number: not ours
        b"\x72\x02\x08\x01",  # an entry whose key is a number
        b"\x72\x03\x0a\x01k",  # an entry without a value
        b"\x72\x06\x0a\x01\xff\x12\x01v",  # a key that is not text
    ],
)
def test_not_an_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    assert_not_ours(tmp_path / "a.onnx")


def test_seeks_over_fields_of_any_type(tmp_path: Path) -> None:
    fields = b"\x0d\x01\x02\x03\x04" + b"\x09" + bytes(8) + b"\x10\x96\x01" + b"\x3a\x03abc"
    path = tmp_path / "a.onnx"
    path.write_bytes(fields + b"\x72\x06\x0a\x01k\x12\x01v" + fields)
    assert metadata_props(path) == {"k": "v"}
