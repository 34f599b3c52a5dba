"""Jobs and monitors with a bundle: all processes and later runs open the same artefact of it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from numclip_runtime import ModelError
from numclip_runtime.backends import DEFAULTS, OpenOptions, bundle_opening
from numclip_runtime.files import sha256
from numclip_runtime.jobs.job_model import JobModel
from numclip_runtime.jobs.manifest import MANIFEST
from numclip_runtime.model_files.bundle import read_bundle
from numclip_runtime.spark import mapper
from tests.runtime.bundles import make_bundle
from tests.runtime.conftest import invoke, records
from tests.runtime.test_bundle import CPU_ORDER, VNNI


@pytest.fixture
def bundle(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bundle_opening, "read_surroundings", lambda options: VNNI)
    make_bundle(tmp_path / "fleet", tiny)
    return tmp_path / "fleet"


def test_resume_goes_on_with_the_artefact_and_refuses_another(
    bundle: Path, tiny: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = invoke(bundle, photos / "dark.png", "-o", out, "--resume")
    assert first.exit_code == 0
    assert "Note: m.cpu.int8.onnx of this bundle: int8, for which this CPU has" in first.stderr
    begun = json.loads((out / MANIFEST).read_text())
    assert begun["sha256"] == sha256(bundle / "m.cpu.int8.onnx")
    # the artefact by its own name is the same model
    alone = invoke(bundle / "m.cpu.int8.onnx", photos, "-o", out, "--resume")
    assert "1 images done before, 2 now" in alone.stderr
    lines = [line for part in sorted(out.glob("part-*")) for line in part.read_text().splitlines()]
    expected = [json.dumps(record) for record in records(invoke(tiny, photos))]
    assert sorted(map(json.loads, lines), key=str) == sorted(map(json.loads, expected), key=str)
    (bundle / CPU_ORDER[0]).unlink()
    other = invoke(bundle, photos, "-o", out, "--resume")
    assert other.exit_code == 2
    assert f"{bundle}: m.cpu.int8.onnx was passed over (it is missing)" in other.stderr
    assert "holds records made with m.cpu.int8.onnx (SHA-256" in other.stderr


def test_pins_of_the_bundle_and_of_an_artefact(bundle: Path) -> None:
    for pin, name in (
        (read_bundle(bundle).sha256, CPU_ORDER[0]),
        (sha256(bundle / CPU_ORDER[1]), CPU_ORDER[1]),
    ):
        found = JobModel.read(bundle, OpenOptions(sha256=pin))
        assert (found.name, found.sha256) == (str(bundle / name), sha256(bundle / name))
        assert found.metadata == read_bundle(bundle).model
    with pytest.raises(ModelError, match=r"neither bundle\.json"):
        JobModel.read(bundle, OpenOptions(sha256="0" * 64))
    assert JobModel.read("quality", DEFAULTS).name == "quality"  # the same everywhere


def test_a_mapper_sends_the_artefact(bundle: Path, tiny: Path, photos: Path) -> None:
    pytest.importorskip("pyarrow")
    read = pickle.loads(pickle.dumps(mapper(bundle)))
    assert read.model.model == str(bundle / CPU_ORDER[0])
    assert read.model.options.sha256 == sha256(bundle / CPU_ORDER[0])
    paths = [str(photos / "dark.png")]
    (record,) = read.model.records(paths)
    assert json.loads(json.dumps(record)) == records(invoke(tiny, *paths))[0]


def test_a_monitor_follows_the_artefact(
    bundle: Path, tiny: Path, photos: Path, tmp_path: Path
) -> None:
    reference, state = tmp_path / "reference.json", tmp_path / "monitor.json"
    many = [photos] * 7
    assert invoke(bundle, *many, "--write-reference", reference).exit_code == 0
    run = invoke(bundle, *many, "--monitor", state, "--monitor-reference", reference)
    assert (run.exit_code, "Monitor: no change in" in run.stderr) == (0, True)
    model = json.loads(state.read_text())["model"]
    assert model == {"name": CPU_ORDER[0], "sha256": sha256(bundle / CPU_ORDER[0])}
    refused = invoke(tiny, *many, "--monitor", state, "--monitor-reference", reference)
    assert refused.exit_code == 2
    assert "is the reference of another model, m.cpu.int8.onnx" in refused.stderr
