"""`numclip-export --bundle`: what it writes, proves, leaves out, replaces and refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from numclip_export import export as export_module
from numclip_export.cli import main
from numclip_export.delivery import bundle_folder
from numclip_export.delivery.bundle_folder import atomic_folder
from numclip_export.delivery.bundle_targets import BundleTarget, parse_targets
from numclip_export.int8 import write as int8_write
from numclip_export.int8.acceptance import Speed
from numclip_runtime import UsageError, load
from numclip_runtime.model_files.bundle import read_bundle
from numclip_runtime.model_files.given import BUNDLE_MANIFEST
from tests.export.chain import Chain, make_chain

TINY = Path(__file__).parents[1] / "data/tiny.onnx"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def manifest(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / BUNDLE_MANIFEST).read_text("utf-8"))
    return data


def names(folder: Path) -> set[str]:
    """Return the files without their checksums."""
    return {path.name for path in folder.iterdir() if path.suffix != ".sha256"}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return make_chain("vit", tmp_path_factory.mktemp("vit"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", ["cpu"]),
        ("cpu, onnx-fp16", ["cpu", "onnx-fp16"]),
        ("cpu-int8,ONNX", ["cpu-int8", "onnx"]),
        ("tensorrt-rtx", ["tensorrt-rtx"]),
        ("tensorrt-rtx:86+120", ["tensorrt-rtx:86+120"]),
        ("cpu,tensorrt-rtx:86,120,onnx", ["cpu", "tensorrt-rtx:86+120", "onnx"]),  # as the issue
        ("tensorrt-rtx:12.0,8.6+sm89", ["tensorrt-rtx:86+89+120"]),
        ("tensorrt-rtx-int8:86,tensorrt-rtx:86", ["tensorrt-rtx-int8:86", "tensorrt-rtx:86"]),
        ("tensorrt-fp32,tensorrt", ["tensorrt-fp32", "tensorrt"]),
        ("cpu,cpu,tensorrt-rtx:86,86", ["cpu", "tensorrt-rtx:86"]),
    ],
)
def test_targets(text: str, expected: list[str]) -> None:
    assert [str(target) for target in parse_targets(text)] == expected
    assert parse_targets(",".join(expected)) == parse_targets(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no target; choose from cpu, onnx, tensorrt, tensorrt-rtx"),
        ("gpu", "'gpu' is no target"),
        ("cpu-bf16", "'cpu-bf16' is no target"),
        ("cpu,", "'' is no target"),
        ("86", "86 follows no list of compute capabilities"),
        ("cpu,86", "86 follows no list of compute capabilities"),
        ("tensorrt-rtx,86", "86 follows no list of compute capabilities"),
        ("tensorrt-rtx:", "'' is not a list of compute capabilities"),
        ("tensorrt-rtx:86+", r"'86\+' is not a list of compute capabilities"),
        ("tensorrt-rtx:eighty", "'eighty' is not a list of compute capabilities"),
        ("tensorrt:86", "for tensorrt-rtx alone; TensorRT builds for the GPU of this machine"),
        ("cpu:86", r"compute capabilities are for tensorrt-rtx alone\."),
    ],
)
def test_targets_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_targets(text)


def test_precisions_of_targets() -> None:
    assert BundleTarget("cpu").precisions == ("fp32", "int8")
    assert BundleTarget("onnx").precisions == ("fp32",)
    assert BundleTarget("tensorrt-rtx").precisions == ("fp16",)


@pytest.fixture(scope="module")
def fleet(vit: Chain, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Return a bundle with a file of each kind but plans, and what was printed."""
    folder = tmp_path_factory.mktemp("fleet") / "b"
    with pytest.MonkeyPatch.context() as patch:
        speed = Speed("onnxruntime", "fp32", 2.0, 1.0)
        patch.setattr(int8_write, "measure_speed", lambda *args, batch: speed)
        result = run(
            *(vit.ckpt, "--bundle", folder, "--targets", "cpu,onnx-fp16"),
            *("--max-batch", "2", "--data", vit.ckpt.parent / "val"),
        )
    assert result.exit_code == 0, result.output
    return folder, result


def test_a_bundle_of_a_checkpoint(fleet: tuple[Path, Result], vit: Chain) -> None:
    folder, result = fleet
    models = {f"checkpoint.{kind}.onnx" for kind in ("cpu", "cpu.int8", "fp16")}
    assert names(folder) == {*models, BUNDLE_MANIFEST, "report.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["b"]
    artefacts = {item["file"]: item for item in manifest(folder)["artefacts"]}
    assert artefacts.keys() == models
    for name, item in artefacts.items():
        content = (folder / name).read_bytes()
        assert (item["sha256"], item["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
        assert (folder / f"{name}.sha256").read_text() == f"{item['sha256']}  {name}\n"
        with load(folder / name, device="cpu") as predictor:
            metadata = predictor.metadata
        assert (metadata.precision, metadata.input) == (item["precision"], item["input"])
        assert metadata.optimized_by == item.get("made_for")
        assert metadata.parity == {
            key: item["parity"][key] for key in ("max_value_error", "max_prob_error")
        }
        assert metadata.verified is item["verified"] is True
    assert [artefacts[name]["device"] for name in sorted(models)] == ["cpu", "cpu", "gpu"]
    assert artefacts["checkpoint.cpu.int8.onnx"]["int8_images"] == 5
    model = manifest(folder)["model"]
    assert model["checkpoint_sha256"] == hashlib.sha256(vit.ckpt.read_bytes()).hexdigest()
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert {item["file"] for item in report["artefacts"]} == models
    assert {item["file"]: item["sha256"] for item in report["artefacts"]} == {
        name: item["sha256"] for name, item in artefacts.items()
    }
    digest = hashlib.sha256((folder / BUNDLE_MANIFEST).read_bytes()).hexdigest()
    assert f"sha256 {digest} of bundle.json" in result.output
    assert re.match(rf"{folder}: a bundle of 3 files, \d+\.\d MB, in \d+ s\n", result.output)


def test_the_checkpoint_is_loaded_once_and_exported_once_for_each_opset(
    vit: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("load_checkpoint", "Reference", "onnx_from_folded"):
        real = getattr(export_module, name)

        def counted(*args: Any, name: str = name, real: Any = real, **rest: Any) -> Any:
            calls.append(name)
            return real(*args, **rest)

        monkeypatch.setattr(export_module, name, counted)
    targets = "cpu-fp32,onnx,onnx-fp16"
    result = run(vit.ckpt, "--bundle", tmp_path / "b", "--targets", targets, "--max-batch", 2)
    assert result.exit_code == 0, result.output
    assert sorted(calls) == ["Reference", "load_checkpoint", "onnx_from_folded", "onnx_from_folded"]
    devices = {item["file"]: item["device"] for item in manifest(tmp_path / "b")["artefacts"]}
    assert devices == {
        "checkpoint.cpu.onnx": "cpu",
        "checkpoint.onnx": "any",
        "checkpoint.fp16.onnx": "gpu",
    }


def test_plans_are_built_without_a_gpu(vit: Chain, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path / "b"
    targets = "tensorrt-rtx:86,120,tensorrt-rtx:89"
    result = run(vit.ckpt, "--bundle", folder, "--targets", targets, "--max-batch", 2)
    assert result.exit_code == 0, result.output
    plans = {"checkpoint.fp16.rtx-86-120.plan": [86, 120], "checkpoint.fp16.rtx-89.plan": [89]}
    assert names(folder) == {*plans, "checkpoint.fp16.onnx", BUNDLE_MANIFEST, "report.json"}
    items = {item["file"]: item for item in manifest(folder)["artefacts"]}
    for name, capabilities in plans.items():
        assert items[name]["engine"]["compute_capabilities"] == capabilities
        assert items[name]["built_from"] == "checkpoint.fp16.onnx"
        assert items[name]["made_for"].startswith("tensorrt-rtx ")
        onnx = hashlib.sha256((folder / "checkpoint.fp16.onnx").read_bytes()).hexdigest()
        assert items[name]["engine"]["onnx_sha256"] == onnx
    assert items["checkpoint.fp16.onnx"]["input"] == "uint8"  # as engines want it
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert [item["file"] for item in report["engines"]] == list(plans)
    assert str(tmp_path) not in json.dumps(report)


def test_no_tensorrt_is_refused_before_the_export(
    vit: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setattr(
        export_module, "load_checkpoint", lambda path: pytest.fail("the export began")
    )
    args = (vit.ckpt, "--bundle", tmp_path / "b", "--targets", "onnx,tensorrt-rtx:86")
    result = run(*args)
    assert result.exit_code == 2
    assert result.output.startswith("Error: target tensorrt-rtx:86: tensorrt_rtx is not installed;")
    assert "--allow-missing" in result.output
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    result = run(*args, "--allow-missing", "--max-batch", 2)
    assert result.exit_code == 0, result.output
    (item,) = manifest(tmp_path / "b")["missing"]
    assert item["target"] == "tensorrt-rtx:86"
    assert "tensorrt_rtx is not installed" in item["reason"]
    assert "left out: tensorrt-rtx:86: tensorrt_rtx is not installed" in result.output
    assert run(*args[:-1], "tensorrt-rtx:86", "--allow-missing").exit_code == 2  # nothing is left


def test_a_tensorrt_without_a_gpu(vit: Chain, tmp_path: Path) -> None:
    result = run(vit.ckpt, "--bundle", tmp_path / "b", "--targets", "onnx,tensorrt")
    assert result.exit_code == 2
    assert result.output.startswith("Error: target tensorrt: ")
    assert list(tmp_path.iterdir()) == []


def test_int8_that_is_not_worth_it_is_left_out_unless_asked_for(
    vit: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Speed("onnxruntime", "fp32", 1.0, 2.0)
    monkeypatch.setattr(int8_write, "measure_speed", lambda *args, batch: slow)
    data = ("--data", vit.ckpt.parent / "val", "--max-batch", 2)
    result = run(vit.ckpt, "--bundle", tmp_path / "b", "--targets", "cpu", *data)
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "b") == {"checkpoint.cpu.onnx", BUNDLE_MANIFEST, "report.json"}
    (item,) = manifest(tmp_path / "b")["missing"]
    assert item["target"] == "cpu-int8"
    assert item["reason"].startswith("checkpoint.cpu.int8.onnx: not kept, it is no faster here")
    assert str(tmp_path) not in json.dumps(manifest(tmp_path / "b"))
    result = run(vit.ckpt, "--bundle", tmp_path / "c", "--targets", "cpu-int8", *data)
    assert result.exit_code == 1
    assert f"Error: {tmp_path / 'c'}/checkpoint.cpu.int8.onnx: not kept" in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


def test_a_difference_leaves_the_older_bundle(vit: Chain, tmp_path: Path) -> None:
    folder, options = tmp_path / "b", ("--targets", "onnx", "--max-batch", 2)
    assert run(vit.ckpt, "--bundle", folder, *options).exit_code == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run(vit.ckpt, "--bundle", folder, *options, "--atol", 0)
    assert result.exit_code == 1
    assert f"Error: {folder}/checkpoint.onnx: not kept, its values differ" in result.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_bundle_of_a_packaged_model(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    result = run("quality", "--bundle", folder, "--targets", "cpu,onnx")
    assert result.exit_code == 0, result.output
    assert names(folder) == {"quality.onnx", BUNDLE_MANIFEST}
    (item,) = manifest(folder)["artefacts"]
    assert item["target"] == "cpu, onnx"
    assert item["parity"].keys() == {"max_value_error", "max_prob_error"}
    with load("quality", device="cpu") as one, load(folder, device="cpu") as other:
        assert one.metadata == other.metadata
        assert str(other.choice) == "quality.onnx of this bundle: fp32 on the CPU"


def test_a_plan_of_an_onnx_file_has_its_precision(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    args = (TINY, "--bundle", tmp_path / "b", "--targets", "onnx,tensorrt-rtx:86")
    result = run(*args, "--max-batch", 2)
    assert result.exit_code == 0, result.output
    onnx, plan = read_bundle(tmp_path / "b").artefacts
    assert (onnx.file, plan.file, plan.precision) == ("tiny.onnx", "tiny.rtx-86.plan", "fp32")
    assert (plan.verified, plan.parity) == (False, None)


@pytest.mark.parametrize(
    ("targets", "extra", "message"),
    [
        ("onnx-fp16", (), "target onnx-fp16: tiny.onnx is fp32, and files of other kinds are made"),
        ("cpu,cpu-int8", (), "target cpu-int8: tiny.onnx is fp32"),
        ("cpu", ("--data", "x.csv"), "--data is for --ckpt; with --onnx the file itself decides"),
        ("cpu", ("--no-verify",), "--no-verify is for --ckpt"),
        ("cpu", ("--tf32",), "--tf32 is for engines, and none is built"),
        ("cpu", ("--fp16",), "--fp16 has no use with --bundle"),
        ("cpu", ("--bf16",), "--bf16 has no use with --bundle"),
        ("cpu", ("-o", "x"), "--output has no use with --bundle"),
        ("cpu", ("--target", "onnx"), "--target has no use with --bundle"),
        ("cpu", ("--card",), "--card has no use with --bundle"),
        ("cpu", ("--web", "page"), "--web has no use with --bundle"),
        ("cpu", ("--compute-capability", "86"), "--compute-capability has no use with --bundle"),
        ("cpu", ("--push", "a/b", "--license", "other"), "--push has no use with --bundle"),
        (None, (), "--bundle needs its --targets, such as cpu,onnx-fp16,tensorrt-rtx:86+120"),
    ],
)
def test_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: Any, extra: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(TINY, "--bundle", "b", *(["--targets", targets] if targets else []), *extra)
    assert result.exit_code == 2
    assert f"Error: {message}" in result.output
    assert result.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_targets_without_a_bundle(tmp_path: Path) -> None:
    assert "--targets is for --bundle DIR" in run(TINY, "--targets", "cpu").output
    assert "--allow-missing is for --bundle DIR" in run(TINY, "--allow-missing").output


def test_missing_targets_of_an_onnx_file_are_listed(tmp_path: Path) -> None:
    args = (TINY, "--bundle", tmp_path / "b", "--allow-missing", "--targets", "onnx,onnx-fp16")
    assert run(*args).exit_code == 0
    (item,) = manifest(tmp_path / "b")["missing"]
    assert item["target"] == "onnx-fp16"
    assert run(*args[:-1], "onnx-fp16").exit_code == 2


@pytest.mark.parametrize("what", ["file", "photos", "foreign manifest", "guest"])
def test_nothing_but_an_older_bundle_is_replaced(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "b"
    args = (TINY, "--bundle", folder, "--targets", "onnx")
    if what == "file":
        folder.write_text("mine")
    elif what == "guest":
        assert run(*args).exit_code == 0
        (folder / "notes.txt").write_text("mine")
    else:
        folder.mkdir()
        name = "a.jpg" if what == "photos" else BUNDLE_MANIFEST
        (folder / name).write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = run(*args)
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: {folder}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.posix("modes and links")
def test_an_older_bundle_is_replaced_as_a_whole(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir(0o750)
    link.symlink_to(real)
    assert run("quality", "--bundle", link, "--targets", "onnx").exit_code == 0
    assert run(TINY, "--bundle", link, "--targets", "onnx").exit_code == 0
    assert link.is_symlink()
    assert names(real) == {"tiny.onnx", BUNDLE_MANIFEST}
    assert real.stat().st_mode & 0o777 == 0o750
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_the_older_bundle_is_put_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "b"
    assert run(TINY, "--bundle", folder, "--targets", "onnx").exit_code == 0
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.suffix == ".part":
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    result = run("quality", "--bundle", folder, "--targets", "onnx")
    assert (result.exit_code, result.output) == (2, f"Error: {folder}: No space left on device.\n")
    assert names(folder) == {"tiny.onnx", BUNDLE_MANIFEST}
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_what_came_in_the_meantime_is_kept(tmp_path: Path) -> None:
    (late := tmp_path / "late").mkdir()
    (late / "a.jpg").touch()
    folder = tmp_path / "b"
    with pytest.raises(UsageError, match=r"holds 'a\.jpg'"), atomic_folder(folder):
        late.rename(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "a.jpg"]


def test_mounted_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_folder, "is_mount_point", lambda path: True)
    assert (
        "is mounted there; give a folder inside it"
        in run(TINY, "--bundle", tmp_path, "--targets", "onnx").output
    )


@pytest.mark.parametrize("name", ["sub/deep/b", "b/"])
def test_folders_above_are_made(tmp_path: Path, name: str) -> None:
    result = run(TINY, "--bundle", f"{tmp_path}/{name}", "--targets", "onnx")
    assert result.exit_code == 0, result.output
    shutil.rmtree(tmp_path / name)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "new" / "b"):
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()
