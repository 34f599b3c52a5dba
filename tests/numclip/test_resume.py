"""Kill a run at any moment and go on: the same weights as without the interruption."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from numclip.checkpoint import load_checkpoint
from numclip.cli.train import main
from numclip.training.lightning_module import NumClipModule
from numclip_runtime import UsageError
from tests.numclip.tiny import TOWERS, write_photos

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "tests.numclip.train_process"]
FLAGS = "--epochs 6 --batch-size 4 --optimizer adamw --lr-image 1e-3 --lr-rank 1e-3 --workers 0"


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("", "export", "runtime"))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def arguments(folder: Path, output: str, *more: str) -> list[str]:
    files = {"train": "train.csv", "val": "val.csv", "task": "task.toml", "backbone": "tiny.json"}
    given = [text for name, file in files.items() for text in (f"--{name}", str(folder / file))]
    return [*given, *FLAGS.split(), "-o", str(folder / output), *more]


def weights(file: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(file).model.state_dict()


def logged_losses(run: Path) -> dict[str, float]:
    """Return the training loss of each epoch, from the logs of all processes of a run."""
    logs = [log.read_text("utf-8").splitlines() for log in run.rglob("metrics.csv")]
    rows = [row for log in logs for row in csv.DictReader(log) if row["loss"]]
    return {row["epoch"]: float(row["loss"]) for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data, and `whole.pt`, trained without interruption."""
    folder = tmp_path_factory.mktemp("resume")
    write_photos(folder, "train", 16)
    write_photos(folder, "val", 4)
    (folder / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    (folder / "task.toml").write_text(
        'name = "light"\nunit = ""\nbin_edges = [0, 30, 70, 100]\n'
        'phrases = ["dark", "neither", "bright"]\n',
        "utf-8",
    )
    result = CliRunner().invoke(main, arguments(folder, "whole.pt"))
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def killed(folder: Path) -> Path:
    """Return the run folder of a run that was killed in the middle of an epoch."""
    last = folder / "first.run" / "last.ckpt"
    with subprocess.Popen(
        [*COMMAND, *arguments(folder, "first.pt")],
        cwd=ROOT,
        env=environment(SLOW_MS="100"),
        stdout=subprocess.DEVNULL,
    ) as process:
        end = time.monotonic() + 60
        while not last.is_file() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.15)  # into the middle of the next epoch
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "first.pt").exists()
    return folder / "first.run"


def test_killed_run_resumes_to_the_same_weights(folder: Path, killed: Path) -> None:
    last = shutil.copytree(killed, folder / "killed.run") / "last.ckpt"
    refused = CliRunner().invoke(main, arguments(folder, "killed.pt"))
    assert refused.exit_code == 2
    assert "holds an unfinished run; go on with --resume" in refused.output

    result = CliRunner().invoke(main, arguments(folder, "killed.pt", "--resume"))
    assert result.exit_code == 0, result.output
    assert "epoch   1/6" not in result.output  # the finished epochs are not repeated
    assert "epoch   6/6" in result.output
    whole, resumed = weights(folder / "whole.pt"), weights(folder / "killed.pt")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert not last.exists()
    losses = logged_losses(folder / "whole.run")
    assert logged_losses(folder / "killed.run") == pytest.approx(losses, rel=1e-6)


OTHER_HEADS = [
    "--head distribution --vectors prototypes --tune lora",
    "--head probe --tune lora --lora-rank 2",
    "--vectors prototypes --tune projector",
]


@pytest.mark.parametrize("flags", OTHER_HEADS)
def test_other_heads_resume_to_the_same_weights(
    folder: Path, flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(output: str) -> list[str]:
        return [*arguments(folder, output), "--epochs", "3", *flags.split()]

    def stop(module: NumClipModule) -> None:
        if module.current_epoch == 2:
            raise UsageError("stopped here.")

    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    assert CliRunner().invoke(main, given(str(whole))).exit_code == 0
    with monkeypatch.context() as patched:
        patched.setattr(NumClipModule, "on_train_epoch_start", stop, raising=False)
        assert "stopped here." in CliRunner().invoke(main, given(str(parts))).output
    result = CliRunner().invoke(main, [*given(str(parts)), "--resume"])
    assert result.exit_code == 0, result.output
    assert "epoch   2/3" not in result.output
    resumed = weights(parts)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "holds no unfinished run; start without --resume"),
        (["--resume", "--restart"], "--resume goes on and --restart begins anew"),
    ],
)
def test_nothing_to_resume(folder: Path, flags: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments(folder, "never.pt", *flags))
    assert result.exit_code == 2
    assert message in result.output


REFUSED = """
import sys
from numclip.cli.train import main
try:
    main(sys.argv[1:])
finally:
    print(*({"torch", "pytorch_lightning", "PIL.PngImagePlugin"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("flags", "left_over", "message"),
    [
        ([], True, "holds an unfinished run; go on with --resume"),
        (["--resume"], False, "holds no unfinished run"),
        (["--resume", "--restart"], True, "give one of them"),
    ],
)
def test_refusal_comes_first(folder: Path, flags: list[str], left_over: bool, message: str) -> None:
    """It touches no file, decodes no image, and does not wait for torch."""
    split, run_dir = folder / "forgotten.val.csv", folder / "forgotten.run"
    split.write_bytes(b"path,label\nof the run that was killed,1\n")
    before = split.read_bytes()
    run_dir.mkdir(exist_ok=True)
    (run_dir / "last.ckpt").unlink(missing_ok=True)
    if left_over:
        (run_dir / "last.ckpt").touch()
    given = arguments(folder, "forgotten.pt", *flags)
    given[given.index("--val") : given.index("--val") + 2] = ["--val-share", "0.2"]
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *given],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == "\n", "loaded, or reported on the data"
    assert split.read_bytes() == before
    assert (run_dir / "last.ckpt").exists() == left_over


def test_unreadable_data_leave_the_run_that_was_to_be_discarded(folder: Path) -> None:
    run_dir = folder / "spared.run"
    run_dir.mkdir()
    (run_dir / "last.ckpt").touch()
    gone = ["--train", str(folder / "gone.csv"), "--restart"]
    assert CliRunner().invoke(main, arguments(folder, "spared.pt", *gone)).exit_code == 2
    assert (run_dir / "last.ckpt").exists()


def test_other_settings_are_refused_and_restart_begins_anew(folder: Path, killed: Path) -> None:
    last = shutil.copytree(killed, folder / "other.run") / "last.ckpt"
    changed: dict[str, Any] = {"catch_exceptions": False}
    result = CliRunner().invoke(
        main, arguments(folder, "other.pt", "--resume", "--lr-image", "2e-3"), **changed
    )
    assert result.exit_code == 2
    assert "belongs to a run with other settings (recipe.rates.image)" in result.output
    assert last.exists()
    result = CliRunner().invoke(main, arguments(folder, "other.pt", "--restart"))
    assert result.exit_code == 0, result.output
    assert "epoch   1/6" in result.output


def test_broken_resume_file_is_refused(folder: Path, killed: Path) -> None:
    last = shutil.copytree(killed, folder / "broken.run") / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    result = CliRunner().invoke(main, arguments(folder, "broken.pt", "--resume"))
    assert result.exit_code == 2
    assert "cannot be resumed from" in result.output
