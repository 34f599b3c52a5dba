"""Opening a model: what a good file says, and what is wrong with a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from numclip_runtime import ModelError, UsageError, load
from numclip_runtime.metadata import METADATA_KEY
from numclip_runtime.model_files.onnx_file import message, metadata_props


def test_threads_change_nothing(tiny: Path) -> None:
    with load(str(tiny), threads=2) as two, load(tiny) as default:
        image = Image.new("L", (8, 8), 90)
        assert two.predict(image) == default.predict(image)
        assert default.backend.name == "onnxruntime"
        assert default.backend.provider == "CPUExecutionProvider"
        assert default.metadata.task.name == "brightness"
    two.close()  # idempotent
    with pytest.raises(UsageError, match="threads must be at least 1, got 0"):
        load(tiny, threads=0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"schema_version":1', b'"schema_version":9', "metadata schema 9 is unknown"),
        (b'{"schema_version', b'["schema_version', "its numclip metadata cannot be read"),
        (
            b'"preprocessing"',
            b'"preprosessing"',
            r"incomplete numclip metadata \(.*unknown field\(s\) \['preprosessing'\]",
        ),
        (b"bin_probs", b"bin_prabs", "the graph lacks 'bin_probs'; it was changed"),
        (b"images", b"photos", r"the graph has other inputs, \['photos'\]; it was changed"),
    ],
)
def test_model_changed_after_export(
    tmp_path: Path, tiny: Path, old: bytes, new: bytes, message: str
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(tiny.read_bytes().replace(old, new))  # same length: still good protobuf
    with pytest.raises(ModelError, match=rf"a\.onnx: {message}"):
        load(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "a.pt",
            r"is a checkpoint, not an exported .*; export it with `numclip-export --ckpt a.pt`",
        ),
        ("a.h5", r"unknown kind of model, expected a .*\.onnx"),
        ("a.onnx", r"not an ONNX model, or a damaged one \(wire type 7\)\.$"),
    ],
)
def test_not_a_model(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"weights, perhaps")
    with pytest.raises(ModelError, match=message):
        load(tmp_path / name)
    with pytest.raises(ModelError, match=rf"no-{name}: no such file; export one"):
        load(tmp_path / f"no-{name}")


def test_a_broken_graph(tmp_path: Path, tiny: Path) -> None:
    text = metadata_props(tiny)[METADATA_KEY].encode()
    props = message(14, message(1, METADATA_KEY.encode()), message(2, text))
    (tmp_path / "a.onnx").write_bytes(props + message(7, b"a graph, perhaps"))
    with pytest.raises(ModelError, match=r"a\.onnx: not an ONNX model, or a damaged one \(.+\)\.$"):
        load(tmp_path / "a.onnx")


def test_model_without_metadata(foreign: Path) -> None:
    with pytest.raises(ModelError, match=r"foreign\.onnx: holds no numclip metadata"):
        load(foreign)


def test_folder_as_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; give the model file inside it"):
        load(tmp_path)
