"""The contract: what goes into a model file comes out again, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from numclip_runtime import ModelError, ModelMetadata, Preprocessing, Task, UsageError

TASK = Task(
    name="age",
    unit="Jahre (größer)",
    bin_edges=(0, 13, 19.5, 101),
    phrases=("child", "teen", "adult"),
    context="ein Foto von",
    label_offset=-1.5,
)
FULL = ModelMetadata(
    task=TASK,
    preprocessing=Preprocessing(
        crop=224,
        resize=248,
        resize_mode="shortest",
        interpolation="bicubic",
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    ),
    precision="int8",
    checkpoint_sha256="ab" * 32,
    parity={"fp32_mean": 1e-6},
    versions={"torch": "2.6"},
    verified=True,
    source_sha256="cd" * 32,
    fp32_nodes=("head", "image_encoder.ln_pre"),
)


def plain(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(FULL.to_json())
    return data | changes


@pytest.mark.parametrize(
    "metadata", [FULL, ModelMetadata(task=TASK, preprocessing=Preprocessing())]
)
def test_round_trip(metadata: ModelMetadata) -> None:
    assert ModelMetadata.from_json(metadata.to_json()) == metadata


def test_files_from_before_a_field_existed() -> None:
    data = plain()
    for name in ("verified", "source_sha256", "fp32_nodes"):
        del data[name]
    metadata = ModelMetadata.from_json(json.dumps(data))
    assert (metadata.verified, metadata.source_sha256, metadata.fp32_nodes) == (None, None, ())
    assert not {"verified", "source_sha256", "fp32_nodes"} & set(json.loads(metadata.to_json()))


def test_json_is_compact_plain_text_with_a_version() -> None:
    text = FULL.to_json()
    assert json.loads(text)["schema_version"] == 1
    assert "größer" in text
    assert ": " not in text


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "7", "null", "{}", '{"task": 1}'])
def test_garbage(text: str) -> None:
    with pytest.raises(
        ModelError, match=r"^a\.onnx: its numclip metadata cannot be read \(.+\); export"
    ):
        ModelMetadata.from_json(text, source="a.onnx")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_unknown_schema(version: object) -> None:
    text = json.dumps(plain(schema_version=version))
    with pytest.raises(ModelError, match=r"metadata schema .* is unknown, this numclip reads"):
        ModelMetadata.from_json(text)


@pytest.mark.parametrize("name", ["task", "preprocessing"])
def test_missing_field(name: str) -> None:
    data = plain()
    del data[name]
    with pytest.raises(
        ModelError, match=rf"incomplete numclip metadata \(.*missing field\(s\) \['{name}'\]\)"
    ):
        ModelMetadata.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "surprise"),
        ({"task": None}, "metadata"),
        ({"task": []}, "'task': must be a table of fields, got a list of 0"),
        ({"task": {"name": "age"}}, "missing field"),
        ({"preprocessing": []}, "metadata"),
        ({"preprocessing": {"crop": 8, "zoom": 2}}, "zoom"),
        ({"preprocessing": {"crop": "8"}}, "'crop' must be a whole number .*, got '8'"),
        ({"preprocessing": {"crop": True}}, "'crop' must be a whole number .*, got True"),
        ({"preprocessing": {"mean": None}}, "'mean' must be a list of numbers, got None"),
        ({"preprocessing": {"mean": [0.1, 0.2]}}, "'mean' must have 3 numbers, got 2"),
        ({"verified": 1}, "'verified' must be true or false, got 1"),
        ({"precision": "fp8"}, "'precision' must be one of fp32, fp16, int8, got 'fp8'"),
        ({"input": ["uint8"]}, "'input' must be text, got a list of 1"),
        ({"backend": "torch"}, "'backend' must be one of openvino, got 'torch'"),
        ({"parity": {"fp32_mean": "small"}}, "'parity', 'fp32_mean' must be a number"),
        ({"parity": [1]}, "'parity' must be a table, got a list of 1"),
        ({"versions": {"torch": 2}}, "'versions', 'torch' must be text, got 2"),
        ({"fp32_nodes": "head"}, "'fp32_nodes' must be a list of texts, got 'head'"),
    ],
)
def test_wrong_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelMetadata.from_json(json.dumps(plain(**changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 0}, r"crop \(0\) must be between 1 and resize \(256\)"),
        ({"crop": 257}, r"crop \(257\) must be between"),
        ({"resize": 20_000}, r"resize \(20000\) must be at most 4096 pixels"),
        ({"resize_mode": "stretch"}, "unknown resize_mode 'stretch'"),
        ({"interpolation": "nearest"}, "unknown interpolation 'nearest'"),
        ({"mean": (0.5,)}, "3 numbers each"),
        ({"std": (0.5, 0.5)}, "3 numbers each"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be made of finite numbers above 0"),
        ({"std": (0.5, -1.0, 0.5)}, "std must be made of finite numbers above 0"),
        ({"std": (0.5, float("nan"), 0.5)}, "std must be made of finite numbers above 0"),
        ({"mean": (0.5, float("inf"), 0.5)}, "mean must be made of finite numbers"),
    ],
)
def test_preprocessing_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessing(**changes)


FRAGMENTS = Preprocessing(crop=192, resize=192, resize_mode="fragments", fragments=3)


def test_fragments_are_written_and_other_files_stay_as_they_were() -> None:
    metadata = ModelMetadata(task=TASK, preprocessing=FRAGMENTS)
    assert json.loads(metadata.to_json())["preprocessing"]["fragments"] == 3
    assert ModelMetadata.from_json(metadata.to_json()) == metadata
    assert set(plain()["preprocessing"]) == {  # what numclip 0.1.0 reads
        *("crop", "resize", "resize_mode", "interpolation", "mean", "std"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fragments": 5}, "divide the input's side of 192 pixels"),
        ({"fragments": 0}, "must be from 1 to 64"),
        ({"fragments": 96}, "must be from 1 to 64"),
        ({"resize": 224}, "leave resize out, or let it be 192"),
        ({"resize_mode": "squash"}, r"fragments \(3\) are of resize_mode 'fragments'"),
    ],
)
def test_impossible_fragments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessing.from_dict({**FRAGMENTS.to_dict(), **changes})
