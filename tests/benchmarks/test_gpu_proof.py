"""The GPU proof: its parts end or are ended, what they found is kept, and it is rehearsed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import gpu_proof
from benchmarks.bench.gpu import proof as proofs
from benchmarks.bench.gpu.checks import Settings
from benchmarks.bench.gpu.lanes_part import check_lanes, overlap_ms
from benchmarks.bench.gpu.latency_part import latency_command, run_within
from benchmarks.bench.gpu.proof import (
    MODELS_PART,
    PROOF_FILE,
    PROOF_PARTS,
    Part,
    Proof,
    chosen_parts,
    joined,
    read_proof,
    run_part,
    run_proof,
    write_proof,
)
from benchmarks.bench.gpu.proof_page import part_lines, proof_section
from benchmarks.bench.gpu.stand_in import compile_driver
from benchmarks.bench.run import MOST_BESIDE_GPU, compared_with, fit_for
from benchmarks.latency import chosen_baselines
from benchmarks.results_table import GPU_BEGIN, GPU_END, GPU_PAGE, RESULTS, with_proof
from benchmarks.timeline import Span
from numclip_runtime import UsageError
from numclip_runtime.cuda.probe import CudaDriver
from tests.benchmarks.conftest import ROOT


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    work, out, models = (tmp_path / name for name in ("work", "out", "models"))
    for folder in (work, out, models):
        folder.mkdir()
    return Settings(True, str(work), str(out), str(models), 300.0)


def part(name: str, share: float = 1, **more: Any) -> Part:
    return Part(name[0], name, f"tests.benchmarks.gpu_parts:{name}", share, **more)


def run(settings: Settings, *names: str) -> Proof:
    parts = [part(name, needs_models=False) for name in names]
    return run_proof(parts, settings, argv=["benchmarks/gpu_proof.py", "--rehearse"])


def test_what_parts_found_is_kept_however_they_end(settings: Settings) -> None:
    found = run(settings, "works", "fails", "dies")
    assert read_proof(Path(settings.out) / PROOF_FILE) == found
    works, fails, dies = found.parts
    assert (works.status, [check.name for check in works.checks]) == ("passed", ["one"])
    # Paths of this machine are left out, and a third of the time was the first part's
    assert works.checks[0].facts["place"] == "x.onnx"
    assert works.checks[0].facts["seconds"] == pytest.approx(100, abs=1)
    assert fails.limit_s > 110  # what the first part left
    assert found.environment.versions["something"] == "1.2"
    assert fails.status == "failed"
    assert {check.name: check.status for check in fails.checks} == {
        **{"good": "passed", "bad": "failed", "broken": "failed", "absent": "skipped"}
    }
    reasons = {check.name: check.reason for check in fails.checks}
    assert (reasons["bad"], reasons["absent"]) == ("two is not three", "there is none")
    assert str(reasons["broken"]).endswith("ZeroDivisionError: integer division or modulo by zero")
    assert (dies.status, [check.name for check in dies.checks]) == ("failed", ["before"])
    assert dies.reason == "its process ended with exit code -9: check: before"
    assert not found.passed
    lines = part_lines(fails)
    assert lines[0].endswith("1 of 4 checks")
    assert lines[1] == "   failed: bad: two is not three"
    assert part_lines(dies)[1].startswith("   its process ended with exit code -9")


def test_a_part_that_hangs_is_ended(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "_GRACE_S", 0.1)  # it ignores SIGTERM
    result = run_part(part("hangs"), settings, limit_s=0.5)
    assert result.status == "timed out"
    assert str(result.reason).startswith("its 0 s were over: ")
    assert result.seconds < 60


def test_without_models_parts_that_need_them_do_not_begin(settings: Settings) -> None:
    models = replace(part("dies", needs_models=False), letter=MODELS_PART.letter)
    found = run_proof([models, part("works")], settings, argv=["x"])
    assert found.parts[1].checks == []
    assert str(found.parts[1].reason).startswith("its models were not made: its process ended")


def test_a_second_call_keeps_the_parts_of_the_first(settings: Settings) -> None:
    first = run(settings, "works", "fails")
    parts = [part("fails", needs_models=False), part("dies", needs_models=False)]
    both = run_proof(parts, settings, argv=["x"], earlier=first)
    assert [result.letter for result in both.parts] == ["w", "f", "d"]
    assert both.parts[0] == first.parts[0]
    assert both.parts[1].date >= first.parts[1].date
    assert both.environment.versions["something"] == "1.2"  # of the first call
    assert read_proof(Path(settings.out) / PROOF_FILE) == both
    with pytest.raises(UsageError, match="are of a GPU that NVML does not show, and here is a reh"):
        joined(replace(first, rehearsal=False), both)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import time; print('begun', flush=True); time.sleep(60)", r"not done after 0 s: $"),
        ("import sys; sys.exit('a reason')", r"exit code 1: a reason\n"),
    ],
)
def test_a_call_of_latency_that_fails_is_a_sentence(code: str, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        run_within([sys.executable, "-c", code], 0.3 if "sleep" in code else 60)
    assert run_within([sys.executable, "-c", "print('a table')"], 60) == "a table\n"


def test_parts_are_chosen_by_letter() -> None:
    assert [each.letter for each in chosen_parts(None)] == list("ambcdef")
    assert [each.letter for each in chosen_parts(("f", "a"))] == list("af")
    assert [each.letter for each in chosen_parts(("c",))] == list("mc")
    for each in PROOF_PARTS:
        module, _, name = each.target.partition(":")
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
        assert f"def {name}(settings: dict[str, Any])" in source


def test_wrong_use_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = CliRunner().invoke(gpu_proof.main, ["--only", "a,x"])
    assert wrong.exit_code == 2
    assert "'a,x' is no list of parts; choose from a,b,c,d,e,f." in wrong.output
    monkeypatch.setattr(gpu_proof, "probe_cuda", lambda: CudaDriver(problem="no NVIDIA driver"))
    absent = CliRunner().invoke(gpu_proof.main, ["--out", str(tmp_path)])
    assert absent.exit_code == 2
    assert absent.output == (
        "Error: no GPU can be used: no NVIDIA driver; go to a machine with one, or try the parts "
        "on this CPU with --rehearse.\n"
    )


def test_the_driver_part_is_rehearsed(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the stand-in driver")
    script = ROOT / "benchmarks" / "gpu_proof.py"
    command = [sys.executable, str(script), "--rehearse", "--only", "a", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("REHEARSAL on the CPU")
    found = read_proof(tmp_path / PROOF_FILE)
    assert (found.rehearsal, found.parts[0].status) == (True, "passed")
    passed = {check.name for check in found.parts[0].checks if check.status == "passed"}
    assert passed >= {"copies, bit for bit", "graph of copies", "fork", "two contexts", "threads"}
    with pytest.raises(UsageError, match="rehearsal"):
        proof_section(found)


def test_lanes_run_torch_in_the_place_of_tensorrt(
    checkpoint: Path, photos: Path, settings: Settings
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the stand-in driver")
    pytest.importorskip("matplotlib")
    models = Path(settings.models)
    shutil.copy(checkpoint, models / "proof.pt")
    (models / "photos").mkdir()
    for path in photos.glob("*.png"):
        shutil.copy(path, models / "photos" / f"{path.stem}.jpg")
    compile_driver(Path(settings.work))
    checks = list(check_lanes(asdict(settings)))
    assert [(check.name, check.reason) for check in checks if check.status != "passed"] == []
    facts = {check.name: check.facts for check in checks}
    assert facts["lanes and CUDA graphs equal torch"]["device"] == "Stand-in GPU 0"
    assert facts["stream of photos"]["photos"] == 5
    assert "lane 2" in (Path(settings.out) / "gpu-timeline.svg").read_text("utf-8")
    assert "tensorrt" not in sys.modules


def test_overlap_counts_copies_beside_the_other_lanes_work() -> None:
    spans = [
        Span(0, 0, "upload", 0, 2),
        Span(0, 0, "compute", 2, 6),
        Span(1, 1, "upload", 1, 4),  # 2 ms beside the first lane's computation
        Span(1, 1, "compute", 6, 8),
        Span(0, 0, "download", 6, 7),  # 1 ms beside the second's
    ]
    assert overlap_ms(spans) == 3


def test_torch_on_the_cpu_stays_out_of_large_batches_beside_a_gpu() -> None:
    def system(kind: str, device: str) -> Any:
        return SimpleNamespace(
            about={"device": device}, system=SimpleNamespace(kind=kind, name=kind)
        )

    cpu, gpu = system("torch-eager", "cpu"), system("cuda-eager", "NVIDIA H100")
    notes: list[str] = []
    assert fit_for(256, [cpu], notes) == [cpu]
    assert fit_for(MOST_BESIDE_GPU, [cpu, gpu], notes) == [cpu, gpu]
    assert notes == []
    assert fit_for(256, [cpu, gpu], notes) == [gpu]
    assert notes == ["torch-eager is measured on the CPU up to batches of 8, not of 256."]


def test_a_gpu_run_needs_no_torch_on_the_cpu() -> None:
    """It took longer there than all others together, see NOTES."""
    chosen = partial(chosen_baselines, given=True, checkpoint=True)
    assert chosen(("cuda-fp16", "cuda-eager")) == ("cuda-fp16", "cuda-eager")
    assert chosen(("cuda-fp16",)) == ("torch-eager", "cuda-fp16")
    kinds = [SimpleNamespace(system=SimpleNamespace(kind=kind)) for kind in ("x", "cuda-eager")]
    assert compared_with(kinds) == 1  # type: ignore[arg-type]
    cpu = SimpleNamespace(system=SimpleNamespace(kind="torch-eager"))
    assert compared_with([*kinds, cpu]) == 2  # type: ignore[list-item]
    assert compared_with(kinds[:1]) == 0  # type: ignore[arg-type]


def test_latency_is_asked_for_options_that_exist(settings: Settings) -> None:
    from benchmarks.bench.baselines.registry import BASELINES
    from benchmarks.bench.gpu.latency_part import _CALLS
    from benchmarks.latency import main

    known = {name for parameter in main.params for name in parameter.opts}
    for call in _CALLS:
        given = latency_command(replace(settings, rehearse=False), call)
        assert {word for word in given if word.startswith("--")} <= known
        assert set(call.peers.split(",")) <= set(BASELINES)


def test_page_shows_a_real_proof_only(settings: Settings, tmp_path: Path) -> None:
    found = replace(run(settings, "works"), rehearsal=False)
    file = tmp_path / PROOF_FILE
    write_proof(found, file)
    page = with_proof(f"before\n{GPU_BEGIN}\nold\n{GPU_END}\nafter", file)
    assert page.startswith(f"before\n{GPU_BEGIN}\n")
    assert page.endswith(f"{GPU_END}\nafter")
    (row,) = (line for line in page.splitlines() if line.startswith("| works"))
    assert row.startswith("| works | one | passed | place x.onnx; ms 1: 2.5, 8: 3; seconds ")
    assert "old" not in page
    assert with_proof("no markers", file) == "no markers"
    with pytest.raises(UsageError, match="once each"):
        with_proof(GPU_BEGIN, file)
    write_proof(replace(found, rehearsal=True), file)
    with pytest.raises(UsageError, match="rehearsal of the GPU proof is not published"):
        with_proof(page, file)
    file.write_text(json.dumps({"schema": 7}), "utf-8")
    with pytest.raises(UsageError, match="not a GPU proof of schema 1"):
        with_proof(page, file)


def test_page_and_kept_proof_agree() -> None:
    page, kept = GPU_PAGE.read_text("utf-8"), RESULTS / PROOF_FILE
    assert (GPU_BEGIN in page) == kept.exists()
    assert with_proof(page, kept) == page, "run: python benchmarks/results_table.py"
