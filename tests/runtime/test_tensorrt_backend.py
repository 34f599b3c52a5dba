"""Running a plan: copies, buffers, batches, graphs and ends, with stand-ins for GPU and TensorRT.

The stand-in driver is C over host memory, called through ctypes as a real one would be; the
stand-in for TensorRT computes tiny.onnx with onnxruntime, so results have a truth to be equal to.
Nothing here says that a real GPU does the same.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_runtime import GpuError, ModelError, Predictor, UsageError, load
from numclip_runtime.backends.tensorrt.backend import TensorRTBackend
from numclip_runtime.cuda.api import CudaError
from numclip_runtime.preprocess import FloatArray
from tests.runtime.opener import RTX, TENSORRT, Opener
from tests.runtime.standin import StandinDriver
from tests.runtime.standin_tensorrt import DataType

COPIES = ("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2")  # both outputs come in one


def images(count: int, seed: int = 0) -> FloatArray:
    """Return planes of one grey each, as tiny.onnx takes them."""
    greys = np.random.default_rng(seed).uniform(-1, 1, (count, 1, 1, 1))
    return np.broadcast_to(greys, (count, 3, 8, 8)).astype(np.float32)


def work(standin: StandinDriver) -> list[str]:
    """Return the driver's calls, without contexts."""
    return [call for call in standin.calls if "Ctx" not in call]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 9, 19])
@pytest.mark.parametrize("facts", [RTX, dataclasses.replace(TENSORRT, min_batch=3)], ids=str)
def test_equals_the_onnx_file(
    open_plan: Opener, predictor: Predictor, facts: Any, count: int
) -> None:
    backend, _ = open_plan(facts)
    for seed in range(4):  # the third run is a CUDA graph
        values, bin_probs = backend.run(images(count, seed))
        if count:
            expected = predictor.backend.run(images(count, seed))
            np.testing.assert_allclose(values, expected[0], atol=1e-5)
            np.testing.assert_allclose(bin_probs, expected[1], atol=1e-6)
        assert (values.shape, bin_probs.shape) == ((count,), (count, 3))
    backend.close()


@pytest.mark.parametrize("uint8", [False, True])
def test_photos(open_plan: Opener, predictor: Predictor, photos: Path, uint8: bool) -> None:
    backend, _ = open_plan(uint8=uint8)
    assert backend.metadata.input == ("uint8" if uint8 else "float32")
    assert (backend.name, backend.provider) == ("tensorrt", "tensorrt_rtx 1.7.1.116")
    assert backend.device == "Stand-in GPU 0"
    with Predictor(backend) as plan:
        for path in (photos / "dark.png", photos / "light.jpg"):
            found, expected = plan.predict(path), predictor.predict(path)
            assert found.value == pytest.approx(expected.value, abs=1e-4)
            assert found.bin == expected.bin


def test_upload_is_a_quarter_with_uint8(open_plan: Opener, standin: StandinDriver) -> None:
    backend, _ = open_plan(uint8=True)
    with pytest.raises(UsageError, match=r"images: float32 \(2, 3, 8, 8\) do not fit; make them"):
        backend.run(images(2))
    backend.run(np.zeros((2, 8, 8, 3), np.uint8))
    backend.close()


@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_images_one_by_one(open_plan: Opener, count: int) -> None:
    backend, _ = open_plan(dataclasses.replace(RTX, min_batch=2), lanes=1)
    for seed in range(3):
        batch = images(count, seed)
        for one, other in zip(backend.run(batch), backend.run(list(batch)), strict=True):
            assert (one == other).all()
            assert one.shape == other.shape
    wrong = [images(1)[0], np.zeros((3, 8, 9), np.float32)]
    with pytest.raises(UsageError, match=r"images: float32 \(3, 8, 9\) do not fit"):
        backend.run(wrong)
    backend.close()


@pytest.mark.parametrize("shape", [(1, 3, 8, 9), (3, 8, 8), (1, 8, 8, 3)])
def test_wrong_images(open_plan: Opener, shape: tuple[int, ...]) -> None:
    backend, _ = open_plan()
    with pytest.raises(UsageError, match="do not fit"):
        backend.run(np.zeros(shape, np.float32))
    backend.close()


def test_memory_is_made_once(open_plan: Opener, standin: StandinDriver) -> None:
    backend, _ = open_plan(lanes=1)
    assert standin.alive == {"device": 2, "pinned": 2, "stream": 1, "context": 1}
    standin.forget()
    for count in (1, 5, 7, 3):
        backend.run(images(count))
    assert set(work(standin)) == {*COPIES, "cuStreamSynchronize"}
    assert standin.pushed == 0
    backend.close()


def test_batches_are_split_and_filled_up(open_plan: Opener) -> None:
    backend, behaviour = open_plan(dataclasses.replace(RTX, min_batch=3), lanes=1)
    given = images(17)
    backend.run(given)
    first, second, third = behaviour.seen
    assert (np.concatenate([first, second, third[:1]]) == given).all()
    assert (third[1:] == 0).all()
    assert len(third) == 3
    backend.close()


def test_results_are_the_callers(open_plan: Opener) -> None:
    backend, _ = open_plan()
    kept = backend.run(images(2))
    first = [array.copy() for array in kept]
    backend.run(-images(2))
    assert all((a == b).all() for a, b in zip(first, kept, strict=True))
    backend.close()
    assert all((a == b).all() for a, b in zip(first, kept, strict=True))


def test_close_frees_all(open_plan: Opener, standin: StandinDriver) -> None:
    backend, behaviour = open_plan(lanes=1)
    for _ in range(3):
        backend.run(images(2))
    assert standin.alive["graph exec"] == 1
    backend.close()
    backend.close()  # idempotent
    assert standin.alive == {}
    gc.collect()
    assert len(behaviour.alive) == 0  # TensorRT's objects, as well
    with pytest.raises(UsageError, match=r"x\.plan: was closed"):
        backend.run(images(2))


def test_a_forgotten_backend_is_freed(open_plan: Opener, standin: StandinDriver) -> None:
    backend, behaviour = open_plan()
    backend.run(images(2))
    del backend
    standin.kernels.clear()
    gc.collect()
    assert (standin.alive, len(behaviour.alive)) == ({}, 0)


def test_graph_from_the_third_run_on(open_plan: Opener, standin: StandinDriver) -> None:
    backend, behaviour = open_plan(lanes=1)
    seen = []
    for _ in range(4):
        standin.forget()
        backend.run(images(2))
        seen.append(work(standin))
    plain = [*COPIES, "cuStreamSynchronize"]
    capture = ["cuStreamBeginCapture_v2", *COPIES, "cuStreamEndCapture"]
    made = ["cuGraphInstantiateWithFlags", "cuGraphDestroy"]
    launch = ["cuGraphLaunch", "cuStreamSynchronize"]
    assert seen == [plain, plain + capture + made, launch, launch]
    assert behaviour.made == ["lazy", "eager"]  # a context of its own, kernels compiled
    assert backend.cuda_graphs
    assert backend.notes == []
    backend.close()


def test_tensorrt_itself_has_no_such_choice(open_plan: Opener) -> None:
    backend, behaviour = open_plan(TENSORRT, lanes=1)
    for _ in range(3):
        backend.run(images(2))
    assert behaviour.made == ["lazy", "lazy"]
    backend.close()


def test_few_graphs_are_kept(open_plan: Opener, standin: StandinDriver) -> None:
    backend, behaviour = open_plan(lanes=1)
    for count in (1, 2, 3, 4) * 3:
        backend.run(images(count))
    assert standin.alive["graph exec"] == 2
    assert len(behaviour.made) == 3
    backend.close()


def assert_runs_without_graphs(backend: Any, predictor: Predictor, reason: str) -> None:
    for seed in range(4):
        values, _ = backend.run(images(2, seed))
        expected, _ = predictor.backend.run(images(2, seed))
        np.testing.assert_allclose(values, expected, atol=1e-5)
    assert not backend.cuda_graphs
    (note,) = backend.notes
    assert note.startswith("CUDA graphs are not used: ")
    assert reason in note


def test_capture_that_fails(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor
) -> None:
    backend, _ = open_plan(capturable=False, lanes=1)
    assert_runs_without_graphs(backend, predictor, "not permitted when stream is capturing")
    assert not {"graph", "graph exec"} & set(standin.alive)
    backend.close()


def test_graph_that_the_driver_refuses(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor
) -> None:
    backend, _ = open_plan(lanes=1)
    standin.fail("cuGraphInstantiateWithFlags", 2)
    assert_runs_without_graphs(backend, predictor, "cuGraphInstantiateWithFlags failed: out of")
    backend.close()


def test_no_memory_for_a_graph(open_plan: Opener, predictor: Predictor) -> None:
    backend, _ = open_plan(executions=1, lanes=1)
    assert_runs_without_graphs(backend, predictor, "no memory for another execution context")
    backend.close()


def test_threads_get_their_own_results(open_plan: Opener, predictor: Predictor) -> None:
    backend, _ = open_plan()
    wrong = []

    def call(seed: int) -> None:
        for i in range(20):
            batch = images(1 + (seed + i) % 4, seed)
            values, _ = backend.run(batch)
            if not np.allclose(values, predictor.backend.run(batch)[0], atol=1e-5):
                wrong.append((seed, i))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    backend.close()


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        (
            {"refuses": "Error Code 1: Serialization (magic tag does not match)"},
            ModelError,
            r"x\.plan: tensorrt_rtx 1\.7\.1\.116 cannot load this plan \(Error Code 1: "
            r"Serialization \(magic tag does not match\)\); build it again",
        ),
        ({"starts": False}, GpuError, r"cannot start \(pybind11.* returned nullptr\)"),
        ({"executions": 0}, GpuError, r"no memory for another execution context \(out of memory\)"),
        ({"input_type": DataType.HALF}, ModelError, "not match its metadata .*another typ"),
        ({"input_type": DataType.UINT8}, ModelError, r"'uint8 \(1, 8, 8, 3\) to \(8, 8, 8, 3\)'"),
        ({"batches": (1, 9)}, ModelError, r"float32 \(1, 3, 8, 8\) to \(9, 3, 8, 8\)"),
        ({"crop": 9}, ModelError, r"float32 \(1, 3, 9, 9\)"),
        ({"num_bins": 4}, ModelError, r"'bin_probs': 'float32 \(4,\)'"),
        ({"outputs": ("values",)}, ModelError, "'bin_probs': None"),
    ],
)
def test_opening_that_fails_leaves_nothing(
    open_plan: Opener, standin: StandinDriver, behaviour: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        open_plan(**behaviour)
    assert "\n" not in str(caught.value)
    assert (standin.alive, standin.pushed) == ({}, 0)


@pytest.mark.parametrize("after", range(2))
@pytest.mark.parametrize("function", ["cuMemAlloc_v2", "cuMemHostAlloc"])
def test_no_memory_leaves_nothing(
    open_plan: Opener, standin: StandinDriver, function: str, after: int
) -> None:
    standin.fail(function, 2, after=after)
    with pytest.raises(CudaError, match=f"{function} failed: out of memory"):
        open_plan()
    assert (standin.alive, standin.pushed) == ({}, 0)


def test_errors_while_running(
    open_plan: Opener, standin: StandinDriver, predictor: Predictor
) -> None:
    backend, behaviour = open_plan(lanes=1)
    behaviour.runs = False
    with pytest.raises(GpuError, match=r"x\.plan: .* run a batch of 2 \(Error Code 1.*illegal"):
        backend.run(images(2))
    behaviour.runs = True
    for function in ("cuStreamSynchronize", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"):
        standin.fail(function, 700)
        with pytest.raises(CudaError, match=rf"{function} failed: .*, 700\)"):
            backend.run(images(2))
    assert standin.pushed == 0
    values, _ = backend.run(images(2))  # what was not the GPU's end leaves it usable
    np.testing.assert_allclose(values, predictor.backend.run(images(2))[0], atol=1e-5)
    backend.close()


@pytest.mark.parametrize(
    ("flags", "version", "allowed"),
    [((), "10.3.0", False), (("version-compatible",), "11.4", True)],
)
def test_code_for_the_cpu_only_in_version_compatible_plans(
    open_plan: Opener, standin: StandinDriver, flags: Any, version: str, allowed: bool
) -> None:
    path = open_plan.write(dataclasses.replace(TENSORRT, flags=flags))
    behaviour = open_plan.install("tensorrt", version)
    TensorRTBackend(path, library=standin.path).close()
    assert behaviour.host_code == [allowed]


def test_image_objects_and_streams(open_plan: Opener, tiny: Path, photos: Path) -> None:
    backend, _ = open_plan()
    paths = [photos / "dark.png", photos / "light.jpg", photos / "sub" / "mid.PNG"] * 7
    with Predictor(backend) as plan, load(tiny) as onnx:
        found = [p.value for p in plan.stream(paths, batch_size=4, workers=3)]  # type: ignore[union-attr]
        expected = [p.value for p in onnx.stream(paths, batch_size=4)]  # type: ignore[union-attr]
        assert found == pytest.approx(expected, abs=1e-4)
        assert plan.predict(Image.new("L", (8, 8), 10)).bin == "dark"
