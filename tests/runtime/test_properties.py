"""Properties of what is read from files: it comes back as it was, and any change of it gives a
valid object or one of numclip's errors, never another exception."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numclip_runtime import (
    Calibration,
    ModelError,
    ModelMetadata,
    NumclipError,
    Preprocessing,
    Task,
    UsageError,
    read_metadata,
)
from numclip_runtime.model_files import operators
from numclip_runtime.model_files.onnx_file import message
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.operators import check_graph
from numclip_runtime.model_files.plan import EngineFacts, encode_metadata, read_plan_metadata
from tests.runtime.plans import plan_bytes

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

# Files are written anew for each example, so that a fixture of the whole test is right
check = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
DATA = Path(__file__).parents[1] / "data"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text("abcXYZ019-_", min_size=1, max_size=10).filter(lambda n: n.strip("-_") != "")
edges = st.floats(-1e30, 1e30, allow_nan=False)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    ends = sorted(draw(st.sets(edges, min_size=3, max_size=12)))
    phrase = texts.filter(str.strip)
    count = len(ends) - 1
    phrases = draw(st.lists(phrase, min_size=count, max_size=count, unique=True))
    kind: Any = draw(st.sampled_from(["regressor", "class", "expected"]))
    return Task(draw(names), draw(texts), tuple(ends), tuple(phrases), draw(texts), 1.5, kind)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    size = st.floats(1e-30, 1e30)
    coverages = sorted(draw(st.sets(st.floats(0.01, 0.99), max_size=5)))
    factors = st.lists(st.floats(0, 1e30), min_size=len(coverages), max_size=len(coverages))
    ascending = tuple(sorted(draw(factors)))
    return Calibration(draw(size), draw(size), tuple(coverages), ascending, draw(st.integers(0, 9)))


@st.composite
def metadata(draw: st.DrawFn) -> ModelMetadata:
    crop = draw(st.integers(1, 4096))
    deviation = st.floats(1e-6, 1e6)
    return ModelMetadata(
        draw(tasks()),
        Preprocessing(
            crop,
            draw(st.integers(crop, 4096)),
            draw(st.sampled_from(["squash", "shortest"])),
            draw(st.sampled_from(["bilinear", "bicubic"])),
            draw(st.tuples(*[st.floats(-1e6, 1e6)] * 3)),
            draw(st.tuples(deviation, deviation, deviation)),
        ),
        draw(st.sampled_from(["fp32", "fp16", "int8"])),
        draw(st.none() | texts),
        draw(st.none() | st.dictionaries(texts, st.floats(-1e9, 1e9), max_size=3)),
        draw(st.dictionaries(texts, texts, max_size=3)),
        draw(st.none() | calibrations()),
        draw(st.sampled_from(["float32", "uint8"])),
        draw(st.none() | st.booleans()),
        fp32_nodes=tuple(draw(st.lists(texts, max_size=3))),
        optimized_by=draw(st.none() | texts),
        backend=draw(st.sampled_from([None, "openvino"])),
    )


batches = st.lists(st.integers(1, 65_536), min_size=3, max_size=3).map(sorted)
engines = st.builds(
    lambda builder, version, found, sizes, flags: EngineFacts(
        builder, version, found, sizes[0], sizes[1], sizes[2], "ab" * 32, tuple(flags)
    ),
    st.sampled_from(["tensorrt", "tensorrt-rtx"]),
    texts,
    st.none() | st.tuples(st.integers(0, 999)),
    batches,
    st.lists(texts, max_size=3),
)

# Values that lie: of any type, beyond any range, nested
nothing: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    0.0,
    -0.0,
    1e308,
    5e-324,
    10**400,
    -(10**30),
    2**63,
]
nothing += ["", "x" * 11_000, "\ud800", "\x00", "\x1b[2J", "NaN", [], {}, [[]], {"a": {}}, [None]]
nothing += [math.nan, math.inf, -math.inf, 20_000, [0.0] * 11_000]
lies = st.sampled_from(nothing) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in plain data, the outermost first."""
    found = [path]
    if isinstance(value, dict):
        found += [p for key, item in value.items() for p in places_in(item, (*path, key))]
    elif isinstance(value, list):
        found += [p for key, item in enumerate(value) for p in places_in(item, (*path, key))]
    return found


@st.composite
def mutated(draw: st.DrawFn, plain: Any) -> Any:
    """Return plain data with one to three of its parts replaced, removed or added."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places_in(plain)))
        if not path:
            return deepcopy(draw(lies))
        holder = plain
        for key in path[:-1]:
            holder = holder[key]
        act = draw(st.sampled_from(["replace", "remove", "add"]))
        if act == "replace":
            holder[path[-1]] = deepcopy(draw(lies))
        elif act == "remove":
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = deepcopy(draw(lies))
        else:
            holder.append(deepcopy(draw(lies)))
    return plain


def copied(value: object) -> Any:
    return json.loads(json.dumps(value))


def assert_one_sentence(error: NumclipError, beginning: str) -> None:
    text = str(error)
    assert text.startswith(beginning)
    assert len(text) < 3000
    assert len(text.split("\n")) == 1


def assert_usable(task: Task) -> None:
    """A task that was accepted works everywhere."""
    assert task.num_bins == len(task.bin_values) >= 2
    assert math.isfinite(task.label_range)
    assert 0 <= task.bin_of(0.0) < task.num_bins
    assert isinstance(task.contains(0.0), bool)
    assert isinstance(task.labels_are_classes, bool)


@check
@given(tasks())
def test_a_task_comes_back(task: Task) -> None:
    assert Task.from_dict(copied(task.to_dict())) == task
    assert_usable(task)


@check
@given(data=st.data())
def test_a_task_that_lies(data: st.DataObject) -> None:
    plain = copied(data.draw(tasks()).to_dict())
    try:
        task = Task.from_dict(data.draw(mutated(plain)))
    except UsageError as error:
        assert_one_sentence(error, "task: ")
    else:
        assert_usable(task)


@check
@given(calibrations())
def test_a_calibration_comes_back(calibration: Calibration) -> None:
    assert Calibration.from_dict(copied(dataclasses.asdict(calibration))) == calibration


@check
@given(data=st.data())
def test_a_calibration_that_lies(data: st.DataObject) -> None:
    plain = copied(dataclasses.asdict(data.draw(calibrations())))
    try:
        calibration = Calibration.from_dict(data.draw(mutated(plain)))
    except UsageError:
        return
    task = Task("age", "", (0.0, 1.0, 1e30), ("a", "b"))
    for coverage in calibration.coverages:
        ends = calibration.intervals(np.array([0.5]), np.array([[0.5, 0.5]]), task, coverage)
        assert ends is not None
        assert np.isfinite(ends).all()


@check
@given(metadata())
def test_metadata_come_back(found: ModelMetadata) -> None:
    assert ModelMetadata.from_json(found.to_json()) == found


@check
@given(data=st.data())
def test_metadata_that_lie(data: st.DataObject) -> None:
    plain = json.loads(data.draw(metadata()).to_json())
    text = json.dumps(data.draw(mutated(plain)))
    try:
        found = ModelMetadata.from_json(text, source="a.onnx")
    except ModelError as error:
        assert_one_sentence(error, "a.onnx: ")
    else:
        assert ModelMetadata.from_json(found.to_json()) == found
        assert_usable(found.task)


@check
@given(st.text(max_size=200) | st.sampled_from(["[" * 100_000, '{"a":' * 9999, "1" * 9999]))
def test_metadata_that_are_any_text(text: str) -> None:
    with pytest.raises(ModelError):
        ModelMetadata.from_json(text)


@check
@given(data=st.data())
def test_a_plan_whose_name_lies(data: st.DataObject, tmp_path: Path) -> None:
    plain = {
        "model": json.loads(data.draw(metadata()).to_json()),
        "engine": copied(dataclasses.asdict(data.draw(engines))),
    }
    payload = json.dumps(data.draw(mutated(plain)))[:4000]
    crc = zlib.crc32(payload.encode())
    path = tmp_path / "a.plan"
    path.write_bytes(plan_bytes(f"numclip-plan/1 json {len(payload)} {crc:08x} {payload}"))
    try:
        info = read_plan_metadata(path)
    except ModelError as error:
        assert_one_sentence(error, f"{path}: ")
    else:
        assert_usable(info.metadata.task)
        assert 1 <= info.engine.min_batch <= info.engine.max_batch


@check
@given(found=metadata(), engine=engines)
def test_a_plan_comes_back(found: ModelMetadata, engine: EngineFacts, tmp_path: Path) -> None:
    path = tmp_path / "a.plan"
    try:
        name = encode_metadata(found, engine)
    except UsageError:  # too long for a plan
        return
    path.write_bytes(plan_bytes(name))
    info = read_plan_metadata(path)
    assert (info.metadata, info.engine) == (found, engine)


def changed_bytes(data: st.DataObject, content: bytes) -> bytes:
    """Return content with a few bytes replaced, removed or repeated."""
    out = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(out) - 1, 0)))
        size = data.draw(st.integers(0, 8))
        out[place : place + size] = data.draw(st.binary(max_size=8))
    return bytes(out)


@check
@given(data=st.data())
def test_a_plan_of_other_bytes(data: st.DataObject, tmp_path: Path) -> None:
    task = Task("age", "", (0, 1, 2), ("a", "b"))
    engine = EngineFacts("tensorrt", "10.3.0", (86,), 1, 2, 4, "ab" * 32)
    head = plan_bytes(encode_metadata(ModelMetadata(task, Preprocessing()), engine))[:1400]
    path = tmp_path / "a.plan"
    path.write_bytes(changed_bytes(data, head))
    try:
        read_plan_metadata(path)
    except NumclipError as error:
        assert_one_sentence(error, f"{path}: ")


@check
@given(data=st.data())
def test_an_onnx_file_of_other_bytes(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(changed_bytes(data, (DATA / "tiny.onnx").read_bytes()))
    for act in (read_metadata, check_one):
        try:
            act(path)
        except NumclipError as error:
            assert_one_sentence(error, f"{path}: ")


@check
@given(st.binary(max_size=100))
def test_a_graph_of_any_bytes(content: bytes) -> None:
    for data in (content, message(7, content), message(7, message(1, content))):
        with suppress(ValueError):
            operators._check_model(data, len(data))


def check_one(path: Path) -> None:
    with OpenModel(path) as model:
        check_graph(model)
