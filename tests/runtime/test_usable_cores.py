"""What a container's quota leaves of the cores, and what backends make of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from numclip_runtime import UsageError, load
from numclip_runtime.pipeline import plan_stream
from numclip_runtime.system import read_machine, threads_of_a_run, usable_cores
from tests.runtime.slow_backend import SlowBackend


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


STAT = "cpu  1 2 3 4\n" + "".join(f"cpu{number} 1 2 3 4\n" for number in range(8))


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/docker/x\n", {"cpu.max": "400000 100000\n"}, 4),  # named as the host sees it
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "what\n"}, 8),
        (
            "3:cpuset:/\n2:cpu,cpuacct:/docker/x\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
    ],
)
def test_quotas(tmp_path: Path, membership: str, files: dict[str, str], cores: int) -> None:
    written(tmp_path / "sys/fs/cgroup", files)
    root = written(tmp_path, {"proc/self/cgroup": membership, "proc/stat": STAT})
    assert usable_cores(root) == cores
    assert read_machine(root).cores == cores  # what `numclip-run doctor` shows


def test_affinity_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores() == read_machine().cores == 1


def test_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores(tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


def six_cores_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six cores of a server, whose siblings are not known."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000, 1006)), raising=False)
    monkeypatch.setattr("numclip_runtime.system.cpu_quota", lambda root: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


@pytest.mark.parametrize(
    ("options", "threads", "lanes"),
    [
        ({}, 6, 1),  # of 6 usable cores of 64: onnxruntime would take 64
        ({"threads": 1}, 1, 6),
        ({"threads": 4}, 4, 1),
        ({"threads": 9}, 9, 1),
        ({"optimize_for": "throughput"}, 1, 6),
        ({"optimize_for": "throughput", "threads": 2}, 2, 3),
    ],
)
def test_threads_and_lanes_of_onnxruntime(
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    threads: int,
    lanes: int,
) -> None:
    six_cores_of_64(monkeypatch)
    with load(tiny, **options) as predictor:  # type: ignore[arg-type]
        assert (predictor.backend.threads, predictor.backend.lanes) == (threads, lanes)
        found = predictor.backend._session.get_session_options()  # type: ignore[attr-defined]
        assert found.intra_op_num_threads == threads


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_all_cores_are_left_to_the_library(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    pytest.importorskip(backend)
    every = set(range(os.cpu_count() or 1))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: every, raising=False)
    monkeypatch.setattr("numclip_runtime.system.cpu_quota", lambda root: None)
    with load(tiny, backend=backend) as predictor:
        assert (predictor.backend.threads, predictor.backend.lanes) == (None, 1)


@pytest.mark.parametrize(
    ("siblings", "quota", "threads"),
    [
        ({}, "max", 4),  # a system that tells nothing
        ({0: "0", 1: "1", 2: "2", 3: "3"}, "max", 4),
        ({0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7"}, "max", 4),  # whose siblings are elsewhere
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, "max", 2),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, "300000", 2),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, "150000", 2),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, "100000", 1),
    ],
)
def test_hyper_threads_of_a_core_count_as_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    siblings: dict[int, str],
    quota: str,
    threads: int,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    topology = {
        f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": f"{text}\n"
        for number, text in siblings.items()
    }
    files = {
        "proc/stat": "".join(f"cpu{number} 1 2 3 4\n" for number in range(4)),
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": f"{quota} 100000\n",
    }
    assert threads_of_a_run(written(tmp_path, files | topology)) == threads
    assert usable_cores(tmp_path) == min(4, 4 if quota == "max" else -(-int(quota) // 100000))


@pytest.mark.parametrize(
    ("options", "threads", "lanes"),
    [
        ({}, 6, 1),
        ({"threads": 1}, 1, 1),
        ({"optimize_for": "throughput"}, 1, 6),
        ({"optimize_for": "throughput", "threads": 2}, 2, 3),
    ],
)
def test_threads_and_lanes_of_openvino(
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    threads: int | None,
    lanes: int,
) -> None:
    pytest.importorskip("openvino")
    six_cores_of_64(monkeypatch)
    with load(tiny, backend="openvino", **options) as predictor:  # type: ignore[arg-type]
        assert (predictor.backend.threads, predictor.backend.lanes) == (threads, lanes)


def test_unknown_aim(tiny: Path) -> None:
    with pytest.raises(UsageError, match="unknown optimize_for 'speed'; choose from latency, thro"):
        load(tiny, optimize_for="speed")  # type: ignore[arg-type]


def test_what_is_automatic(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numclip_runtime.pipeline.usable_cores", lambda: 6)
    plan = plan_stream(SlowBackend(tiny, lanes=6))
    assert (plan.batch_size, plan.workers, plan.lanes, plan.whole) == (1, 6, 6, True)
    assert plan_stream(SlowBackend(tiny, lanes=6), workers=4).lanes == 4
    assert not plan_stream(SlowBackend(tiny, lanes=6), workers=1).whole
    assert not plan_stream(SlowBackend(tiny, lanes=6), batch_size=8).whole
    gpu = SlowBackend(tiny, lanes=2, device="A GPU")
    plan = plan_stream(gpu)
    assert (plan.batch_size, plan.workers, plan.lanes, plan.whole) == (16, 6, 2, False)
    assert plan.window == (2 + 2) * 16 + 2 * 6
    gpu.max_batch = 8
    assert plan_stream(gpu).batch_size == 8
