"""One predictor for several threads, also while it is closed; copies for several processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from numclip_runtime import ModelError, Prediction, Predictor, UsageError, load
from numclip_runtime.files import sha256
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.predictor import Origin
from tests.runtime.opener import Opener
from tests.runtime.slow_backend import SlowBackend

LEVELS: list[npt.NDArray[np.uint8]] = [np.full((8, 8), 12 * i, np.uint8) for i in range(20)]
CLOSED = "closed; load"


@pytest.fixture(params=["onnxruntime", "openvino"])
def opened(tiny: Path, request: pytest.FixtureRequest) -> Iterator[Predictor]:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    with load(tiny, backend=request.param, optimize_for="throughput") as predictor:
        yield predictor


def values(results: object) -> list[float]:
    assert isinstance(results, list)
    return [result.value for result in results if isinstance(result, Prediction)]


def test_threads_share_a_predictor(opened: Predictor) -> None:
    expected = [opened.predict(image).value for image in LEVELS]
    ways: list[Callable[[], list[float]]] = [
        lambda: [opened.predict(image).value for image in LEVELS],
        lambda: values(opened.predict_batch(LEVELS)),
        lambda: values(list(opened.stream(LEVELS))),
        lambda: values(list(opened.stream(LEVELS, batch_size=3, workers=2))),
    ]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(way) for way in ways * 6]
        for job in jobs:
            np.testing.assert_allclose(job.result(), expected, atol=1e-5)


def test_closed_predictors_say_so(opened: Predictor) -> None:
    opened.close()
    opened.close()
    for act in (
        lambda: opened.predict(LEVELS[0]),
        lambda: opened.predict_batch(LEVELS),
        lambda: list(opened.stream(LEVELS)),
        lambda: list(opened.stream(LEVELS, batch_size=4)),
        lambda: opened.backend.run(np.zeros((1, 3, 8, 8), np.float32)),
        lambda: pickle.dumps(opened),
    ):
        with pytest.raises(UsageError, match=CLOSED):
            act()


def test_a_closed_plan_says_so(open_plan: Opener) -> None:
    backend, _ = open_plan()
    predictor = Predictor(backend)
    predictor.close()
    with pytest.raises(UsageError, match=CLOSED):
        predictor.predict(LEVELS[0])


def test_closing_while_threads_predict(tiny: Path, opened: Predictor) -> None:
    expected = [opened.predict(image).value for image in LEVELS]
    begun = threading.Barrier(5)

    def work() -> int:
        begun.wait(10)
        done = 0
        while True:
            try:
                found = opened.predict(LEVELS[done % 20]).value
            except UsageError:
                return done
            assert found == pytest.approx(expected[done % 20], abs=1e-5)
            done += 1

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(work) for _ in range(4)]
        begun.wait(10)
        threading.Event().wait(0.05)
        opened.close()
        assert sum(job.result(10) for job in jobs) > 0


def test_close_waits_for_what_runs(tiny: Path) -> None:
    backend = SlowBackend(tiny)
    running, go_on = threading.Event(), threading.Event()

    def work(images: object) -> None:
        running.set()
        assert go_on.wait(10)

    backend.work = work
    predictor = Predictor(backend)
    with ThreadPoolExecutor(2) as pool:
        prediction = pool.submit(predictor.predict, LEVELS[0])
        assert running.wait(10)
        closing = pool.submit(predictor.close)
        while predictor._guard._free is None:
            pass
        with pytest.raises(UsageError, match=CLOSED):
            predictor.predict(LEVELS[1])
        assert not closing.done()
        assert not backend.closed
        go_on.set()
        assert prediction.result(10).value == 5
        closing.result(10)
    assert backend.closed


def test_close_inside_a_run_frees_at_its_end(tiny: Path) -> None:
    """As a signal handler does that interrupts a run."""
    backend = SlowBackend(tiny)
    predictor = Predictor(backend)
    backend.work = lambda images: predictor.close()
    assert predictor.predict(LEVELS[0]).value == 5  # the backend asserts that it is open
    assert backend.closed
    with pytest.raises(UsageError, match=CLOSED):
        predictor.predict(LEVELS[1])


def doubled(predictor: Predictor) -> Predictor:
    result = pickle.loads(pickle.dumps(predictor))
    assert isinstance(result, Predictor)
    return result


@pytest.mark.parametrize("double", [doubled, copy.copy, copy.deepcopy])
def test_copies_open_the_model_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, double: Callable[[Predictor], Predictor]
) -> None:
    monkeypatch.chdir(tiny.parent)
    with load(tiny.name, threads=1, device="cpu", optimize_for="throughput") as predictor:
        other = double(double(predictor))
        monkeypatch.chdir("/")  # the path is absolute
        assert isinstance(other._model, Origin)
        assert other.predict(LEVELS[5]) == predictor.predict(LEVELS[5])
        assert other.backend is not predictor.backend
        assert other.backend.threads == 1
        assert len(list(other.stream(LEVELS))) == 20
        other.close()
        with pytest.raises(UsageError, match=CLOSED):
            other.predict(LEVELS[0])
        predictor.predict(LEVELS[0])  # goes on


def test_a_copy_opens_once(tiny: Path) -> None:
    with load(tiny) as predictor, doubled(predictor) as other:
        with ThreadPoolExecutor(6) as pool:
            backends = list(pool.map(lambda _: other.backend, range(12)))
        assert len(set(map(id, backends))) == 1


def test_closing_an_unused_copy(tiny: Path) -> None:
    with load(tiny) as predictor:
        other = doubled(predictor)
    other.close()
    with pytest.raises(UsageError, match=CLOSED):
        other.predict(LEVELS[0])


def test_spawned_processes(tiny: Path) -> None:
    with load(tiny, threads=1) as predictor:
        expected = predictor.predict_batch(LEVELS)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(predictor.predict_batch, (LEVELS,)) == expected


def test_predictor_of_a_backend_cannot_be_pickled(tiny: Path) -> None:
    with (
        Predictor(SlowBackend(tiny)) as predictor,
        pytest.raises(UsageError, match=r"made from a backend.*make it with numclip_runtime\.load"),
    ):
        pickle.dumps(predictor)


@pytest.fixture
def model(tmp_path: Path, tiny: Path) -> Path:
    return Path(shutil.copy(tiny, tmp_path / "model.onnx"))


def changed(model: Path) -> bytes:
    """Return another model of the same size."""
    content = model.read_bytes().replace(b"points", b"metres")
    assert content != model.read_bytes()
    return content


@pytest.mark.parametrize("pinned", [False, True])
def test_the_content_decides_and_not_the_time(model: Path, pinned: bool) -> None:
    pin = sha256(model) if pinned else None
    with load(model, sha256=pin) as predictor:
        text = pickle.dumps(predictor)
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(content)  # another machine's copy
    os.utime(model, (1, 1))
    with pickle.loads(text) as other:
        assert other.predict(LEVELS[0]).unit == "points"


def test_another_model_under_the_same_path_is_refused(model: Path) -> None:
    with load(model) as predictor:
        text = pickle.dumps(predictor)
    time = model.stat()
    model.write_bytes(changed(model))
    os.utime(model, ns=(time.st_atime_ns, time.st_mtime_ns))  # same size, same time
    assert (model.stat().st_size, model.stat().st_mtime_ns) == (time.st_size, time.st_mtime_ns)
    other = pickle.loads(text)
    with pytest.raises(ModelError, match=r"model\.onnx: is another model than the one that was lo"):
        other.predict(LEVELS[0])
    model.unlink()
    with pytest.raises(ModelError, match=r"model\.onnx: no such file; .* under the same path"):
        other.predict(LEVELS[0])


def test_a_model_replaced_since_it_was_loaded_cannot_be_pickled(model: Path) -> None:
    with load(model) as predictor:
        model.write_bytes(changed(model))
        with pytest.raises(ModelError, match="was replaced or removed since it was loaded"):
            pickle.dumps(predictor)
        model.unlink()
        with pytest.raises(ModelError, match="was replaced or removed since it was loaded"):
            pickle.dumps(predictor)


def test_an_untouched_file_is_not_hashed_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of 350 MB takes 0.2 to 1 s; on the same machine the file's stamp says enough."""
    with load(model) as predictor:
        text = pickle.dumps(predictor)
        monkeypatch.setattr(
            "numclip_runtime.model_files.model_file.sha256", lambda path: pytest.fail("hashed")
        )
        monkeypatch.setattr(OpenModel, "sha256", lambda self: pytest.fail("hashed"))
        assert pickle.dumps(predictor) == text
        pickle.loads(text).predict(LEVELS[0])


def test_a_model_replaced_while_it_runs_changes_nothing(tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.read_bytes())
    with load(path) as predictor:
        expected = [predictor.predict(image).value for image in LEVELS]
        results = predictor.stream(LEVELS)
        found = [next(results)]
        new = tmp_path / "new.onnx"
        new.write_bytes(b"something else")
        new.replace(path)
        found += results
    assert [p.value for p in found if isinstance(p, Prediction)] == pytest.approx(expected)
