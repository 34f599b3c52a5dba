"""--bf16: the proof in the metadata, its emulation, and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from numclip_export import ExportOptions, ExportResult, run_export
from numclip_export.cli import main
from numclip_export.graph.edit import with_outputs
from numclip_export.graph.names import in_image_encoder
from numclip_export.graph.run import cpu_session
from numclip_export.graph.types import features_name
from numclip_export.options import FOR_CPU
from numclip_export.parity import BUDGETS, Budget, ParityError
from numclip_export.precision import bf16
from numclip_runtime import UsageError, read_metadata
from numclip_runtime.backends import bf16 as choice
from numclip_runtime.model_files.bundle import read_bundle
from tests.export.chain import Chain
from tests.numclip.tiny import images_of


def export(chain: Chain, folder: Path) -> ExportResult:
    return run_export(ExportOptions(chain.ckpt, folder / "x.onnx", target=FOR_CPU, bf16=True))


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow any difference: random networks are not what the budget is for."""
    monkeypatch.setitem(BUDGETS, "bf16", Budget(1e3, 1.0, "mean", 1e3))


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "why_no_bf16", lambda: "this CPU has none")


def test_the_encoder_is_rounded_and_the_head_is_not(chain: Chain) -> None:
    twin = bf16.bf16_twin(chain.graph)
    before = {name for node in chain.graph.graph.node for name in node.output}
    made = [node for node in chain.graph.graph.node if node.op_type in (*bf16.PRODUCTS, "Add")]
    inside, head = (
        [node.output[0] for node in made if in_image_encoder(node.name) == where]
        for where in (True, False)
    )
    assert {*inside, *head} <= before
    session = cpu_session(with_outputs(twin, [*inside, *head]))
    images = {"images": images_of(chain.tower, 2).numpy()}
    for name, found in zip([*inside, *head], session.run([*inside, *head], images), strict=True):
        rounded = torch.from_numpy(found).bfloat16().float().numpy()
        assert np.array_equal(found, rounded) == (name in inside), name


@pytest.mark.usefixtures("generous", "emulated")
def test_emulated_proof(chain: Chain, tmp_path: Path) -> None:
    done = export(chain, tmp_path)
    proof, details = done.files[0].metadata.bf16, done.details["artefacts"][0]["bf16"]
    assert proof is not None
    assert proof.by == "emulation"
    assert details["by"] == "emulation: this CPU has none"
    assert details["speed"] is None
    assert proof.features == features_name(onnx.load(done.onnx))
    assert proof.max_value_error == details["parity"]["max_value_error"] > 1e-4
    assert proof.mean_value_error == details["parity"]["mean_value_error"]
    assert details["parity"]["judged_by"] == "mean"


@pytest.mark.usefixtures("generous", "emulated")
def test_the_proof_goes_with_the_file_into_a_bundle(chain: Chain, tmp_path: Path) -> None:
    (proved,) = export(chain, tmp_path).files
    words = [str(proved.path), "--bundle", str(tmp_path / "fleet"), "--targets", "cpu-fp32"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert read_metadata(tmp_path / "fleet" / "x.onnx").bf16 == proved.metadata.bf16 is not None
    assert read_bundle(tmp_path / "fleet").model.bf16 is None  # other files may lack it


@pytest.mark.usefixtures("generous")
@pytest.mark.parametrize("faster", [True, False])
def test_proof_on_this_machine(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(choice, "has_bf16", lambda: True)
    times = [3.0, 1.5] if faster else [1.5, 3.0]
    monkeypatch.setattr(bf16, "lower_quartiles_ms", lambda runs, batch: times)
    if not faster:
        with pytest.raises(ParityError, match=r"no faster here: 3\.00 ms against 1\.50 ms in fl"):
            export(chain, tmp_path)
        assert list(tmp_path.iterdir()) == []
        return
    done = export(chain, tmp_path)
    proof = done.files[0].metadata.bf16
    assert proof is not None
    assert proof.by == "openvino"
    assert proof.max_value_error < 1
    speed = done.details["artefacts"][0]["bf16"]["speed"]
    assert speed == {"fp32_with": "onnxruntime", "fp32_ms": 3.0, "bf16_ms": 1.5, "batch": 1}


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(("mean", "largest"), [(1e-9, 1e3), (1e3, 1e-9)])
def test_beyond_the_budget(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mean: float, largest: float
) -> None:
    monkeypatch.setitem(BUDGETS, "bf16", Budget(mean, 1.0, "mean", largest))
    with pytest.raises(ParityError, match=r"in bfloat16 its values differ .* in the mean by"):
        export(chain, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--bf16", "--fp16"], "and bf16 and fp16 are asked for; run it once for each, with"),
        (["--precision", "bf16", "--int8"], "and bf16 and int8 are asked for"),
        (["--bf16", "--no-verify"], "--bf16 is a proof, which --no-verify skips"),
        (["--bf16", "--target", "onnx"], "--bf16 is for a CPU; choose --target cpu without --web"),
    ],
)
def test_wrong_use(chain: Chain, tmp_path: Path, words: list[str], sentence: str) -> None:
    shutil.copy(chain.ckpt, tmp_path / "x.pt")
    result = CliRunner().invoke(main, [str(tmp_path / "x.pt"), *words])
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_two_precisions_in_python(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bf16 is proved of the float32 file, and int8 writes an"):
        ExportOptions(tmp_path, tmp_path, target=FOR_CPU, precision="int8", bf16=True)
