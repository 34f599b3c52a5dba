"""`kill -9` at any moment: under its final name a file is whole, or it is not there.

What a killed export leaves are its temporary files, `.x.XXXXXXXX.part.onnx` and the like, in the
folder that it writes to: nobody reads them, no later export is disturbed by them, and they may be
deleted. Nothing deletes them by itself: whether their process lives is not known to another
machine on the same network drive. NUMCLIP_KILLS=50 kills 50 times.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import onnx
import pytest

from numclip.checkpoint import load_checkpoint
from numclip_export import FoldedModel, onnx_from_folded
from numclip_runtime import load
from numclip_runtime.files import sha256
from numclip_runtime.model_files.plan import read_plan_metadata
from tests.export.fragile import save_fragile
from tests.export.killable import start

pytest.importorskip("tensorrt_rtx")

DATA = Path(__file__).parents[1] / "data"
KILLS = int(os.environ.get("NUMCLIP_KILLS", "6"))
MODELS = {"x.onnx", "x.fp16.onnx"}
CHECKSUMS = {"x.onnx.sha256", "x.fp16.onnx.sha256", "x.fp16.plan.sha256"}
FINAL = MODELS | CHECKSUMS | {"x.report.json", "x.card.md", "x.fp16.plan"}
SIGKILL = -9


def temporary(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(".x.*.part.*")}


def wait_for_temporary(process: ForkServerProcess, folder: Path) -> None:
    while process.is_alive() and not temporary(folder):
        time.sleep(0.002)


def ended(process: ForkServerProcess) -> int | None:
    process.join()
    return process.exitcode


def check_whole(folder: Path) -> set[str]:
    """Return the final names that are there, after a look into each file."""
    found = {path.name for path in folder.iterdir()} & FINAL
    for name in found & MODELS:
        check_sum(folder / name)
        with load(folder / name) as predictor:
            assert predictor.metadata.verified
            assert predictor.metadata.parity
            assert predictor.predict(folder / "val" / "3.png")
    if "x.report.json" in found:
        assert json.loads((folder / "x.report.json").read_text("utf-8"))["artefacts"]
    if "x.card.md" in found:
        assert (folder / "x.card.md").read_text("utf-8").split("\n## ")[-1].startswith("Versions")
    check_plan(folder / "x.fp16.plan")
    return found


def check_plan(plan: Path) -> None:
    if plan.exists():
        read_plan_metadata(plan)  # compares the size with the header's
        check_sum(plan)


def check_sum(model: Path) -> None:
    checksum = model.with_name(f"{model.name}.sha256")
    if checksum.exists():
        assert checksum.read_text() == f"{sha256(model)}  {model.name}\n"


@dataclass(frozen=True)
class Done:
    """An export that nobody killed."""

    folder: Path
    graph: Path
    seconds: float
    wrote: float  # seconds until the first temporary file


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("done")
    graph = tmp_path_factory.mktemp("graph") / "graph.onnx"
    checkpoint = load_checkpoint(save_fragile(folder, 1))
    onnx.save(onnx_from_folded(FoldedModel(checkpoint.model), 32), graph)
    assert ended(start(folder, graph)) == 0  # starts the server as well
    for name in FINAL:
        (folder / name).unlink()
    started = time.perf_counter()
    process = start(folder, graph)
    wait_for_temporary(process, folder)
    wrote = time.perf_counter() - started
    assert ended(process) == 0
    assert check_whole(folder) == FINAL
    return Done(folder, graph, time.perf_counter() - started, wrote)


def test_random_moments(done: Done, tmp_path: Path) -> None:
    """Half of the kills are spread over the whole run, half over the part that writes."""
    rng, codes, leftovers, pace = random.Random(0), list[int | None](), 0, 1.0
    while codes.count(SIGKILL) < KILLS and len(codes) < 3 * KILLS:
        i = len(codes)
        folder = tmp_path / str(i)
        shutil.copytree(done.folder, folder)
        old = i // 2 % 2 == 1
        if not old:
            for name in FINAL:
                (folder / name).unlink()
        process = start(folder, done.graph)
        # 0 to 1, evenly spread, of the time that an export takes at present
        moment = pace * ((i // 2 + rng.random()) / ((KILLS + 1) // 2) % 1)
        if i % 2:
            wait_for_temporary(process, folder)
            time.sleep(moment * (done.seconds - done.wrote))
        else:
            time.sleep(moment * done.seconds)
        process.kill()
        codes.append(ended(process))
        if codes[-1] == 0:  # faster than the one that was timed
            pace *= 0.7
        leftovers += bool(temporary(folder))
        found = check_whole(folder)
        if old:  # a model is for a moment without its checksum
            assert found >= FINAL - CHECKSUMS
        if i == 1:  # killed while it wrote: the next export finds what that left
            left = temporary(folder)
            assert ended(start(folder, done.graph)) == 0
            assert check_whole(folder) == FINAL
            assert temporary(folder) == left
    print(f"{codes.count(SIGKILL)} of {KILLS} killed, {leftovers} left temporary files")
    assert set(codes) <= {SIGKILL, 0}
    assert codes.count(SIGKILL) >= KILLS * 2 // 3
    assert leftovers >= KILLS // 4


BUILD = """
import os, signal, sys
from pathlib import Path
from numclip_export.engine.build import engine_from_onnx
from numclip_export.engine.build_options import EngineOptions
left = int(sys.argv[1])
def counting(real):
    def step(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*args, **kwargs)
    return step
Path.replace, Path.unlink = counting(Path.replace), counting(Path.unlink)
options = EngineOptions("tensorrt-rtx", max_batch=int(sys.argv[2]))
engine_from_onnx(Path("tiny.onnx"), Path("tiny.plan"), options)
"""


@pytest.mark.parametrize("old", [False, True])
def test_between_plan_and_checksum(tmp_path: Path, old: bool) -> None:
    """Killed before each step on a final name: the plan never contradicts its checksum.

    The old plan with the new checksum, or the reverse, would be refused by the runtime, although
    both plans are whole. Without a checksum a plan runs, and the next build adds one.
    """
    plan, states = tmp_path / "tiny.plan", []
    shutil.copy(DATA / "tiny.onnx", tmp_path)

    def build(steps: int, max_batch: int) -> int:
        command = [sys.executable, "-c", BUILD, str(steps), str(max_batch)]
        return subprocess.run(command, cwd=tmp_path, check=False).returncode

    if old:
        assert build(99, 4) == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("*.plan*")}
    for steps in range(10):
        for path in tmp_path.glob("*.plan*"):
            path.unlink()
        for path, content in before.items():
            path.write_bytes(content)
        code = build(steps, 8)
        check_plan(plan)
        batch = read_plan_metadata(plan).engine.max_batch if plan.exists() else None
        states.append((batch, plan.with_name("tiny.plan.sha256").exists()))
        if code == 0:
            break
        assert code == SIGKILL
    first = [(4, True), (4, False)] if old else [(None, False)]
    assert list(dict.fromkeys(states)) == [*first, (8, False), (8, True)]
