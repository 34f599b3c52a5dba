"""The real tritonserver: `make triton-test`. It is left out elsewhere, for it takes 400 MB.

Its wheel has no onnxruntime backend, so each config names the Python backend in its place, and
`onnx_model.py` runs the ONNX file. All else in the config is what `numclip-export --triton` wrote;
the server completes nothing by itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from numclip_export.cli import main as export_command
from numclip_runtime import ImageError, ModelError, Predictor, load
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.preprocess import network_input
from tests.triton.real_server import RealServer, adapt, running

if not os.environ.get("NUMCLIP_TRITON_TEST"):
    pytest.skip("make triton-test runs it", allow_module_level=True)

DATA = Path(__file__).parents[1] / "data"


def export(model: object, repository: Path, *more: str) -> None:
    with pytest.raises(SystemExit) as ended:
        export_command([str(model), "--triton", str(repository), *more])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of three models: quality, tiny, and a slow one with a short queue."""
    folder = tmp_path_factory.mktemp("triton") / "models"
    export("quality", folder, "--target", "cpu")
    export(DATA / "tiny.onnx", folder, "--max-batch", "8")
    slow = shutil.copy(DATA / "tiny.onnx", folder.parent / "slow.onnx")
    export(slow, folder, "--target", "cpu", "--max-batch", "4")
    config = folder / "slow" / "config.pbtxt"
    text = config.read_text("utf-8")
    text = re.sub(r"max_queue_size: \d+", "max_queue_size: 4", text)
    config.write_text(re.sub(r"count: \d+", "count: 1", text), "utf-8")
    adapt(folder / "slow", delay_s="0.02")
    adapt(folder / "quality")
    adapt(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RealServer]:
    control = ("--model-control-mode=explicit", "--load-model=*")
    with running(repository, repository.parent / "server", *control) as started:
        yield started


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return 24 pictures, each of another size, sharpness and JPEG quality."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{i:02}.jpg" for i in range(24)]
    for i, path in enumerate(paths):
        height, width = map(int, rng.integers(80, 500, 2))
        shape = max(2, height // (4 + i % 9)), max(2, width // (4 + i % 9)), 3
        small = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=20 + 3 * i)
    return paths


@pytest.fixture(scope="module")
def local() -> Iterator[Predictor]:
    with load("quality", threads=1) as predictor:
        yield predictor


def span(predictor: Predictor) -> float:
    edges = predictor.metadata.task.bin_edges
    return edges[-1] - edges[0]


def compare(found: Any, expected: Any, most: float) -> None:
    assert len(found) == len(expected) >= 20
    for one, other in zip(found, expected, strict=True):
        assert abs(one.value - other.value) <= most
        assert one.bin == other.bin
        assert np.allclose(one.interval, other.interval, rtol=0, atol=10 * most)
        assert np.allclose(list(one.bin_probs.values()), list(other.bin_probs.values()), atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
def test_grpc(server: RealServer, local: Predictor, pictures: list[Path], batched: bool) -> None:
    with load(f"triton://{server.grpc}/quality") as remote:
        assert remote.metadata == local.metadata
        assert remote.backend.max_batch == 1  # on a CPU more gain nothing
        if batched:  # the last digits of a local batch differ from those of single pictures, too
            remote.backend.max_batch = 32
            found, expected = remote.predict_batch(pictures), local.predict_batch(pictures)
        else:
            found = [one for one in remote.stream(pictures) if not isinstance(one, ImageError)]
            expected = [local.predict(path) for path in pictures]
    compare(found, expected, 1e-5)
    worst = max(abs(a.value - b.value) for a, b in zip(found, expected, strict=True))
    print(f"gRPC, batches of {len(pictures) if batched else 1}: {worst:.2g} of {span(local):g}")


def test_http(server: RealServer, local: Predictor, pictures: list[Path]) -> None:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(server.http)
    config = client.get_model_config("quality")
    metadata = ModelMetadata.from_json(config["parameters"]["numclip"]["string_value"])
    assert metadata == local.metadata
    found = []
    for path in pictures:
        image = network_input(path, metadata)[None]
        given = http.InferInput("images", image.shape, "FP32")
        given.set_data_from_numpy(image)
        answer = client.infer("quality", [given])
        values, probs = answer.as_numpy("values"), answer.as_numpy("bin_probs")
        assert values.shape == (1, 1)
        found += local.postprocess(values[:, 0], probs)
    compare(found, [local.predict(path) for path in pictures], 1e-5)
    # the label file, as those who have no numclip read it
    asked = http.InferRequestedOutput("bin_probs", class_count=1)
    best = client.infer("quality", [given], outputs=[asked]).as_numpy("bin_probs")
    label = best.reshape(-1)[0].decode().split(":")[2]
    assert label == found[-1].bin
    client.close()


def test_warm_up_ran(server: RealServer, repository: Path) -> None:
    for name, largest in (("quality", 32), ("tiny", 8), ("slow", 4)):
        lines = (repository / name / "1" / "batches.txt").read_text().split()
        assert lines[0] == "1", name
        assert str(largest) in lines[:4], name


def test_the_command_and_batches_beyond_the_largest(
    server: RealServer, repository: Path, pictures: list[Path], tmp_path: Path
) -> None:
    outputs: list[list[dict[str, Any]]] = []
    for model in (f"triton://{server.grpc}/tiny", str(DATA / "tiny.onnx")):
        out = tmp_path / f"{len(outputs)}.jsonl"
        command = [sys.executable, "-m", "numclip_runtime", model, str(pictures[0].parent)]
        more = ["--batch-size", "16", "-o", str(out)]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outputs.append([json.loads(line) for line in out.read_text().splitlines()])
    there, here = outputs
    assert [one["path"] for one in there] == [one["path"] for one in here]
    assert np.allclose([o["value"] for o in there], [o["value"] for o in here], rtol=0, atol=1e-4)
    with load(f"triton://{server.grpc}/tiny") as remote:
        image = np.zeros((9, 3, 8, 8), np.float32)
        client, library = remote.backend._client, remote.backend._library  # type: ignore[attr-defined]
        given = library.InferInput("images", image.shape, "FP32")
        given.set_data_from_numpy(image)
        with pytest.raises(Exception, match="batch-size must be <= 8"):
            client.infer("tiny", [given])  # so it is the backend that splits
        remote.backend.max_batch = 8
        assert [one.bin for one in remote.predict_batch(pictures)] == [one["bin"] for one in here]
    assert "8" in (repository / "tiny" / "1" / "batches.txt").read_text().split()[2:]


def test_a_full_queue_under_24_clients(server: RealServer, pictures: list[Path]) -> None:
    errors: Any = pytest.importorskip("tritonclient.utils")
    address, refused = f"triton://{server.grpc}/slow", 0

    def work(_: int) -> list[float]:
        with load(f"{address}?timeout=120") as remote:
            return [remote.predict(pictures[0]).value for _ in range(10)]

    with load(address) as remote, load(DATA / "tiny.onnx") as here, ThreadPoolExecutor(24) as pool:
        client, library = remote.backend._client, remote.backend._library  # type: ignore[attr-defined]
        promised = [pool.submit(work, i) for i in range(24)]
        image = remote.preprocess(pictures[0])[None]
        while not all(one.done() for one in promised):
            given = library.InferInput("images", image.shape, "FP32")
            given.set_data_from_numpy(image)
            try:
                client.infer("slow", [given])
            except errors.InferenceServerException as error:
                refused += "Exceeds maximum queue size" in str(error)
            time.sleep(0.01)
        found = [value for one in promised for value in one.result()]
        expected = here.predict(pictures[0]).value
    assert refused > 0  # a client that does not ask again is refused
    assert len(found) == 240  # those that do lose nothing
    assert np.allclose(found, expected, rtol=0, atol=1e-4)


def test_waiting_requests_stay_apart_on_a_cpu(server: RealServer, repository: Path) -> None:
    lines = (repository / "slow" / "1" / "batches.txt").read_text().split()
    assert set(lines[3:]) == {"1"}  # after the warm-up, of 24 clients with one image each


def unload(server: RealServer, name: str, action: str = "unload") -> None:
    url = f"http://{server.http}/v2/repository/models/{name}/{action}"
    urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=60).close()


def test_a_model_that_is_unloaded_in_mid_run(
    server: RealServer, repository: Path, pictures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    log = repository / "slow" / "1" / "batches.txt"
    before = len(log.read_text().split())
    command = [sys.executable, "-m", "numclip_runtime", f"triton://{server.grpc}/slow", "-"]
    process = subprocess.Popen(
        [*command, "--batch-size", "1", "-o", str(out)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    paths = "".join(f"{path}\n" for path in pictures * 100)
    errors: list[str] = []

    def feed() -> None:
        errors.append(process.communicate(paths)[1])

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    while len(log.read_text().split()) < before + 20:
        time.sleep(0.02)
    unload(server, "slow")
    feeder.join(120)
    assert process.returncode == 2
    assert "does not have this model ready" in errors[0]
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert 10 < len(kept) < 2400
    assert f"Stopped: {len(kept)} images done and kept." in errors[0]
    with pytest.raises(ModelError, match=r"this model is not ready|no model of this name"):
        load(f"triton://{server.grpc}/slow")
    unload(server, "slow", "load")
    load(f"triton://{server.grpc}/slow").close()


def test_the_server_refuses_a_config_with_a_mistake(
    repository: Path, server: RealServer, pictures: list[Path]
) -> None:
    """Triton itself finds some mistakes; numclip's own check finds all of tests/export."""
    bad = repository / "bad"
    shutil.copytree(repository / "tiny", bad)
    config = bad / "config.pbtxt"
    text = config.read_text("utf-8").replace('name: "tiny"', 'name: "bad"')
    for old, new in (
        ("max_batch_size: 8", "max_batch_sizes: 8"),
        ("max_batch_size: 8", "max_batch_size: 4"),  # with a warm-up of 8
        ("TYPE_FP32\n  format", "TYPE_FP33\n  format"),
    ):
        assert old in text
        config.write_text(text.replace(old, new, 1), "utf-8")
        with pytest.raises(urllib.error.HTTPError):
            unload(server, "bad", "load")
    # An output's size it does not compare; the client does
    assert "  dims: 3\n" in text
    config.write_text(text.replace("  dims: 3\n", "  dims: 4\n", 1), "utf-8")
    unload(server, "bad", "load")
    with pytest.raises(ModelError, match="'bin_probs' is float32 of batch x 4, and its metadata"):
        load(f"triton://{server.grpc}/bad")
    unload(server, "bad")
    shutil.rmtree(bad)


def test_the_server_stops(server: RealServer, pictures: list[Path]) -> None:
    """The last test: the server is gone after it."""
    remote = load(f"triton://{server.grpc}/tiny")
    server.stop()
    with pytest.raises(ModelError, match=r"no Triton server answers|stopped answering"):
        remote.predict(pictures[0])
