"""`--engine ray` on a real Ray (`make ray-test`): what dies loses and doubles no record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.remote.faulty_server import FaultyServer

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray: Any = pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings("default")  # of Ray, about itself
ROOT = Path(__file__).parents[3]
COUNT = 400
LIMIT_S = 400  # a dead machine is noticed by heartbeats that it misses
# A part for each record; and something happens after the 20th
COMMAND = """
import os, signal, sys, time
from numclip_runtime.cli import main
from numclip_runtime.jobs import parts

parts.SHORTEST_PART_S = parts.PART_SHARE = 0.0
flush, count = parts.Parts.flush, 0

def counted(self):
    global count
    flush(self)
    count += 1
    if count == 20:
        {event}

parts.Parts.flush = counted
main()
"""
NOTHING = "pass"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures, of which two are broken."""
    folder = tmp_path_factory.mktemp("pictures")
    large = folder.parent / "large"  # decoding takes long enough for a machine to die meanwhile
    large.mkdir()
    for number in range(10):
        Image.new("RGB", (1600, 1200), (25 * number, 90, 30)).save(large / f"{number}.jpg")
    for number in range(COUNT - 2):
        (folder / f"{number:04}.jpg").symlink_to(large / f"{number % 10}.jpg")
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes((folder / "0000.jpg").read_bytes()[:400])
    return folder


@pytest.fixture(scope="module")
def model() -> Path:
    return ROOT / "tests" / "data" / "tiny.onnx"


@pytest.fixture(scope="module")
def expected(model: Path, pictures: Path) -> dict[str, Any]:
    """Return path -> record of one process."""
    done = run(model, pictures)
    assert done.returncode == 1
    return {record["path"]: record for record in map(json.loads, done.stdout.splitlines())}


def run(*args: object, event: str = NOTHING) -> subprocess.CompletedProcess[str]:
    """Run the command; `event` is what happens after the 20th record."""
    script = COMMAND.format(event=event)
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def check(out: Path, expected: dict[str, Any]) -> None:
    """Compare a folder with the records of one process, and find none twice."""
    rows = [
        json.loads(line)
        for part in sorted(out.glob("part-*.jsonl"))
        for line in part.read_text("utf-8").splitlines()
    ]
    assert len(rows) == len(expected)
    assert {row["path"]: row for row in rows} == expected


def test_equal_to_one_process_in_parquet(
    model: Path, pictures: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    parquet, out = pytest.importorskip("pyarrow.parquet"), tmp_path / "out"
    done = run(model, pictures, "-o", out, "--engine", "ray")
    assert done.returncode == 1, done.stderr
    assert f"0 images done before, {COUNT} now; 2 of {COUNT} failed" in done.stderr
    rows = parquet.read_table(out).to_pylist()  # a folder is one table
    assert len(rows) == COUNT
    for row in rows:
        record = expected[row["path"]]
        assert {name: row[name] for name in record} == record
    # one process goes on with what Ray began
    gone = pictures / "gone.jpg"
    done = run(model, pictures, gone, "-o", out, "--resume")
    assert f"{COUNT} images done before, 1 now; 3 of {COUNT + 1} failed" in done.stderr
    assert "Note" not in done.stderr


def test_addresses(model: Path, pictures: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    """The actors fetch, each object once; the driver fetches none."""
    pytest.importorskip("aiohttp")
    web = FaultyServer()
    try:
        names = [f"{number:04}.jpg" for number in range(40)]
        web.files = {f"/{name}": (pictures / name).read_bytes() for name in names}
        signed = [f"{web.url}/{name}?X-Amz-Signature=0123456789abcdef" for name in names]
        out, options = tmp_path / "out", ("--engine", "ray", "--workers", 2, "--format", "jsonl")
        for _ in range(2):  # the second finds all done
            done = run(model, *signed, "-o", out, *options)
            assert done.returncode == 0, done.stderr
        lines = [part.read_text("utf-8").splitlines() for part in out.glob("part-*")]
        found = [json.loads(line) for part in lines for line in part]
        assert len(found) == 40
        for record in found:
            name = record["path"].rpartition("/")[2].partition("?")[0]
            assert record["path"] == f"{web.url}/{name}?X-Amz-Signature=***"
            assert record["value"] == expected[str(pictures / name)]["value"]
        assert set(web.asked.values()) == {1}
    finally:
        web.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_driver_killed_and_run_again(
    model: Path, pictures: Path, expected: dict[str, Any], tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    args = (model, pictures, "-o", out, "--engine", "ray", "--format", "jsonl")
    first = run(*args, event=f"os.kill(os.getpid(), {number:d})")
    if number == signal.SIGKILL:
        assert first.returncode == -signal.SIGKILL
    else:
        assert first.returncode == 143, first.stderr
        assert f"Terminated: 20 of {COUNT} images done and kept." in first.stderr
        assert "Traceback" not in first.stderr
    done = run(*args)
    assert f"20 images done before, {COUNT - 20} now; 2 of {COUNT}" in done.stderr
    check(out, expected)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a head without CPUs and two machines of one, as processes of this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    machine(made, num_cpus=0)
    yield made
    made.shutdown()


def machine(cluster: Any, num_cpus: int) -> Any:
    """Add a machine; Ray gives it 30 s to start, which are too few under load."""
    for _ in range(4):
        with suppress(Exception):
            return cluster.add_node(num_cpus=num_cpus)
    return cluster.add_node(num_cpus=num_cpus)


def test_machine_killed_in_the_middle(
    model: Path, pictures: Path, expected: dict[str, Any], tmp_path: Path, cluster: Any
) -> None:
    nodes = [machine(cluster, num_cpus=1) for _ in range(2)]
    out, reached, go = tmp_path / "out", tmp_path / "reached", tmp_path / "go"
    killed: list[int] = []

    def kill() -> None:
        while not reached.exists():
            time.sleep(0.01)
        cluster.remove_node(nodes[0], allow_graceful=False)
        killed.append(len(list(out.glob("part-*"))))
        go.touch()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    done = run(
        *(model, pictures, "-o", out, "--engine", "ray", "--format", "jsonl"),
        *("--ray-address", cluster.address),
        event=f"open({str(reached)!r}, 'w').close()\n"
        f"        while not os.path.exists({str(go)!r}): time.sleep(0.01)",
    )
    thread.join(LIMIT_S)
    assert killed == [20]
    assert done.returncode == 1, done.stderr
    check(out, expected)


def test_a_cluster_without_room_says_so(
    model: Path, pictures: Path, tmp_path: Path, cluster: Any
) -> None:
    args = (model, pictures, "-o", tmp_path / "out", "--engine", "ray")
    done = run(*args, "--ray-address", cluster.address)
    assert done.returncode == 2
    assert "an actor needs 1 CPU, and the cluster has 0; add machines" in done.stderr
    gpu = run(*args, "--device", "cuda")
    assert gpu.returncode == 2
    assert "an actor needs 1 GPU, and the cluster has 0; add machines" in gpu.stderr


def test_no_cluster_at_an_address(model: Path, pictures: Path, tmp_path: Path) -> None:
    args = (model, pictures, "-o", tmp_path / "out", "--engine", "ray")
    start_s = time.monotonic()
    done = run(*args, "--ray-address", "127.0.0.1:9")
    assert done.returncode == 2
    assert "--ray-address 127.0.0.1:9: no cluster answers there" in done.stderr
    assert time.monotonic() - start_s < 60  # Ray itself tries that long


def test_a_pipeline_of_ones_own(model: Path, pictures: Path, expected: dict[str, Any]) -> None:
    from numclip_runtime.ray import PredictBatches, predict_paths

    paths = sorted(map(str, pictures.iterdir()))[-30:]
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        found = predict_paths(paths, model, actors=1, chunk=10).take_all()
        given = [
            {"path": p, "bytes": Path(p).read_bytes(), "label": n} for n, p in enumerate(paths)
        ]
        also = ray.data.from_items(given).map_batches(
            PredictBatches,
            fn_constructor_args=(str(model),),
            batch_size=8,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        rows = also.take_all()
    finally:
        ray.shutdown()
    assert sorted(row["label"] for row in rows) == list(range(30))
    for row in [*found, *rows]:
        record = expected[row["path"]]
        assert {name: row[name] for name in record} == record
        assert "bytes" not in row
