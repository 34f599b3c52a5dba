"""What is said of an engine after it was built: compared, not run, or deleted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from numclip.checkpoint import load_checkpoint
from numclip_export import EngineOptions, ExportOptions, ResolvedTarget, run_export, verified_engine
from numclip_export.images import verify_images
from numclip_export.int8.acceptance import NotWorthItError, Speed
from numclip_export.parity import ParityError, Reference
from numclip_export.verified_engine import engine_parity, faster_or_deleted
from numclip_runtime import read_metadata
from numclip_runtime.files import sha256
from numclip_runtime.model_files.pin import checksum_line
from tests.export.fragile import save_fragile


@pytest.fixture(scope="module")
def reference_and_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Path]:
    """Return a reference, and an ONNX file in an engine's place: any machine can run it."""
    folder = tmp_path_factory.mktemp("verify")
    ckpt = save_fragile(folder, 1)
    checkpoint = load_checkpoint(ckpt)
    return Reference(checkpoint, verify_images(checkpoint)), run_export(
        ExportOptions(ckpt, folder / "x.onnx")
    ).onnx


def test_compared_where_it_runs(reference_and_file: tuple[Reference, Path]) -> None:
    reference, path = reference_and_file
    parity, said = engine_parity(path, reference)
    assert parity is not None
    assert parity.passed
    assert parity.images == 64
    assert said == "compared on this machine's GPU"


def test_a_different_engine_is_deleted_with_its_checksum(
    reference_and_file: tuple[Reference, Path], tmp_path: Path
) -> None:
    reference, path = reference_and_file
    plan = tmp_path / "x.onnx"
    plan.write_bytes(path.read_bytes())
    (tmp_path / "x.onnx.sha256").write_text(checksum_line(sha256(plan), plan.name))
    reference.values += 1
    try:
        with pytest.raises(ParityError, match=r"not kept, its values .* in parity; this Ten"):
            engine_parity(plan, reference)
    finally:
        reference.values -= 1
    assert list(tmp_path.iterdir()) == []


def test_not_run_without_a_gpu(reference_and_file: tuple[Reference, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from numclip_export.engine.build import engine_from_onnx
    from numclip_export.engine.build_options import EngineOptions
    from numclip_runtime.cuda.probe import probe_cuda

    if probe_cuda().problem is None:
        pytest.skip("this machine has a GPU")
    reference, path = reference_and_file
    options = replace(EngineOptions(), target="tensorrt-rtx", max_batch=2)
    plan = engine_from_onnx(path, tmp_path / "x.plan", options).plan
    parity, said = engine_parity(plan, reference)
    assert parity is None
    assert said.startswith("not run here: ")
    assert plan.exists()
    assert engine_parity(plan, None) == (None, "not verified, as asked")


@pytest.mark.usefixtures("real_clock")
def test_an_int8_engine_that_is_no_faster_is_deleted(
    reference_and_file: tuple[Reference, Path], tmp_path: Path
) -> None:
    """A file against a slower and a faster one: itself with the tower run again and again."""
    reference, path = reference_and_file
    slow = tmp_path / "slow.onnx"
    model = onnx.load(path)
    for count in range(300):  # a chain of work that onnxruntime cannot drop
        source = "images" if count == 0 else f"again_{count - 1}"
        model.graph.node.insert(count, onnx.helper.make_node("Sin", [source], [f"again_{count}"]))
    model.graph.node.insert(
        300, onnx.helper.make_node("ReduceMax", ["again_299"], ["most"], keepdims=0)
    )
    zero = onnx.numpy_helper.from_array(np.float32(0), "nothing")
    model.graph.initializer.append(zero)
    model.graph.node.insert(301, onnx.helper.make_node("Mul", ["most", "nothing"], ["none"]))
    for node in model.graph.node:
        node.output[:] = ["bare" if name == "values" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Add", ["bare", "none"], ["values"]))
    onnx.save(model, slow)
    fast = tmp_path / "fast.onnx"
    fast.write_bytes(path.read_bytes())

    speed = faster_or_deleted(slow, fast, reference.images.inputs)
    assert speed.int8_ms < speed.baseline_ms
    with pytest.raises(NotWorthItError, match=r"slow.onnx: not kept, it is no faster here: .* ms"):
        faster_or_deleted(fast, slow, reference.images.inputs)
    assert [file.name for file in tmp_path.iterdir()] == ["fast.onnx"]


@pytest.mark.parametrize("int8_ms", [1.0, 3.0])
def test_an_int8_engine_competes_with_the_fp16_engine_of_the_same_input(
    reference_and_file: tuple[Reference, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    int8_ms: float,
) -> None:
    """No GPU is needed: the build and the clock are replaced."""
    reference, path = reference_and_file
    plan, built = tmp_path / "x.int8.plan", []
    plan.write_bytes(b"an engine")
    target = ResolvedTarget("tensorrt", engine=EngineOptions("tensorrt", max_batch=4))
    metadata = replace(read_metadata(path), precision="int8", input="uint8")

    def build(onnx_path: Path, plan_path: Path, options: object, **given: object) -> None:
        (images,) = onnx.load(onnx_path).graph.input
        precision = read_metadata(onnx_path).precision
        built.append((images.type.tensor_type.elem_type, precision, options, given["metadata"]))

    monkeypatch.setattr(verified_engine, "engine_from_onnx", build)
    monkeypatch.setattr(
        verified_engine, "measure_speed", lambda *_: Speed("tensorrt", "fp16", 2.0, int8_ms)
    )
    arguments = (plan, metadata, path, target, reference.images.pixels)
    if int8_ms < 2:
        assert verified_engine.int8_engine_speed(*arguments).baseline == "fp16"
    else:
        with pytest.raises(NotWorthItError, match=r"3\.00 ms against 2\.00 ms in fp16"):
            verified_engine.int8_engine_speed(*arguments)
    assert plan.exists() == (int8_ms < 2)
    half = replace(metadata, precision="fp16")
    assert built == [(onnx.TensorProto.UINT8, "fp16", target.engine, half)]
