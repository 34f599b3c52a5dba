from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench.machine.nvidia import gpu_memory_mb
from benchmarks.bench.processes.programs import peak_host_mb
from benchmarks.bench.processes.worker import Worker, call_apart
from benchmarks.bench.results import STAGES
from benchmarks.bench.systems import ARTEFACT, SystemUnderTest
from numclip_runtime import MissingDependencyError, ModelError, UsageError, load


def serve(path: Path, image: str) -> Worker:
    system = SystemUnderTest("tiny", ARTEFACT, str(path), threads=1)
    server = "benchmarks.bench.processes.system_server:SystemServer"
    return Worker(server, "tiny", system=asdict(system), image=image)


def test_worker_serves_a_model(tiny: Path, photos: Path) -> None:
    paths = sorted(str(path) for path in photos.iterdir())
    with serve(tiny, paths[0]) as worker:
        assert worker.first["backend"] == "onnxruntime"
        assert worker.first["open_s"] + worker.first["predict_s"] < worker.first_s
        worker.ask("images", paths=paths)
        stamps = worker.ask("turn", batch=2, untimed=1, iterations=3, seconds=None)
        assert np.shape(stamps) == (3, len(STAGES) + 1)
        with load(tiny, device="cpu") as predictor:
            expected = [predictor.predict(path).value for path in paths]
        assert worker.ask("values", paths=paths) == pytest.approx(expected)
        outputs = worker.ask("outputs", paths=paths, batch=4)
        np.testing.assert_allclose(outputs["values"], expected, rtol=1e-5)
        assert worker.ask("values", paths=[*paths[:1], "missing.png"])[1] is None
        # An error is reported, and the process goes on
        with pytest.raises(OSError, match=r"missing\.png: no such file"):
            worker.ask("outputs", paths=["missing.png"], batch=1)
        assert worker.ask("memory")["peak_host_mb"] > 20


def test_errors_keep_their_type(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"broken\.onnx: not an ONNX model"):
        serve(broken, "x.png")
    with pytest.raises(OSError, match=r"x\.png: no such file"):
        serve(tiny, "x.png")


def test_dead_worker_is_an_error_with_its_name(tiny: Path, photos: Path) -> None:
    with serve(tiny, str(photos / "0.png")) as worker:
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match=r"tiny: its process ended, exit code -9"):
            worker.ask("memory")


def test_a_call_apart_returns_plain_data_and_keeps_errors(tmp_path: Path) -> None:
    module = tmp_path / "apart_example.py"
    module.write_text(
        "from numclip_runtime import UsageError\n"
        "def double(number, name, target): print('noise'); return {'twice': 2 * number}\n"
        "def refuse(): raise UsageError('no')\n"
        "def miss(): import a_package_that_is_not_there\n"
        "def die(): import sys; sys.exit('last words')\n"
        "def count(to):\n"
        "    yield from range(to)\n"
        "    raise UsageError('too far')\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{before}"
    try:
        assert call_apart("apart_example:double", number=21, name="a", target="b") == {"twice": 42}
        with pytest.raises(UsageError, match="no"):
            call_apart("apart_example:refuse")
        with pytest.raises(MissingDependencyError, match="a_package_that_is_not_there"):
            call_apart("apart_example:miss")
        with pytest.raises(ModelError, match=r"exit code 1 \(last words\)"):
            call_apart("apart_example:die")
        with Worker("apart_example:count", "count", to=3) as worker:
            found = [worker.first]
            with pytest.raises(UsageError, match="too far"):
                found.extend(worker.rest())
            assert found == [0, 1, 2]
            worker.close()  # idempotent
    finally:
        os.environ["PYTHONPATH"] = before
    assert "apart_example" not in sys.modules


def test_peak_memory_is_this_processs_own(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t  500000 kB\nVmRSS:\t 4 kB\n")
    assert peak_host_mb(status) == pytest.approx(512)
    measured = peak_host_mb()
    assert measured is None or 20 < measured < 1e6
    assert gpu_memory_mb() is None or gpu_memory_mb() >= 0  # type: ignore[operator]
