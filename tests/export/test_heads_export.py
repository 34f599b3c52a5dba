"""Every head is exported: the same numbers in every precision, in operators the runtime accepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from numclip.checkpoint import Checkpoint, save_checkpoint
from numclip.model.backbone import image_config
from numclip_export import ExportOptions, run_export
from numclip_export.exported_file import ExportedFile
from numclip_export.fold import FoldedModel
from numclip_export.graph.onnx_model import onnx_from_folded
from numclip_export.int8.calibration import Int8Data
from numclip_export.int8.write import quantise
from numclip_export.parity import BUDGETS
from numclip_runtime import Calibration, ModelMetadata, Preprocessing, load
from numclip_runtime.metadata import Precision
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.operators import check_graph
from tests.numclip.tiny import TASK, TOWERS, images_of, spec_of, tiny_model, write_photos

HEADS: dict[str, dict[str, Any]] = {
    "prototypes": {"vectors": "prototypes"},
    "distribution": {"head": "distribution", "vectors": "prototypes", "adapter_ratio": 0.0},
    "probe": {"head": "probe", "vectors": "prototypes", "adapter_ratio": 0.0},
}
TEMPERATURE = 1.7
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")  # fp16 rounds as a GPU does, see precision


def saved(folder: Path, head: str, offset: int = 100) -> Path:
    """Save a random model with a calibration beside 5 photos."""
    write_photos(folder, "val", 5)
    model = tiny_model(
        clip=image_config(TOWERS["vit"]), task=replace(TASK, label_offset=offset), **HEADS[head]
    )
    torch.nn.init.constant_(model.logit_scale, 3.0)
    (folder / "offset.csv").write_text(
        "path,label\n" + "".join(f"val/{i}.png,{offset + i}\n" for i in range(5)), "utf-8"
    )
    calibration = Calibration(TEMPERATURE, 1.0, (0.9,), (2.0,), 40)
    side = spec_of("vit").crop
    pieces = Preprocessing(2 * side, 2 * side, "fragments", fragments=2)
    checkpoint = Checkpoint(
        model,
        pieces if head == "distribution" else spec_of("vit"),
        {"mae": 1.0},
        str(folder / "offset.csv"),
        calibration=calibration,
    )
    save_checkpoint(folder / "x.pt", checkpoint)
    return folder / "x.pt"


@pytest.fixture(scope="module", params=list(HEADS))
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[ExportedFile, ...]]:
    folder = tmp_path_factory.mktemp(request.param)
    ckpt = saved(folder, request.param)
    done = run_export(ExportOptions(ckpt, folder / "x.onnx", precision="fp16"))
    return folder, done.files


def test_parity_in_label_units(exported: tuple[Path, tuple[ExportedFile, ...]]) -> None:
    for file, precision in zip(exported[1], PRECISIONS, strict=True):
        parity = file.parity
        assert parity is not None
        assert parity.passed
        assert 0 < parity.max_value_error <= BUDGETS[precision].value * TASK.label_range
        with OpenModel(file.path) as opened:
            check_graph(opened)


def test_runtime_predicts_what_the_checkpoint_does(
    exported: tuple[Path, tuple[ExportedFile, ...]],
) -> None:
    folder, files = exported
    from numclip.checkpoint import load_checkpoint
    from numclip.data.dataset import evaluation_transform
    from numclip_runtime.preprocess import load_rgb

    checkpoint = load_checkpoint(folder / "x.pt")
    photo = folder / "val" / "3.png"
    image = evaluation_transform(checkpoint.preprocessing)(load_rgb(photo))
    with torch.no_grad():
        values, probs = checkpoint.outputs(image[None])
    with load(files[0].path) as predictor:
        found = predictor.predict(photo)
    assert found.value == pytest.approx(values.item(), abs=1e-3)
    assert list(found.bin_probs.values()) == pytest.approx(probs[0].tolist(), abs=1e-4)
    assert found.interval is not None
    assert found.interval[0] <= found.value <= found.interval[1]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("offset", [0, 100])
def test_openvino_finds_values_that_it_has_fused_with_another_tensor(
    head: str, offset: int, tmp_path: Path
) -> None:
    """A graph that ends in a Clip, fused with the tensor before: the tensor has both names."""
    pytest.importorskip("openvino")
    ckpt = saved(tmp_path, head, offset)
    file = run_export(ExportOptions(ckpt, tmp_path / "x.onnx")).files[0]
    photo = tmp_path / "val" / "3.png"
    with load(file.path) as one, load(file.path, backend="openvino") as other:
        wanted, found = one.predict(photo), other.predict(photo)
    assert found.value == pytest.approx(wanted.value, abs=1e-3)
    assert list(found.bin_probs.values()) == pytest.approx(
        list(wanted.bin_probs.values()), abs=1e-4
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", ["dynamic", "qdq"])
def test_int8(head: str, form: Any, tmp_path: Path) -> None:
    clip = image_config(TOWERS["vit"])
    model = tiny_model(clip=clip, task=replace(TASK, label_offset=100), **HEADS[head])
    graph = onnx_from_folded(FoldedModel(model, TEMPERATURE), 32, opset=18)
    images = images_of("vit", 16)
    metadata = ModelMetadata(model.task, Preprocessing(32, 36), "int8")
    none = np.zeros((0, 32, 32, 3), np.uint8)
    data = Int8Data(images.numpy(), "validation", None, none, np.zeros(0, np.float32))
    written = quantise(graph, metadata, form, data).written
    path = tmp_path / "x.onnx"
    path.write_bytes(written.SerializeToString())
    with OpenModel(path) as opened:
        check_graph(opened)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values, probs = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        want = model(images)
    error = np.abs(values - want.values.numpy()).mean()
    # A random tower of 32 channels rounds worse than any real one, whose budget is half of this.
    assert error <= 2 * BUDGETS["int8"].value * TASK.label_range
    assert error > 0  # INT8 is felt
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-4)


def test_engine_is_built(exported: tuple[Path, tuple[ExportedFile, ...]], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from numclip_export.engine.build import engine_from_onnx
    from numclip_export.engine.build_options import EngineOptions

    for file in exported[1]:
        plan = tmp_path / f"{file.path.stem}.plan"
        options = EngineOptions("tensorrt-rtx", compute_capabilities=(86,), max_batch=4)
        built = engine_from_onnx(file.path, plan, options)
        assert built.size > file.path.stat().st_size / 2  # the weights are in


def test_a_probe_is_one_layer_behind_the_tower(tmp_path: Path) -> None:
    saved(tmp_path, "probe")
    done = run_export(ExportOptions(tmp_path / "x.pt", tmp_path / "x.onnx"))
    graph = onnx.load(done.onnx).graph
    behind = [node.op_type for node in graph.node if not node.name.startswith("image_encoder")]
    assert behind.count("Gemm") == 1
    assert "MatMul" not in behind
    assert {"Softplus", "Concat"} <= set(behind)
