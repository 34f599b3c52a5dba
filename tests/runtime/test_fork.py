"""A predictor in a forked process: it opens the model again, and its close and end do not wait."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from numclip_runtime import Predictor, UsageError, load
from numclip_runtime.backends import OpenOptions
from numclip_runtime.backends.onnxruntime import OnnxRuntimeBackend
from tests.runtime.opener import Opener

pytestmark = [
    pytest.mark.posix("it forks"),
    # of Python 3.12 and later: these tests fork on purpose while threads run
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
IMAGE = np.full((8, 8), 60, np.uint8)
PATIENCE_S = 30


def in_child(act: Callable[[], object]) -> str:
    """Fork, act, and leave as a normal process does; return what the act gave or raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            text = repr(act())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os.close(writer)
        os._exit(0)
    os.close(writer)
    waited = threading.Timer(PATIENCE_S, os.kill, (pid, 9))
    waited.start()
    try:
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read().decode()
        _, status = os.waitpid(pid, 0)
    finally:
        waited.cancel()
    assert status == 0, f"the child hung or crashed: {status}, {text}"
    return text


@pytest.fixture(params=["latency", "throughput"])
def predictor(tiny: Path, request: pytest.FixtureRequest) -> Iterator[Predictor]:
    with load(tiny, threads=2, device="cpu", optimize_for=request.param) as opened:
        opened.predict(IMAGE)
        yield opened


def test_the_child_predicts_the_same(predictor: Predictor) -> None:
    assert in_child(lambda: predictor.predict(IMAGE)) == repr(predictor.predict(IMAGE))
    predictor.predict(IMAGE)  # the parent goes on


def test_a_stream_in_the_child(predictor: Predictor) -> None:
    def act() -> list[object]:
        return list(predictor.stream([IMAGE] * 5, workers=2))

    assert in_child(act) == repr(act())


def test_the_child_closes_and_frees(predictor: Predictor) -> None:
    def close() -> None:
        predictor.close()
        with pytest.raises(UsageError, match="closed"):
            predictor.predict(IMAGE)

    def free() -> None:
        nonlocal predictor
        del predictor
        gc.collect()

    assert in_child(close) == "None"
    predictor.predict(IMAGE)
    kept = predictor
    assert in_child(free) == "None"
    kept.predict(IMAGE)


def test_a_normal_exit_of_the_interpreter(tiny: Path, tmp_path: Path) -> None:
    """As a server does that loads before it forks: `os._exit` would leave out the end."""
    script = tmp_path / "server.py"
    script.write_text(
        "import os, sys\n"
        "from numclip_runtime import load\n"
        "import numpy as np\n"
        f"model = load({str(tiny)!r}, threads=2)\n"
        "image = np.zeros((8, 8), np.uint8)\n"
        "first = model.predict(image).value\n"
        "if os.fork() == 0:\n"
        "    assert sys.argv[1] == 'idle' or model.predict(image).value == first\n"
        "    sys.exit(0)\n"
        "_, status = os.wait()\n"
        "assert status == 0, status\n"
        "assert model.predict(image).value == first\n"
    )
    import subprocess

    for act in ("idle", "predicts"):
        command = [sys.executable, "-W", "ignore", str(script), act]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def predicted(predictor: Predictor) -> float:
    return predictor.predict(IMAGE).value


def test_forked_workers(predictor: Predictor) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert len(set(pool.map(predicted, [predictor] * 4))) == 1


def test_a_fork_while_another_thread_predicts(predictor: Predictor) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            predictor.predict(IMAGE)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            assert in_child(lambda: predictor.predict(IMAGE).value > 0) == "True"
    finally:
        stop.set()
        thread.join()


def test_a_fork_of_a_fork(predictor: Predictor) -> None:
    def act() -> str:
        predictor.predict(IMAGE)
        return in_child(lambda: round(predictor.predict(IMAGE).value, 4))

    assert in_child(act) == repr(repr(round(predictor.predict(IMAGE).value, 4)))


def test_a_closed_predictor_stays_closed(predictor: Predictor) -> None:
    predictor.close()
    assert "UsageError" in in_child(lambda: predictor.predict(IMAGE))


def test_another_model_under_its_name(tiny: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny, tmp_path / "a.onnx"))
    with load(path, device="cpu") as predictor:
        path.write_bytes(path.read_bytes().replace(b"points", b"metres"))
        found = in_child(lambda: predictor.predict(IMAGE))
        assert found.startswith(f"ModelError: {path}: is another model than the one that was")
        path.unlink()
        assert "no such file" in in_child(lambda: predictor.predict(IMAGE))
        predictor.predict(IMAGE)


def test_a_backend_without_a_predictor_says_so(tiny: Path) -> None:
    backend = OnnxRuntimeBackend(tiny, OpenOptions(device="cpu"))
    images = np.zeros((1, 3, 8, 8), np.float32)
    found = in_child(lambda: backend.run(images))
    assert found.startswith(f"UsageError: {tiny}: was opened before this process was forked, and")
    assert in_child(backend.close) == "None"
    backend.run(images)
    backend.close()


def test_openvino(tiny: Path) -> None:
    pytest.importorskip("openvino")
    with load(tiny, backend="openvino", threads=2) as predictor:
        expected = predictor.predict(IMAGE).value
        assert in_child(predictor.close) == "None"
        assert in_child(lambda: abs(predictor.predict(IMAGE).value - expected) < 1e-4) == "True"


def test_an_engine_says_so(open_plan: Opener) -> None:
    backend, _ = open_plan()
    images = np.zeros((1, 3, 8, 8), np.float32)
    assert "was opened before this process was forked" in in_child(lambda: backend.run(images))
    assert in_child(backend.close) == "None"
    backend.run(images)
    backend.close()
