"""`numclip-export --int8`: accurate and faster, or nothing left behind."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result

from numclip_export.cli import main
from numclip_export.int8 import acceptance
from numclip_runtime import ModelError, load
from numclip_runtime.model_files.onnx_file import MappedModel
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.plan import read_plan_metadata
from tests.export.fragile import save_fragile
from tests.export.wide import names, report_of, run, save_wide


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def for_cpu(wide: Path) -> tuple[Path, Result]:
    result = run(wide, "--target", "cpu", "--calib-cache", wide / "ranges.json")
    assert result.exit_code == 0, result.output
    return wide, result


@pytest.mark.skipif(sys.platform != "linux", reason="files are mapped on Linux only")
@pytest.mark.parametrize("name", ["x.onnx", "x.int8.onnx"])
def test_weights_go_from_the_file_to_where_they_are_packed(
    for_cpu: tuple[Path, Result], name: str
) -> None:
    path = for_cpu[0] / name
    with OpenModel(path) as model:
        graph = MappedModel(model).graph
    assert graph is not None
    assert len(graph) < 0.15 * path.stat().st_size
    with load(path, device="cpu"):
        maps = Path("/proc/self/maps").read_text()
    assert "libonnxruntime" in maps or "onnxruntime_pybind" in maps
    assert name not in maps  # else whoever writes into the file would change the model


def test_cpu_file_is_kept_because_it_is_accurate_and_faster(for_cpu: tuple[Path, Result]) -> None:
    folder, _ = for_cpu
    fp32, int8 = report_of(folder)["artefacts"]
    assert int8["form"] == "dynamic"
    assert int8["int8_layers"] == 2 * 4 + 1  # the last block's queries are apart
    assert int8["bytes"] < 0.45 * fp32["bytes"]
    assert int8["speed"]["int8_ms"] < int8["speed"]["baseline_ms"]
    assert int8["accuracy"]["images"] == 20
    assert int8["accuracy"]["mae_int8"] <= int8["accuracy"]["mae_fp32"] + 0.005 * 30
    assert int8["parity"]["judged_by"] == "mean"
    assert int8["calibration"] == {
        "source": "validation",
        "images": 20,
        "from_cache": False,
        "balanced_tensors": 2 * 2 + 1,
    }
    assert (
        int8["parity"]["min_feature_cosine"] > 0.98
    )  # below 0.99 in test_int8 without the balance


def test_cpu_file_predicts(for_cpu: tuple[Path, Result]) -> None:
    folder, _ = for_cpu
    photo = folder / "val" / "7.png"
    with load(folder / "x.onnx") as exact, load(folder / "x.int8.onnx") as fast:
        assert fast.metadata.precision == "int8"
        assert fast.metadata.verified
        assert fast.metadata.input == "uint8"  # the patch embedding multiplies pixels
        assert fast.metadata.optimized_by == f"onnxruntime {onnxruntime.__version__}"
        assert fast.predict(photo).value == pytest.approx(exact.predict(photo).value, abs=0.3)


def test_planes_can_be_asked_for(wide: Path, tmp_path: Path) -> None:
    result = run(wide, "--target", "cpu", "--input", "float32", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    with load(tmp_path / "x.int8.onnx") as fast:
        assert fast.metadata.input == "float32"


def test_openvino_is_told_that_the_file_is_not_for_it(for_cpu: tuple[Path, Result]) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ModelError, match=r"was made for onnxruntime .* use the float32 file"):
        load(for_cpu[0] / "x.int8.onnx", backend="openvino")


def test_cpu_graphs_use_one_attention_node(for_cpu: tuple[Path, Result]) -> None:
    folder, result = for_cpu
    kinds = [node.op_type for node in onnx.load(folder / "x.int8.onnx").graph.node]
    assert kinds.count("Attention") == 2
    assert "target: onnxruntime on a CPU" in result.output
    assert "WARNING" not in result.output
    (row,) = [line for line in result.output.splitlines() if line.startswith("x.int8.onnx")]
    assert re.search(r", mean 0\.\d+ +mean 0\.15 ", row), "0.5 % of 30, judged by the mean"


@pytest.mark.usefixtures("real_exporter")
def test_second_export_takes_the_calibration_from_the_cache(for_cpu: tuple[Path, Result]) -> None:
    folder, _ = for_cpu
    before = (folder / "x.int8.onnx").read_bytes()
    result = run(folder, "--target", "cpu", "--calib-cache", folder / "ranges.json")
    assert result.exit_code == 0, result.output
    assert report_of(folder)["artefacts"][1]["calibration"]["from_cache"]
    after = onnx.load(folder / "x.int8.onnx").graph
    assert after == onnx.load_from_string(before).graph


@pytest.mark.parametrize("int8_ms", [1.5, 2.25])
def test_a_file_that_is_no_faster_is_refused_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8_ms: float
) -> None:
    monkeypatch.setattr(acceptance, "lower_quartiles_ms", lambda _, batch: [1.5, int8_ms])
    save_fragile(tmp_path, 1)
    before = names(tmp_path)
    result = run(tmp_path, "--target", "cpu")
    assert result.exit_code == 1, result.output
    said = f"x.int8.onnx: not kept, it is no faster here: {int8_ms:.2f} ms against 1.50 ms in fp32"
    assert said in result.output
    assert names(tmp_path) == before


def test_a_file_that_is_too_far_off_is_refused(wide: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("an older export")
    result = run(wide, "--target", "cpu", "--atol", "2e-5", "-o", tmp_path / "x.onnx")
    assert result.exit_code == 1, result.output
    assert "x.int8.onnx: not kept, its values differ from the checkpoint's in the mean by" in (
        result.output
    )
    assert names(tmp_path) == {"x.onnx"}
    assert (tmp_path / "x.onnx").read_text() == "an older export"


def test_engine_file_for_tensorrt(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = ("--compute-capability", "86,120")
    save_fragile(tmp_path, 1)
    result = run(tmp_path, "--target", "tensorrt-rtx", *options)
    assert result.exit_code == 0, result.output
    assert names(tmp_path) - {"x.pt", "val", "val.csv"} == {
        "x.onnx",
        "x.onnx.sha256",
        "x.int8.onnx",
        "x.int8.onnx.sha256",
        "x.int8.plan",
        "x.int8.plan.sha256",
        "x.report.json",
    }
    info = read_plan_metadata(tmp_path / "x.int8.plan")
    assert info.metadata.precision == "int8"
    assert info.metadata.input == "uint8"  # a quarter of the upload
    assert info.engine.compute_capabilities == (86, 120)
    report = report_of(tmp_path)
    int8 = report["artefacts"][1]
    assert int8["form"] == "static"
    assert int8["opset"] == 19
    assert int8["operators"]["QuantizeLinear"] == 2 * 4 + 1
    assert int8["nodes"]["fp16"] > 3 * int8["nodes"]["fp32"]
    assert int8["fp32_nodes"] == ["adapter", "head", "input", "regressor"]
    assert int8["speed"] is None  # no GPU runs it
    assert int8["accuracy"]["images"] == 5
    assert int8["accuracy"]["passed"]
    assert report["engine"]["onnx_sha256"] == int8["sha256"]
    assert report["engine"]["built_from"] == "x.int8.onnx"


def test_on_a_cpu_a_file_for_engines_says_that_it_is_slow(tmp_path: Path) -> None:
    save_fragile(tmp_path, 1)
    for target, slow in (("onnx", True), ("cpu", False)):
        folder = tmp_path / target
        result = run(tmp_path, "--target", target, "-o", folder)
        assert result.exit_code == 0, result.output
        with load(folder / "x.int8.onnx", device="cpu", backend="onnxruntime") as predictor:
            notes = "".join(predictor.backend.notes)
        said = "its INT8 is made for TensorRT; on a CPU onnxruntime runs it slower" in notes
        assert said is bool(notes) is slow


def test_fp16_engine_takes_pixels_and_the_choice_can_be_overruled(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    ckpt = save_fragile(tmp_path, 1)
    for given, expected in ((), "uint8"), (("--input", "float32"), "float32"):
        options = ["--ckpt", str(ckpt), "--fp16", "--max-batch", "2", *given]
        result = CliRunner().invoke(main, options)
        assert result.exit_code == 0, result.output
        assert "target: tensorrt-rtx" in result.output
        assert read_plan_metadata(tmp_path / "x.fp16.plan").metadata.input == expected
        with load(tmp_path / "x.fp16.onnx") as predictor:
            value = predictor.predict(tmp_path / "val" / "3.png").value
        with load(tmp_path / "x.onnx") as exact:
            assert value == pytest.approx(exact.predict(tmp_path / "val" / "3.png").value, abs=0.06)
