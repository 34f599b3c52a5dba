"""OpenVINO against onnxruntime on the same file."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from numclip_runtime import MissingDependencyError, ModelError, Predictor, load
from numclip_runtime.backends import OptimizeFor


@pytest.mark.parametrize("threads", [None, 1])
def test_equals_onnxruntime(tiny: Path, predictor: Predictor, threads: int | None) -> None:
    pytest.importorskip("openvino")
    with load(tiny, backend="openvino", threads=threads) as other:
        assert (other.backend.name, other.backend.provider, other.backend.device) == (
            "openvino",
            "CPU",
            "cpu",
        )
        assert other.metadata == predictor.metadata
        for batch in (1, 5):
            images = np.random.default_rng(batch).normal(0, 1, (batch, 3, 8, 8)).astype(np.float32)
            found, expected = other.backend.run(images), predictor.backend.run(images)
            np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
            np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def test_threads_get_their_own_results(tiny: Path, predictor: Predictor) -> None:
    pytest.importorskip("openvino")
    wrong: list[object] = []
    with load(tiny, backend="openvino", threads=1) as other:

        def call(level: float) -> None:
            images = np.full((2, 3, 8, 8), level, np.float32)
            expected = predictor.backend.run(images)[0]
            kept = [other.backend.run(images)[0] for _ in range(50)]
            wrong.extend(values for values in kept if not np.allclose(values, expected, atol=1e-4))

        threads = [Thread(target=call, args=(level,)) for level in (-1, -0.3, 0.3, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_results_are_the_callers(tiny: Path) -> None:
    pytest.importorskip("openvino")
    with load(tiny, backend="openvino") as other:
        first, _ = other.backend.run(np.full((1, 3, 8, 8), -1, np.float32))
        before = first.copy()
        other.backend.run(np.full((1, 3, 8, 8), 1, np.float32))
        assert first == before
    other.close()  # idempotent


def signal_stack() -> tuple[int | None, int, int]:
    """Return address, flags and size of this thread's stack for signal handlers."""

    class Stack(ctypes.Structure):
        _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.sp, stack.flags, stack.size


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what Linux keeps for a thread")
@pytest.mark.parametrize("optimize_for", ["latency", "throughput"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_models_leave_the_signal_stack_alone(
    tiny: Path, optimize_for: OptimizeFor, order: tuple[int, int]
) -> None:
    """Found: a thread was left with the stack of a freed model, and Ctrl-C crashed the process."""
    pytest.importorskip("openvino")
    before = signal_stack()
    opened = [load(tiny, backend="openvino", optimize_for=optimize_for) for _ in range(2)]
    assert signal_stack() == before
    for index in order:
        list(opened[index].stream([np.zeros((8, 8), np.uint8)] * 5))
        opened[index].close()
        assert signal_stack() == before


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what Linux keeps for a thread")
def test_a_model_closed_by_another_thread(tiny: Path) -> None:
    pytest.importorskip("openvino")
    opened = load(tiny, backend="openvino")
    before = signal_stack()
    stacks = []

    def close() -> None:
        own = signal_stack()
        opened.close()
        stacks.append(signal_stack() == own)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert stacks == [True]
    assert signal_stack() == before


def test_bad_files(tmp_path: Path, tiny: Path, foreign: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ModelError, match=r"foreign\.onnx: holds no numclip metadata"):
        load(foreign, backend="openvino")
    path = tmp_path / "a.onnx"
    path.write_bytes(tiny.read_bytes().replace(b"bin_probs", b"bin_prabs"))
    with pytest.raises(ModelError, match=r"a\.onnx: not a model that OpenVINO can run \(.+\)\.$"):
        load(path, backend="openvino")


def test_not_installed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'numclip\[openvino\]'"):
        load(tiny, backend="openvino")


def test_nothing_is_reported_when_it_is_imported(tiny: Path) -> None:
    """Its telemetry module sends a request in a process of its own."""
    pytest.importorskip("openvino")
    script = (
        "import sys\n"
        "from numclip_runtime import load\n"
        "load(sys.argv[1], backend='openvino').close()\n"
        "assert not [name for name in sys.modules if 'openvino_telemetry' in name]\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tiny)], check=True, timeout=60)
