"""Real engines, built by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest
from onnx import helper

from numclip_export.engine.build import BuiltEngine, engine_from_onnx
from numclip_export.engine.build_options import EngineOptions
from numclip_runtime import ModelError, ModelMetadata, UsageError, read_metadata
from numclip_runtime.files import sha256
from numclip_runtime.metadata import METADATA_KEY
from numclip_runtime.model_files.plan import read_plan_metadata
from tests.export.chain import Chain

trt = pytest.importorskip("tensorrt_rtx")

DATA = Path(__file__).parents[1] / "data"
RTX = EngineOptions("tensorrt-rtx", compute_capabilities=(86,))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATA / "tiny.onnx", tmp_path))


def build(path: Path, **options: object) -> BuiltEngine:
    chosen = dataclasses.replace(RTX, **options)  # type: ignore[arg-type]
    return engine_from_onnx(path, path.with_suffix(".plan"), chosen)


@pytest.mark.parametrize("capabilities", [(86,), (89,), (120,), (80, 86, 89, 120), ()], ids=str)
def test_float32_engine(chain: Chain, tmp_path: Path, capabilities: tuple[int, ...]) -> None:
    path = Path(shutil.copy(chain.done.onnx, tmp_path / "x.onnx"))
    built = build(path, compute_capabilities=capabilities, max_batch=16)
    info = read_plan_metadata(built.plan)
    assert info.metadata == read_metadata(chain.done.onnx)
    assert info.engine == built.engine
    assert (info.builder, info.version) == ("tensorrt-rtx", trt.__version__)
    assert info.engine.builder_version == trt.__version__
    assert info.engine.compute_capabilities == (capabilities or None)
    assert (info.engine.min_batch, info.engine.opt_batch, info.engine.max_batch) == (1, 8, 16)
    assert info.engine.onnx_sha256 == sha256(chain.done.onnx)
    assert info.engine.flags == built.notes == ()
    assert info.size == built.size == built.plan.stat().st_size
    assert built.size > chain.done.onnx.stat().st_size / 2  # the weights are in


def test_leaves_a_plan_and_its_checksum(tiny: Path) -> None:
    built = build(tiny)
    names = {path.name for path in tiny.parent.iterdir()}
    assert names == {"tiny.onnx", "tiny.plan", "tiny.plan.sha256"}
    assert built.sha256 == sha256(built.plan)
    checksum = built.plan.with_name("tiny.plan.sha256")
    subprocess.run(["sha256sum", "-c", checksum.name], cwd=tiny.parent, check=True)


def test_plan_is_pure_and_holds_the_name_near_its_start(tiny: Path) -> None:
    content = build(tiny).plan.read_bytes()
    assert content.startswith(b"vtrt")
    assert 0 < content.index(b"numclip-plan/1 json ") < 1024


def test_same_model_same_metadata(tiny: Path) -> None:
    first, second = read_plan_metadata(build(tiny).plan), read_plan_metadata(build(tiny).plan)
    assert first == second


def with_metadata(path: Path, metadata: ModelMetadata) -> None:
    model = onnx.load(path)
    del model.metadata_props[:]
    helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    onnx.save(model, path)


def test_101_bins_with_long_phrases_fit(tiny: Path) -> None:
    metadata = read_metadata(tiny)
    phrases = tuple(
        f"a photo of a person whose age is {i} years, in good light" for i in range(101)
    )
    task = dataclasses.replace(metadata.task, bin_edges=tuple(range(102)), phrases=phrases)
    with_metadata(tiny, dataclasses.replace(metadata, task=task))
    info = read_plan_metadata(build(tiny).plan)
    assert info.metadata.task.phrases == phrases
    assert b"numclip-plan/1 zlib85 " in build(tiny).plan.read_bytes()


def test_batches_reach_the_builder(tiny: Path) -> None:
    built = build(tiny, min_batch=131, opt_batch=137, max_batch=173)
    engine = built.engine
    assert (engine.min_batch, engine.opt_batch, engine.max_batch) == (131, 137, 173)
    content = built.plan.read_bytes()
    for size in (131, 137, 173):  # the limits, as the compiler writes them into the plan
        assert b's^%di64"' % size in content


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_off_unless_asked_for(tiny: Path, tf32: bool) -> None:
    built = build(tiny, tf32=tf32)
    assert built.engine.flags == (("tf32",) if tf32 else ())
    found = set(re.findall(rb"\n\s*tf32=(\d)\n", built.plan.read_bytes()))  # compiler's settings
    assert found == {b"1" if tf32 else b"0"}


def test_timing_cache_is_ignored_and_said(tiny: Path) -> None:
    built = build(tiny, timing_cache=tiny.with_suffix(".cache"))
    (note,) = built.notes
    assert "--timing-cache is ignored" in note
    assert not tiny.with_suffix(".cache").exists()


def fixed_batch(path: Path, size: int) -> None:
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(model, path)


def test_fixed_batch(tiny: Path) -> None:
    fixed_batch(tiny, 3)
    engine = build(tiny).engine
    assert (engine.min_batch, engine.opt_batch, engine.max_batch) == (3, 3, 3)
    with pytest.raises(UsageError, match="the model's batch is fixed at 3, so an engine for 1 to"):
        build(tiny, min_batch=1)
    with pytest.raises(UsageError, match=r"fixed at 3, .* for 3 to 8 cannot"):
        build(tiny, max_batch=8)


def test_unknown_compute_capability(tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"75, 80, 86, 89, 120.*, not for 87, 90; leave it"):
        build(tiny, compute_capabilities=(86, 87, 90))


def renamed_output(path: Path) -> None:
    model = onnx.load(path)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "numbers"
    onnx.save(model, path)


def unknown_operator(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[2].op_type, model.graph.node[2].name = "NoSuchOperator", "the_node"
    onnx.save(model, path)


def no_graph(path: Path) -> None:
    model = onnx.load(path)
    model.graph.Clear()
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: shutil.copy(DATA / "foreign.onnx", p), "holds no numclip metadata"),
        (lambda p: p.write_bytes(p.read_bytes()[:-200]), "not an ONNX model, or a damaged one"),
        (lambda p: p.write_bytes(b"\x89PNG and more"), "not an ONNX model, but a picture"),
        (lambda p: p.unlink(), "no such file"),
        (renamed_output, r"outputs \['bin_probs', 'numbers'\]; it was changed after export"),
        (no_graph, "tiny.onnx: "),
        (unknown_operator, "holds the operator NoSuchOperator, which numclip-export never writes"),
    ],
)
def test_bad_onnx_leaves_nothing_behind(tiny: Path, change: object, message: str) -> None:
    assert callable(change)
    change(tiny)
    old = tiny.with_suffix(".plan")
    old.write_bytes(b"an older plan")
    with pytest.raises(ModelError, match=message) as error:
        build(tiny)
    assert str(error.value).startswith(f"{tiny}: ")
    assert "\n" not in str(error.value)
    assert {path.name for path in tiny.parent.iterdir()} - {"tiny.onnx"} == {"tiny.plan"}
    assert old.read_bytes() == b"an older plan"


def test_builder_says_why_it_fails(chain: Chain, tmp_path: Path) -> None:
    path = Path(shutil.copy(chain.done.onnx, tmp_path / "x.onnx"))
    with pytest.raises(ModelError) as error:
        build(path, workspace_mib=1)
    text = str(error.value)
    assert text.startswith(f"{path}: no engine could be built (")
    assert "workspace limit" in text
    assert "give more --workspace-mib" in text
    assert "/_src/" not in text  # where in TensorRT's own source
    assert "CUDA driver" not in text  # an error that follows every other where no driver is
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.parametrize("place", ["folder", "in a file"])
def test_unwritable_output(tiny: Path, place: str) -> None:
    target = (tiny.parent if place == "folder" else tiny) / "x.plan"
    if place == "folder":
        target.mkdir()
    with pytest.raises(UsageError, match=r"is a folder|cannot write there"):
        engine_from_onnx(tiny, target, RTX)
