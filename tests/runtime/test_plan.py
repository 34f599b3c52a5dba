"""Metadata in a plan's network name, and files that are no such plan; real plans: tests/export."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from numclip_runtime import ModelError, ModelMetadata, Preprocessing, Task, UsageError
from numclip_runtime.model_files.plan import (
    NAME_LIMIT,
    EngineFacts,
    PlanInfo,
    encode_metadata,
    read_plan_metadata,
)
from tests.runtime.plans import plan_bytes

ENGINE = EngineFacts(
    "tensorrt-rtx", "1.7.1.116", (75, 86), 1, 8, 32, "0123456789abcdef" * 4, ("tf32",)
)


def metadata(bins: int = 3, phrase: str = "fair (ça va) \u2603") -> ModelMetadata:
    task = Task("age", "years", tuple(range(bins + 1)), tuple(f"{phrase} {i}" for i in range(bins)))
    return ModelMetadata(task, Preprocessing(), "fp16", "ab" * 32, {"max_value_error": 1e-3})


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "a.plan"
    path.write_bytes(plan_bytes(encode_metadata(metadata(), ENGINE)))
    return path


def test_read_back(plan: Path) -> None:
    expected = PlanInfo("tensorrt-rtx", "1.7.1.116", plan.stat().st_size, metadata(), ENGINE)
    assert read_plan_metadata(plan) == expected


def test_full_tensorrt_has_its_own_magic(plan: Path) -> None:
    name = encode_metadata(metadata(), ENGINE)
    plan.write_bytes(plan_bytes(name, b"ftrt", bytes((10, 3, 0, 26))))
    info = read_plan_metadata(plan)
    assert (info.builder, info.version) == ("tensorrt", "10.3.0.26")


WORDS = (
    "a",
    "face",
    "of",
    "young",
    "old",
    "fresh",
    "tired",
    "smooth",
    "grey",
    "hair",
    "with",
    "no",
)


@pytest.mark.parametrize(
    ("bins", "words", "form"), [(3, 4, "json"), (101, 1, "json"), (101, 10, "zlib85")]
)
def test_short_ones_are_readable_long_ones_compressed(
    plan: Path, bins: int, words: int, form: str
) -> None:
    chance = random.Random(0)
    phrases = tuple(" ".join([*chance.choices(WORDS, k=words), str(i)]) for i in range(bins))
    model = metadata(bins)
    model = dataclasses.replace(model, task=dataclasses.replace(model.task, phrases=phrases))
    name = encode_metadata(model, ENGINE)
    assert name.startswith(f"numclip-plan/1 {form} ")
    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= NAME_LIMIT
    plan.write_bytes(plan_bytes(name))
    assert read_plan_metadata(plan).metadata == model


def test_too_long_is_refused() -> None:
    letters = random.Random(0)
    phrases = tuple("".join(letters.choices("abcdefghijklmnop", k=80)) for _ in range(101))
    task = Task("age", "years", tuple(range(102)), phrases)
    with pytest.raises(UsageError, match=r"task 'age': its metadata take \d+ characters, .*4095"):
        encode_metadata(ModelMetadata(task, Preprocessing()), ENGINE)


def test_facts_of_a_newer_numclip_are_left_out() -> None:
    plain = dataclasses.asdict(ENGINE) | {"flags": ["tf32"], "new_fact": 1}
    assert EngineFacts.from_dict(plain) == ENGINE


def damaged_name(content: bytes) -> bytes:
    place = content.index(b"fair")
    return content[:place] + b"fa1r" + content[place + 4 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: b"", "not a TensorRT plan, but an empty file; copy"),
        (lambda c: b"\x08\x08" + c, "not a TensorRT plan, it begins with b'\\\\x08"),
        (lambda c: c[:20], "truncated, 20 bytes are less than a plan's header"),
        (lambda c: c[:-1], r"damaged, its header states \d+ bytes and the file has \d+"),
        (lambda c: c + b"\x00", r"damaged, its header states \d+ bytes and the file has \d+"),
        (damaged_name, "its numclip metadata are damaged"),
        (lambda c: c.replace(b"/1 json", b"/1 yaml"), "its numclip metadata are damaged"),
        (lambda c: c.replace(b"-plan/1 ", b"-plan/2 "), "plan metadata schema 2 is unknown"),
        (lambda c: c.replace(b"numclip-plan/", b"anotherplan//"), "holds no numclip metadata"),
    ],
)
def test_bad_files(plan: Path, change: object, message: str) -> None:
    assert callable(change)
    plan.write_bytes(change(plan.read_bytes()))
    with pytest.raises(ModelError, match=message) as error:
        read_plan_metadata(plan)
    assert str(error.value).startswith(f"{plan}: ")


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_plan_metadata(tmp_path / "no.plan")
    with pytest.raises(ModelError, match="is a folder"):
        read_plan_metadata(tmp_path)


def test_metadata_of_another_kind(plan: Path) -> None:
    import zlib

    payload = '{"model":{}}'
    crc = zlib.crc32(payload.encode())
    plan.write_bytes(plan_bytes(f"numclip-plan/1 json {len(payload)} {crc:08x} {payload}"))
    with pytest.raises(ModelError, match="its numclip metadata cannot be read"):
        read_plan_metadata(plan)


def test_unknown_header_layout_has_no_version(plan: Path) -> None:
    content = plan.read_bytes()
    plan.write_bytes(content[:4] + b"\x01" + content[5:])
    assert read_plan_metadata(plan).version is None
