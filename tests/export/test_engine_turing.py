"""Compute capability 7.5, where TensorRT-RTX has no FP32 matrix products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from numclip_export.engine import build as build_module
from numclip_export.engine.build import engine_from_onnx
from numclip_export.engine.build_options import EngineOptions
from numclip_export.engine.turing import model_for_turing, replace_head_products
from numclip_runtime import ModelError
from numclip_runtime.model_files.plan import read_plan_metadata
from tests.export.chain import Chain
from tests.export.half import half_tower
from tests.numclip.tiny import images_of

TURING = EngineOptions("tensorrt-rtx", compute_capabilities=(75,))


def outputs(model: bytes, images: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    # at the highest level, onnxruntime's layout optimiser crashes on float16 towers
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    got: list[np.ndarray] = session.run(["values", "bin_probs"], {"images": images})
    return got


@pytest.fixture
def half(chain: Chain, tmp_path: Path) -> Path:
    """Return the chain's model with a float16 tower."""
    path = tmp_path / "x.fp16.onnx"
    onnx.save(half_tower(chain.graph), path)
    return path


def test_replaced_head_computes_the_same(chain: Chain, half: Path) -> None:
    content, replaced = model_for_turing(half.read_bytes(), half)
    assert replaced == 5  # two layers of the adapter, the logits, two layers of the regressor
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    used = {name for node in model.graph.node for name in node.input}
    assert used >= {tensor.name for tensor in model.graph.initializer}
    images = images_of(chain.tower, 5, seed=1).numpy()
    expected = outputs(half.read_bytes(), images)
    for got, wanted in zip(outputs(content, images), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=0)


def test_float16_engine(half: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    plan = half.with_suffix(".plan")
    built = engine_from_onnx(half, plan, TURING)
    info = read_plan_metadata(plan)
    assert info.engine.compute_capabilities == (75,)
    assert info.engine.flags == ("head-without-gemm",)
    (note,) = built.notes
    assert note.startswith("5 FP32 matrix products of the head became")
    both = EngineOptions("tensorrt-rtx", compute_capabilities=(86, 75))
    assert engine_from_onnx(half, plan, both).engine.compute_capabilities == (75, 86)


def test_head_stays_as_it_is_for_other_gpus(half: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    ampere = EngineOptions("tensorrt-rtx", compute_capabilities=(80, 86))
    assert engine_from_onnx(half, half.with_suffix(".plan"), ampere).engine.flags == ()


def test_float32_tower_is_refused_with_advice(chain: Chain, tmp_path: Path) -> None:
    needs_refusal()
    content = chain.done.onnx.read_bytes()
    assert model_for_turing(content, chain.done.onnx) == (content, 0)
    with pytest.raises(
        ModelError, match=r"FP32 GEMM is not supported.*from an fp16 model"
    ) as error:
        engine_from_onnx(chain.done.onnx, tmp_path / "x.plan", TURING)
    assert str(error.value).count("(") == str(error.value).count(")")
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_builder_refuses(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_refusal()
    monkeypatch.setattr(build_module, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"with the onnx package installed, or leave 75 out"):
        engine_from_onnx(half, half.with_suffix(".plan"), TURING)


def needs_refusal() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    if tuple(map(int, trt.__version__.split(".")[:2])) < (1, 7):
        pytest.skip("only TensorRT-RTX 1.7 refuses FP32 matrix products for 7.5")


def test_no_onnx_model(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x89PNG")
    with pytest.raises(ModelError, match=r"a\.onnx: onnx cannot read it"):
        model_for_turing(b"no model", tmp_path / "a.onnx")


def product(op: str, weight: np.ndarray, bias: bool, **attributes: Any) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    tensors = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    if bias:
        tensors.append(numpy_helper.from_array(rng.normal(size=4).astype(np.float32), "b"))
    shape: list[str | int] = ["B", 4]
    names = ["x", "w", "b"] if bias else ["x", "w"]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], "the_node", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape[: weight.ndim])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("op", "shape", "bias", "attributes"),
    [
        ("MatMul", (6, 4), False, {}),
        ("MatMul", (6,), False, {}),
        ("Gemm", (6, 4), False, {}),
        ("Gemm", (4, 6), True, {"transB": 1}),
        ("Gemm", (6, 4), True, {"alpha": 2.5}),
    ],
)
def test_every_form_of_product(
    op: str, shape: tuple[int, ...], bias: bool, attributes: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    model = product(op, rng.normal(size=shape), bias, **attributes)
    x = rng.normal(size=(5, 6)).astype(np.float32)

    def run() -> np.ndarray:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (y,) = session.run(None, {"x": x})
        assert isinstance(y, np.ndarray)
        return y

    before = run()
    assert replace_head_products(model) == (1, [])
    assert not {"MatMul", "Gemm"} & {node.op_type for node in model.graph.node}
    np.testing.assert_allclose(run(), before, atol=1e-5)


@pytest.mark.parametrize("attributes", [{"transA": 1}, {"beta": 2.0}])
def test_other_forms_are_named(attributes: dict[str, Any]) -> None:
    model = product("Gemm", np.ones((6, 4)), True, **attributes)
    if "transA" in attributes:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 6
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "B"
    assert replace_head_products(model) == (0, ["the_node"])
