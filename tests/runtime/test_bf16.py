"""bfloat16: where the runtime uses it, that it says so, and one sentence where it cannot."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numclip_runtime import ModelError, Predictor, UsageError, load
from numclip_runtime.backends import OpenOptions, bundle_opening
from numclip_runtime.backends import bf16 as choice
from numclip_runtime.jobs.job_model import JobModel
from numclip_runtime.jobs.manifest import MANIFEST
from numclip_runtime.metadata import METADATA_KEY, Bf16Proof, ModelMetadata
from numclip_runtime.model_files.onnx_file import message
from numclip_runtime.ray import PredictBatches
from numclip_runtime.spark import mapper
from numclip_runtime.system import has_bf16
from tests.runtime.bundles import make_bundle
from tests.runtime.conftest import invoke
from tests.runtime.test_bundle import VNNI

PROOF = Bf16Proof("logits", 0.25, 0.125, 0.01, "openvino")
IMAGES = np.random.default_rng(0).normal(0, 1, (5, 3, 8, 8)).astype(np.float32)


def write(path: Path, foreign: Path, metadata: ModelMetadata) -> Path:
    text = metadata.to_json().encode()
    entry = message(14, message(1, METADATA_KEY.encode()), message(2, text))
    path.write_bytes(foreign.read_bytes() + entry)
    return path


@pytest.fixture
def proved(tmp_path: Path, foreign: Path, predictor: Predictor) -> Path:
    """Return the tiny model with a proof: its products are rounded, and its softmax is not."""
    return write(tmp_path / "proved.onnx", foreign, replace(predictor.metadata, bf16=PROOF))


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this CPU have the instructions; OpenVINO itself computes as it can."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(choice, "has_bf16", lambda: True)


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ("openvino", "bf16")),
        ({"optimize_for": "throughput"}, ("openvino", "bf16")),
        ({"bf16": True, "device": "cpu"}, ("openvino", "bf16")),
        ({"backend": "openvino"}, ("openvino", "bf16")),
        ({"bf16": False}, ("onnxruntime", "fp32")),
        ({"backend": "onnxruntime"}, ("onnxruntime", "fp32")),
        ({"backend": "openvino", "bf16": False}, ("openvino", "fp32")),
    ],
)
def test_who_computes(
    proved: Path, predictor: Predictor, chosen: dict[str, Any], expected: tuple[str, str]
) -> None:
    with load(proved, **chosen) as opened:
        assert (opened.backend.name, opened.backend.precision) == expected
        for images in (IMAGES[:1], IMAGES):  # 8 bits of 25 are 0.1
            found, exact = opened.backend.run(images), predictor.backend.run(images)
            np.testing.assert_allclose(found[0], exact[0], atol=0.2)
            if has_bf16():
                rounded = not np.allclose(found[0], exact[0], atol=1e-4)
                assert rounded == (expected[1] == "bf16")


@pytest.mark.usefixtures("capable")
def test_the_head_stays_float32(proved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    asked = {}
    compiling = openvino.Core.compile_model

    def compile_model(core: Any, network: Any, device: str, config: dict[str, str]) -> Any:
        asked[network.get_friendly_name()] = config["INFERENCE_PRECISION_HINT"]
        return compiling(core, network, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    load(proved).close()
    assert asked == {"encoder": "bf16", "head": "f32"}


@pytest.mark.usefixtures("capable")
def test_a_file_without_proof_runs_in_float32(tiny: Path) -> None:
    with load(tiny) as opened, load(tiny, backend="openvino") as other:
        assert (opened.backend.name, opened.backend.precision) == ("onnxruntime", "fp32")
        assert other.backend.precision == "fp32"


def test_a_cpu_without_it_runs_in_float32(proved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "has_bf16", lambda: False)
    with load(proved) as opened:
        assert (opened.backend.name, opened.backend.precision) == ("onnxruntime", "fp32")
    found = " ".join(invoke("doctor", proved).stdout.split())
    assert "bfloat16 proved, values differ by up to 0.25; not used: this CPU is" in found


@pytest.mark.usefixtures("capable")
def test_it_is_said(proved: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (9, 9), "gray").save(tmp_path / "a.png")
    run = invoke(proved, tmp_path / "a.png", "-v")
    assert (run.exit_code, run.stderr.partition(", batch")[0]) == (0, "openvino: CPU on cpu, bf16")
    run = invoke(proved, tmp_path / "a.png", "-v", "--no-bf16")
    assert "CPUExecutionProvider on cpu, fp32" in run.stderr
    found = invoke("doctor", proved).stdout
    assert "openvino, CPU, bf16" in found
    assert "proved, values differ by up to 0.25; used" in found


@pytest.mark.parametrize(
    ("file", "chosen", "has", "installed", "sentence"),
    [
        ("tiny", {}, True, True, "is not proved of this file; export it again with `numclip-ex"),
        ("proved", {}, False, True, "and this CPU is not known to have instructions for it"),
        ("proved", {}, True, False, "is not installed: pip install 'numclip.openvino.'; or leave"),
        ("proved", {"backend": "onnxruntime"}, True, True, "onnxruntime does not compute in bfl"),
        ("proved", {"device": "cuda"}, True, True, "bf16 is for ONNX files on the CPU; leave it"),
    ],
)
def test_asked_for_in_vain(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    chosen: dict[str, Any],
    has: bool,
    installed: bool,
    sentence: str,
) -> None:
    monkeypatch.setattr(choice, "has_bf16", lambda: has)
    monkeypatch.setattr(choice, "find_spec", lambda _: object() if installed else None)
    with pytest.raises(UsageError, match=sentence) as caught:
        load(request.getfixturevalue(file), bf16=True, **chosen)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize("features", ["nothing", "weights"])
def test_a_proof_of_another_graph(
    tmp_path: Path, foreign: Path, predictor: Predictor, features: str
) -> None:
    metadata = replace(predictor.metadata, bf16=replace(PROOF, features=features))
    path = write(tmp_path / "a.onnx", foreign, metadata)
    with pytest.raises(ModelError, match=r"a\.onnx: not a model that OpenVINO can run"):
        load(path)


def test_metadata(predictor: Predictor) -> None:
    plain = predictor.metadata
    assert "bf16" not in plain.to_json()  # older versions read it
    metadata = replace(plain, bf16=PROOF)
    assert ModelMetadata.from_json(metadata.to_json()) == metadata
    broken = metadata.to_json().replace('"by":"openvino"', '"by":"hope"')
    with pytest.raises(ModelError, match="'by' must be one of openvino, emulation"):
        ModelMetadata.from_json(broken)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("flags\t: fma amx_bf16", True), ("flags\t: avx512f", False), ("Features\t: bf16", False)],
)
def test_instructions(tmp_path: Path, line: str, expected: bool) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"{line}\n")
    assert has_bf16(tmp_path) == expected


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize(
    ("asked", "backend", "refused"),
    [
        ((), "onnxruntime on cpu", "made with no --bf16, and this run has --bf16; give"),
        (("--bf16",), "openvino on cpu", "made with --bf16, and this run has no --bf16; give"),
    ],
)
def test_a_job_is_in_float32_unless_asked(
    proved: Path, photos: Path, tmp_path: Path, asked: tuple[str, ...], backend: str, refused: str
) -> None:
    out = tmp_path / "out"
    first = invoke(proved, photos / "dark.png", "-o", out, "--resume", "-v", *asked)
    assert first.exit_code == 0
    assert ("on cpu, bf16, batch" in first.stderr) == bool(asked)
    begun = json.loads((out / MANIFEST).read_text())
    assert (begun["bf16"], begun["backend"]) == (bool(asked), backend)
    other = invoke(proved, photos, "-o", out, "--resume", *(() if asked else ("--bf16",)))
    assert (other.exit_code, refused in other.stderr) == (2, True)
    again = invoke(proved, photos, "-o", out, "--resume", *asked)
    assert "1 images done before, 2 now" in again.stderr


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize("asked", [None, False, True])
def test_processes_of_a_cluster_agree(proved: Path, asked: bool | None) -> None:
    pytest.importorskip("pyarrow")
    expected = "bf16" if asked else "fp32"
    opening = JobModel.read(proved, OpenOptions(bf16=asked)).opening  # of --engine ray and --watch
    given: dict[str, Any] = {} if asked is None else {"bf16": asked}
    spark = pickle.loads(pickle.dumps(mapper(proved, **given))).model
    assert spark.options.bf16 is opening.bf16 is bool(asked)
    for worker in (spark, PredictBatches(proved, **given)._model):
        assert worker.predictor().backend.precision == expected


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize(
    ("files", "asked", "expected"),
    [
        (("fp32",), None, ("m.fp32.onnx of this bundle: fp32 on the CPU, in bfloat16", "bf16")),
        (("fp32",), False, ("m.fp32.onnx of this bundle: fp32 on the CPU", "fp32")),
        (("int8", "fp32"), False, ("m.int8.onnx of this bundle: int8, for which", "fp32")),
        (("int8", "fp32"), True, ("m.fp32.onnx of this bundle: fp32 on the CPU, in bf", "bf16")),
    ],
)
def test_bundles(
    proved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[Any, ...],
    asked: bool | None,
    expected: tuple[str, str],
) -> None:
    monkeypatch.setattr(bundle_opening, "read_surroundings", lambda options: VNNI)
    make_bundle(tmp_path / "b", proved, {f"m.{kind}.onnx": ("cpu", kind) for kind in files}, {})
    with load(tmp_path / "b", bf16=asked) as opened:
        assert (opened.choice or "").startswith(expected[0])
        assert opened.backend.precision == expected[1]
        assert list(opened.backend.notes) == []


@pytest.mark.usefixtures("capable")
def test_a_bundle_without_proof(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_opening, "read_surroundings", lambda options: VNNI)
    make_bundle(tmp_path / "b", tiny)
    with pytest.raises(ModelError, match="nothing in this bundle can run here") as caught:
        load(tmp_path / "b", bf16=True)
    assert "m.cpu.onnx: bf16 was asked for, and is not proved of this file" in str(caught.value)
    assert "m.cpu.int8.onnx: bfloat16 was chosen, which is for fp32 files" in str(caught.value)


RAY = ("--engine", "ray", "--format", "jsonl", "--bf16")  # Parquet needs pyarrow


@pytest.mark.parametrize(
    ("file", "words", "sentence"),
    [
        ("tiny", (), "tiny.onnx: bf16 was asked for, and is not proved of this file; export it"),
        ("proved", ("--device", "cuda"), "proved.onnx: bf16 is for ONNX files on the CPU; leave"),
        ("proved", ("--backend", "onnxruntime"), "onnxruntime does not compute in bfloat16"),
    ],
)
def test_a_cluster_is_not_begun_in_vain(
    request: pytest.FixtureRequest,
    photos: Path,
    tmp_path: Path,
    file: str,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    model, out = request.getfixturevalue(file), tmp_path / "out"
    done = invoke(model, photos, "-o", out, *RAY, *words)
    assert (done.exit_code, sentence in done.stderr, out.exists()) == (2, True, False), done.stderr
