"""`--target openvino`: static INT8 with zero points, which OpenVINO runs by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from numclip.checkpoint import Checkpoint, save_checkpoint
from numclip.evaluation.timing import lower_quartiles_ms
from numclip_export.cli import main
from numclip_export.graph.run import extremes
from numclip_export.int8.quantize import asymmetric_grids
from numclip_export.parity import BUDGETS, Budget
from numclip_export.precision import bf16
from numclip_runtime import GpuRequiredError, UsageError, load, read_metadata
from numclip_runtime.app.cli import main as run_command
from numclip_runtime.backends import bf16 as choice
from tests.export.chain import Chain
from tests.export.test_int8_convolutions import live_resnet
from tests.export.wide import LAYERS, names, report_of, run, save_wide
from tests.numclip.tiny import images_of, spec_of, write_photos

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = save_wide(tmp_path_factory.mktemp("wide"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bf16, "why_no_bf16", lambda: "this CPU has none")
        result = run(folder, "--target", "openvino")
    assert result.exit_code == 0, result.output
    return folder, result


def test_activations_have_zero_points(exported: tuple[Path, Result]) -> None:
    folder, result = exported
    fp32, int8 = report_of(folder)["artefacts"]
    assert (int8["form"], int8["int8_layers"]) == ("asymmetric", LAYERS)
    assert int8["bytes"] < 0.45 * fp32["bytes"]
    assert int8["parity"]["judged_by"] == "mean"
    assert int8["parity"]["min_feature_cosine"] > 0.98
    assert int8["accuracy"]["images"] == 20
    assert int8["speed"]["backend"] == "openvino CPU"
    assert int8["speed"]["batch"] == 8, "this form is for batches"
    assert "target: OpenVINO on a CPU" in result.output
    graph = onnx.load(folder / "x.int8.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    zeros = {int(constants[node.input[2]]) for node in rounded}
    assert {constants[node.input[2]].dtype for node in rounded} == {np.dtype("uint8")}
    assert max(zeros) > 100, "LayerNorms are even"
    assert min(zeros) < 50, "QuickGELU is nearly all positive"


def test_openvino_runs_it_by_default_and_others_can(exported: tuple[Path, Result]) -> None:
    folder, _ = exported
    photo = folder / "val" / "7.png"
    with load(folder / "x.onnx") as exact:
        expected = exact.predict(photo).value
        assert exact.backend.name == "openvino"
    with load(folder / "x.int8.onnx", bf16=False) as fast:
        assert (fast.backend.name, fast.backend.precision) == ("openvino", "int8")
        assert (fast.metadata.input, fast.metadata.backend) == ("uint8", "openvino")
        value = fast.predict(photo).value
        assert value == pytest.approx(expected, abs=0.3)
        several = list(fast.predict_batch([photo, folder / "val" / "3.png"]))
        assert several[0].value == pytest.approx(value, abs=1e-4), "no scale is of a batch"
    with load(folder / "x.int8.onnx", backend="onnxruntime") as other:
        assert other.backend.name == "onnxruntime"
        assert other.backend.notes == []
        assert other.predict(photo).value == pytest.approx(value, abs=0.1)


def test_without_openvino_it_is_said_and_runs(
    exported: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with load(exported[0] / "x.int8.onnx", device="cpu") as predictor:
        assert predictor.backend.name == "onnxruntime"
        (note,) = predictor.backend.notes
    assert "was made for OpenVINO, which runs it faster and is not installed: pip install" in note


def test_a_gpu_that_is_asked_for_is_no_cpu(exported: tuple[Path, Result]) -> None:
    with pytest.raises(GpuRequiredError):
        load(exported[0] / "x.int8.onnx", device="cuda")


def test_what_is_not_int8_is_proved_in_bfloat16(
    exported: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = exported
    (_, int8), metadata = report_of(folder)["artefacts"], read_metadata(folder / "x.int8.onnx")
    proof = metadata.bf16
    assert proof is not None
    assert proof.by == "emulation"
    assert proof.max_value_error == int8["bf16"]["parity"]["max_value_error"]
    assert int8["bf16"]["parity"]["judged_by"] == "mean"
    assert "x.int8.onnx: beside INT8 in bfloat16 value error mean" in result.output
    monkeypatch.setattr(choice, "has_bf16", lambda: True)
    with load(folder / "x.int8.onnx") as both, load(folder / "x.int8.onnx", bf16=False) as one:
        assert (both.backend.precision, one.backend.precision) == ("int8+bf16", "int8")
        photo = folder / "val" / "7.png"
        assert both.predict(photo).value == pytest.approx(one.predict(photo).value, abs=0.3)
    said = CliRunner().invoke(run_command, [str(folder / "x.int8.onnx"), str(photo), "-v"])
    assert "openvino: CPU on cpu, int8+bf16, " in said.output
    found = CliRunner().invoke(run_command, ["doctor", str(folder / "x.int8.onnx")]).output
    assert "openvino, CPU, int8+bf16" in found
    assert "proved, values differ by up to" in found


def test_bfloat16_that_is_too_far_off_is_left_out(
    exported: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bf16, "why_no_bf16", lambda: "this CPU has none")
    rounding = bf16.bf16_twin

    def far_off(model: onnx.ModelProto) -> onnx.ModelProto:
        twin = rounding(model)
        for tensor in twin.graph.initializer:
            if tensor.name.endswith("/weight_scale"):
                tensor.CopyFrom(
                    numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name)
                )
        return twin

    monkeypatch.setattr(bf16, "bf16_twin", far_off)
    result = run(exported[0], "--target", "openvino", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert read_metadata(tmp_path / "x.int8.onnx").bf16 is None
    (_, int8) = report_of(tmp_path)["artefacts"]
    note = int8["bf16_note"]
    assert note.startswith("all but INT8 stays in float32: ")
    assert "differ from the checkpoint's in the mean by" in note
    assert f"x.int8.onnx: {note}" in result.output


def test_convolutions_keep_their_chains(tmp_path: Path) -> None:
    write_photos(tmp_path, "val", 12)
    checkpoint = Checkpoint(live_resnet(), spec_of("resnet"), {}, str(tmp_path / "val.csv"))
    save_checkpoint(tmp_path / "x.pt", checkpoint)
    result = run(tmp_path, "--target", "openvino", "--atol", 30)
    assert result.exit_code == 0, result.output
    (_, int8) = report_of(tmp_path)["artefacts"]
    assert (int8["form"], int8["speed"]["batch"]) == ("qdq", 1)
    with load(tmp_path / "x.int8.onnx") as fast:
        assert fast.backend.name == "openvino"


def test_a_file_that_is_too_far_off_is_refused(
    exported: tuple[Path, Result], tmp_path: Path
) -> None:
    result = run(exported[0], "--target", "openvino", "--atol", "2e-5", "-o", tmp_path)
    assert result.exit_code == 1, result.output
    assert "x.int8.onnx: not kept, its values differ" in result.output
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fp16"], "fp16 is for GPUs, a CPU computes it more slowly than fp32"),
        (["--int8", "--opt-batch", "4"], "--opt-batch is for engines, and none is built"),
        (["--int8", "--triton", "models"], "Triton runs ONNX files in onnxruntime"),
    ],
)
def test_wrong_use(chain: Chain, words: list[str], sentence: str) -> None:
    result = CliRunner().invoke(main, [str(chain.ckpt), "--target", "openvino", *words])
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.output.split())


def test_openvino_must_be_there(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(extra: str, *packages: str) -> None:
        raise UsageError(f"{packages} of {extra}")

    monkeypatch.setattr("numclip_export.options.require_installed", missing)
    result = CliRunner().invoke(main, [str(chain.ckpt), "--target", "openvino", "--int8"])
    assert (result.exit_code, "('openvino',) of openvino" in result.output) == (2, True)


def test_grids_hold_zero_and_both_ends() -> None:
    ends = {"even": (-2.0, 3.1), "positive": (0.5, 7.0), "negative": (-4.0, -1.0), "dead": (0, 0)}
    for name, grid in asymmetric_grids(ends).items():
        numbers = (np.arange(256) - float(grid.zero)) * float(grid.scale)
        assert 0 in numbers, name
        for end in ends[name]:
            assert np.abs(numbers - end).min() <= 0.51 * grid.scale, name


def test_extremes_are_those_of_all_images(chain: Chain) -> None:
    images = images_of(chain.tower, 11).numpy()
    found = extremes(chain.graph, ["values", "bin_probs"], images)
    with load(chain.done.onnx, device="cpu") as predictor:
        for name, array in zip(found, predictor.backend.run(images), strict=True):
            assert found[name] == pytest.approx((array.min(), array.max()), abs=1e-4)


def test_batches_are_timed_as_batches() -> None:
    seen = []
    images = np.zeros((3, 2), np.float32)
    lower_quartiles_ms([(lambda some: seen.append(some.shape), images)], batch=8)
    assert set(seen) == {(8, 2)}


def test_the_budget_is_that_of_int8(
    exported: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bf16, "why_no_bf16", lambda: "this CPU has none")
    monkeypatch.setitem(BUDGETS, "bf16", Budget(0, 0, "mean", 0))
    result = run(exported[0], "--target", "openvino", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert read_metadata(tmp_path / "x.int8.onnx").bf16 is not None
