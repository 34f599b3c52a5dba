"""The Triton backend against a gRPC server that speaks Triton's protocol."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("onnxruntime")

from numclip_runtime import MissingDependencyError, ModelError, UsageError, load, read_metadata
from numclip_runtime.app.doctor.command import diagnose
from numclip_runtime.app.doctor.model import check_model
from numclip_runtime.backends import triton
from numclip_runtime.cuda.probe import CudaDriver
from numclip_runtime.model_files.names import short_name
from numclip_runtime.model_files.served import Address
from tests.runtime.conftest import invoke, records
from tests.runtime.standin_triton import StandinTriton, standin_triton

posix = pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise")


@pytest.fixture
def served(tiny: Path) -> Iterator[StandinTriton]:
    with standin_triton(tiny) as state:
        yield state


@pytest.fixture
def pictures() -> list[np.ndarray[Any, Any]]:
    """Return 10 pictures of different brightness."""
    return [np.full((8 + i, 9, 3), 25 * i, np.uint8) for i in range(10)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("triton://h:1/m", Address("h", 1, "m")),
        ("triton:/h:1/m", Address("h", 1, "m")),  # as pathlib writes it
        ("triton:\\h:1\\m\\2", Address("h", 1, "m", "2")),  # and on Windows
        ("triton://h.b-c/m.x", Address("h.b-c", 8001, "m.x")),
        ("triton://[::1]:9/m/3", Address("[::1]", 9, "m", "3")),
        ("triton://h/m?timeout=2.5", Address("h", 8001, "m", timeout_s=2.5)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert Address.parse(text) == expected
    assert Address.parse(Path(text)) == expected
    assert short_name(Path(text)) == expected.model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("triton://", "not the address of a model"),
        ("triton://h:port/m", "not the address of a model"),
        ("triton://h/m/first", "not the address of a model"),
        ("triton://h/m?deadline=3", "not the address of a model"),
        ("triton://h:0/m", "ports go from 1 to 65535"),
        ("triton://h:99999/m", "ports go from 1 to 65535"),
        ("triton://h/m?timeout=0", "timeout must be from"),
        ("triton://h/m?timeout=1.2.3", "timeout must be from"),
        ("triton://h:8001", "`numclip-run doctor triton://h:8001` lists its models"),
        ("triton://h:8001/", "lists its models"),
    ],
)
def test_wrong_addresses(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(text)


def test_the_server_gives_the_numbers_of_the_file(
    served: StandinTriton, tiny: Path, pictures: list[np.ndarray[Any, Any]]
) -> None:
    with load(tiny) as local, load(served.address) as remote:
        assert remote.metadata == local.metadata
        assert read_metadata(served.address) == local.metadata
        assert remote.predict_batch(pictures) == local.predict_batch(pictures)
        assert served.batches == [4, 4, 2]  # split as the config's largest batch demands
        assert list(remote.stream(pictures)) == list(local.stream(pictures))
        assert sum(served.batches) == 20
        assert max(served.batches) == 4
        assert (remote.backend.name, remote.backend.provider) == ("triton", "onnxruntime")
        assert remote.backend.lanes == 3  # one more than instances
    group = served.config.instance_group[0]
    group.kind = group.KIND_CPU
    served.batches.clear()
    with load(served.address) as remote:
        assert len(remote.predict_batch(pictures)) == 10
    assert served.batches == [1] * 10


def test_a_run_of_the_command(served: StandinTriton, tiny: Path, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    there, here = invoke(served.address, photos), invoke(tiny, photos)
    assert there.exit_code == here.exit_code == 1
    assert records(there) == records(here)
    assert len(records(there)) == 4


def test_a_full_queue_is_asked_again(served: StandinTriton, photos: Path) -> None:
    served.refuse = 3
    done = invoke(served.address, photos)
    assert (done.exit_code, len(records(done)), served.refuse) == (0, 3, 0)


def test_a_queue_that_stays_full_ends_in_time(served: StandinTriton, photos: Path) -> None:
    served.refuse = 1_000_000
    begun = time.monotonic()
    done = invoke(f"{served.address}?timeout=0.3", photos)
    assert time.monotonic() - begun < 25  # the default is 30
    assert done.exit_code == 2
    assert f"{served.address}: the server's queue stayed full for 0.3 s; wait" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_slow_server_ends_in_time(served: StandinTriton, photos: Path) -> None:
    served.delay_s = 1.0
    done = invoke(f"{served.address}?timeout=0.2", photos)
    assert done.exit_code == 2
    assert "the server did not answer within 0.2 s" in done.stderr


@posix
@pytest.mark.usefixtures("default_signals")
def test_a_signal_ends_the_wait(served: StandinTriton, photos: Path) -> None:
    served.delay_s = 300
    command = [
        sys.executable,
        "-m",
        "numclip_runtime",
        f"{served.address}?timeout=300",
        str(photos),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            while not served.entered:
                time.sleep(0.02)
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=100)
        finally:
            process.kill()
            served.delay_s = 0
    assert process.returncode == 130


def test_records_are_kept_when_the_model_is_unloaded(
    served: StandinTriton, tiny: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    paths = [str(photos / "dark.png")] * 40
    served.unload_after = 10  # more than are in flight, 7, so the first one is done
    done = invoke(served.address, *paths, "--batch-size", "1", "--workers", "1", "-o", out)
    assert done.exit_code == 2
    assert "the server does not have this model ready" in done.stderr
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    (expected,) = records(invoke(tiny, photos / "dark.png"))
    assert 0 < len(kept) < 40
    assert kept == [expected] * len(kept)
    assert f"Stopped: {len(kept)} of 40 images done and kept." in done.stderr


def test_a_server_that_is_gone(tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "GONE_S", 0.2)
    with standin_triton(tiny) as served:
        predictor = load(served.address)
        assert predictor.predict(photos / "dark.png").value > 0
        served.stop()
        with pytest.raises(ModelError, match=r"(no Triton server answers|stopped answering)"):
            predictor.predict(photos / "dark.png")
    done = invoke(served.address, photos)
    assert done.exit_code == 2
    assert f"no Triton server answers at 127.0.0.1:{served.port}" in done.stderr


def test_a_server_that_comes_back_loses_nothing(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "GONE_S", 25.0)
    with standin_triton(tiny) as served:
        predictor = load(served.address)
        expected = predictor.predict(photos / "dark.png")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(predictor.predict(photos / "dark.png")))
    thread.start()
    with standin_triton(tiny, served.port):
        thread.join(30)
    assert found == [expected]


def test_something_else_listens(photos: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        threading.Thread(target=lambda: other.accept()[0].close(), daemon=True).start()
        done = invoke(f"triton://127.0.0.1:{port}/m", photos)
    assert done.exit_code == 2
    assert f"no Triton server answers at 127.0.0.1:{port}" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.parameters.pop("numclip"), "holds no numclip metadata"),
        (lambda c: c.parameters["numclip"].Clear(), "metadata cannot be read"),
        (lambda c: setattr(c, "max_batch_size", 0), "max_batch_size 0, so it takes no batches"),
        (lambda c: setattr(c.input[0], "name", "image"), "lacks 'images'"),
        (lambda c: setattr(c.input[0], "data_type", 10), "'images' is TYPE_FP16 of batch x 3"),
        (lambda c: c.input[0].dims.pop(), "'images' is float32 of batch x 3 x 8,"),
        (lambda c: setattr(c.output[1], "name", "x"), "lacks 'bin_probs'"),
        (lambda c: c.output[1].dims.__setitem__(0, 6), "'bin_probs' is float32 of batch x 6"),
        (lambda c: c.output[0].dims.__setitem__(0, 2), "'values' is float32 of batch x 2"),
    ],
)
def test_configs_that_do_not_fit(
    served: StandinTriton, photos: Path, change: Any, message: str
) -> None:
    change(served.config)
    done = invoke(served.address, photos)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_answers_of_the_wrong_shape(served: StandinTriton, photos: Path) -> None:
    served.narrow = True
    done = invoke(served.address, photos)
    assert done.exit_code == 2
    assert "bin_probs of (3, 2)" in done.stderr


def test_models_and_versions_that_are_not_there(served: StandinTriton, photos: Path) -> None:
    other = served.address.replace("/tiny", "/other")
    assert "no model of this name; it has tiny." in invoke(other, photos).stderr
    served.loaded = False
    done = invoke(served.address, photos)
    assert done.exit_code == 2
    assert "this model is not ready (UNAVAILABLE: unloaded); see" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 1},
        {"device": "cpu"},
        {"backend": "openvino"},
        {"require_gpu": True},
        {"bf16": True},
    ],
    ids=str,
)
def test_the_server_decides_what_runs(served: StandinTriton, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the server decides what runs the model"):
        load(served.address, **options)


def test_the_stated_sha256_is_compared(served: StandinTriton) -> None:
    load(served.address, sha256="5" * 64).close()
    with pytest.raises(ModelError, match=f"states {'5' * 64} for the model file"):
        load(served.address, sha256="6" * 64)


def test_a_copy_asks_the_same_model(served: StandinTriton, photos: Path) -> None:
    with load(served.address) as predictor:
        with pickle.loads(pickle.dumps(predictor)) as copied:
            assert copied.predict(photos / "dark.png") == predictor.predict(photos / "dark.png")
        other = replace(predictor.metadata, verified=True).to_json()
        content = pickle.dumps(predictor)
    assert repr(predictor).startswith("<Predictor of tiny: ")
    served.config.parameters["numclip"].string_value = other
    with pytest.raises(ModelError, match="is another model than the one that was loaded before"):
        pickle.loads(content).predict(photos / "dark.png")


def test_closed(served: StandinTriton, photos: Path) -> None:
    predictor = load(served.address)
    backend = predictor.backend
    predictor.close()
    predictor.close()
    with pytest.raises(UsageError, match="was closed; load"):
        backend.run(np.zeros((1, 3, 8, 8), np.float32))


def test_doctor_prints_what_is_there(served: StandinTriton) -> None:
    found = diagnose(Path(served.address))
    assert found.can_run
    assert found.model is not None
    assert found.model.path == served.address
    facts = found.model.facts
    assert facts["server"] == f"triton 2.51.0 at 127.0.0.1:{served.port}"
    assert facts["model tiny"] == "version 1 READY"
    assert facts["runs with"] == "triton, onnxruntime"
    server = Path(served.address.removesuffix("/tiny"))
    alone = check_model(server, found.packages, found.cuda)
    assert alone.problems
    assert alone.facts["model tiny"] == "version 1 READY"
    assert alone.advice[0] == f"numclip-run doctor triton://127.0.0.1:{served.port}/MODEL"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tritonclient"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    sentence = r"tritonclient is not installed; install with: pip install 'numclip\[triton\]'"
    with pytest.raises(MissingDependencyError, match=sentence):
        load("triton://h:1/m")
    found = check_model(Path("triton://h:1/m"), {}, CudaDriver(problem="none"))
    assert any("pip install 'numclip[triton]'" in problem for problem in found.problems)


def test_a_served_model_is_no_file(served: StandinTriton) -> None:
    from numclip_runtime.model_files.open_model import OpenModel

    with pytest.raises(ModelError, match=f"^{served.address}: a model on a server can only be run"):
        OpenModel(served.address)
