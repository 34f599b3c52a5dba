"""The monitor of a server: on /metrics, in its file, over restarts and new models; and bundles."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from numclip_runtime import ModelError, UsageError
from numclip_runtime.app.monitoring.monitor_options import MonitorOptions
from numclip_runtime.backends import bundle_opening
from numclip_runtime.files import sha256
from numclip_runtime.model_files.given import BUNDLE_MANIFEST
from numclip_runtime.serve import serving
from numclip_runtime.serve.serve_options import ServeOptions
from numclip_runtime.serve.serving import serve
from tests.runtime.bundles import make_bundle
from tests.runtime.conftest import invoke
from tests.runtime.fleet.test_monitored_run import pictures, read
from tests.runtime.test_bundle import CPU_ORDER, VNNI
from tests.serve.conftest import TINY, ask, eventually, picture, running
from tests.serve.test_reloading import EVERY_S, replace


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a reference, the pictures that it is of, and others."""
    base = tmp_path_factory.mktemp("world")
    usual = pictures(base / "usual", 60, 120, seed=0)
    bright = pictures(base / "bright", 30, 180, seed=1)
    reference = base / "reference.json"
    assert invoke(TINY, usual, "--write-reference", reference).exit_code == 0
    return reference, usual, bright


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SAVED_EVERY_S", 0.02)


def send(port: int, folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        assert ask(port, body=path.read_bytes()).status == 200


def gauges(port: int) -> dict[str, float]:
    """Return name with labels -> value of the monitor's numbers on /metrics."""
    text = ask(port, "/metrics").body.decode()
    found = re.findall(r"^numclip_monitor_(\S+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_numbers_for_prometheus(
    folders: tuple[Path, Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    reference, usual, bright = folders
    with running(monitoring=MonitorOptions(reference=reference)) as server:
        assert gauges(server.port)["images"] == 0.0  # the warm-up does not count
        send(server.port, usual)
        ask(server.port, body=b"no picture")  # nor what has no number
        eventually(lambda: gauges(server.port)["images"] == 60.0)
        before = gauges(server.port)
        assert before["moved"] == 0.0
        mean = before['mean{statistic="brightness",window="reference"}']
        assert mean == pytest.approx(120, abs=9)
        assert "Note:" not in capfd.readouterr().err
        send(server.port, bright)
        eventually(lambda: gauges(server.port)["images"] == 90.0)
        after = gauges(server.port)
        assert (after["moved"], after["p_value"] < 0.01) == (1.0, True)
        name = 'distance{statistic="brightness",window="recent"}'
        assert after[name] > before[name] + 0.1
        assert after['unfamiliar_ratio{window="all"}'] > after["expected_unfamiliar_ratio"]
    said = capfd.readouterr().err
    assert said.count("Note: the images have changed: ") == 1


def test_the_file_is_gone_on_with(
    folders: tuple[Path, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reference, usual, _ = folders
    file = tmp_path / "monitor.json"
    options = MonitorOptions(monitor=file, reference=reference)
    with running(monitoring=options) as server:
        send(server.port, usual)
        # while it runs
        eventually(lambda: file.exists() and read(file)["verdict"]["images"] > 0)
    assert read(file)["verdict"]["images"] == 60
    assert "Monitor: no change in 60 images" in capfd.readouterr().err
    with running(monitoring=options) as server:
        eventually(lambda: gauges(server.port)["images"] == 60.0)
    # of the same kind as that of a run
    run = invoke(TINY, usual, "--monitor", file, "--monitor-reference", reference)
    assert "no change in 120 images" in run.stderr


def test_a_new_model_begins_a_new_file(
    folders: tuple[Path, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its own reference is in the metadata; the file of the one before is kept."""
    usual = folders[1]
    model = with_reference(tmp_path / "model.onnx", folders[0], "points")
    other = with_reference(tmp_path / "other.onnx", folders[0], "grades")
    file = tmp_path / "monitor.json"
    chosen = MonitorOptions(monitor=file)
    before = sha256(model)
    with running(model=model, reload_every=EVERY_S, monitoring=chosen) as server:
        send(server.port, usual)
        old = server.app.line
        replace(model, other)
        eventually(lambda: server.app.line is not old)
        send(server.port, usual)
    kept = tmp_path / f"monitor.{before[:12]}.json"
    for path, digest in ((kept, before), (file, sha256(other))):
        assert (read(path)["model"]["sha256"], read(path)["verdict"]["images"]) == (digest, 60)
    assert f"{file} followed the model before, model.onnx; it is {kept.name} now." in (
        capfd.readouterr().err
    )
    with running(model=other, monitoring=chosen) as server:
        assert gauges(server.port)["images"] == 60.0
    # the model before comes back, and goes on with its own
    first = with_reference(tmp_path / "first.onnx", folders[0], "points")
    assert sha256(first) == before
    with running(model=first, monitoring=chosen) as server:
        assert gauges(server.port)["images"] == 60.0
        send(server.port, usual)
    assert (read(file)["model"]["sha256"], read(file)["verdict"]["images"]) == (before, 120)
    assert not kept.exists()


def with_reference(path: Path, reference: Path, unit: str) -> Path:
    """Write tiny.onnx with a reference in its metadata, and another task."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(TINY)
    for entry in model.metadata_props:
        data = json.loads(entry.value)
        data["reference"] = json.loads(reference.read_text("utf-8"))["reference"]
        entry.value = json.dumps(data).replace('"points"', f'"{unit}"')
    onnx.save(model, path)
    return path


def test_what_cannot_be_followed(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with running() as server:  # the model has no reference
        assert gauges(server.port) == {}
    with pytest.raises(ModelError, match=r"tiny\.onnx: has no reference to compare with"):
        serve(TINY, ServeOptions(port=0, monitoring=MonitorOptions(monitor=tmp_path / "m.json")))
    with pytest.raises(UsageError, match="--no-monitor contradicts the other options"):
        serve(TINY, ServeOptions(port=0, no_monitor=True, monitoring=MonitorOptions(every=3)))
    file = tmp_path / "other.json"
    file.write_text('{"format": 1}')
    chosen = MonitorOptions(monitor=file, reference=folders[0])
    with pytest.raises(UsageError, match=r"other\.json: is not a file of --monitor"):
        serve(TINY, ServeOptions(port=0, monitoring=chosen))
    assert file.read_text() == '{"format": 1}'


def test_a_file_that_cannot_be_written_is_said_once(
    folders: tuple[Path, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reference, usual, _ = folders
    folder = tmp_path / "away"
    folder.mkdir()
    chosen = MonitorOptions(monitor=folder / "monitor.json", reference=reference)
    with running(monitoring=chosen) as server:
        shutil.rmtree(folder)
        folder.write_text("a file")
        send(server.port, usual)
        assert ask(server.port, "/readyz").status == 200
    said = capfd.readouterr().err
    assert said.count("monitor.json is not written (") == 1


def test_no_monitor(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model = with_reference(tmp_path / "model.onnx", folders[0], "points")
    with running(model=model) as server:
        assert gauges(server.port)["images"] == 0.0
    with running(model=model, no_monitor=True) as server:
        assert gauges(server.port) == {}


def test_a_bundle_is_served_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundle_opening, "read_surroundings", lambda options: VNNI)
    bundle = tmp_path / "fleet"
    make_bundle(bundle, TINY)
    with running(model=bundle, reload_every=EVERY_S) as server, running() as alone:
        body = picture()
        assert ask(server.port, body=body).json == ask(alone.port, body=body).json
        assert ask(server.port, "/model").json["sha256"] == sha256(bundle / CPU_ORDER[0])
        old = server.app.line
        changed = tmp_path / "new"
        other = tmp_path / "other.onnx"
        other.write_bytes(TINY.read_bytes().replace(b"points", b"grades"))
        make_bundle(changed, other)
        for path in changed.iterdir():  # the manifest is not the last one
            replace(bundle / path.name, path)
        eventually(lambda: server.app.line is not old)
        assert ask(server.port, body=body).json["unit"] == "grades"
        (bundle / BUNDLE_MANIFEST).write_text("{")
        eventually(lambda: "was refused, the one before answers" in capfd.readouterr().err)
        assert ask(server.port, body=body).json["unit"] == "grades"
