"""Two processes with half the batch each train as one process with the whole batch."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from numclip.cli import main
from tests.numclip.test_resume import OTHER_HEADS, ROOT, environment, folder, weights

__all__ = ["folder"]
FLAGS = "--epochs 3 --optimizer adamw --lr-image 1e-3 --lr-rank 1e-3 --weight-decay 0.01"


def losses(run: Path) -> list[float]:
    (log,) = run.rglob("metrics.csv")
    rows = csv.DictReader(log.read_text("utf-8").splitlines())
    return [float(row["loss"]) for row in rows if row["loss"]]


def train(folder: Path, output_folder: Path, processes: int, batch_size: int, *more: str) -> Path:
    files = {"train": "train.csv", "val": "val.csv", "task": "task.toml", "backbone": "tiny.json"}
    output = output_folder / f"processes{processes}.pt"
    words = [
        *(text for name, file in files.items() for text in (f"--{name}", str(folder / file))),
        *(
            *FLAGS.split(),
            "--workers",
            "0",
            "--batch-size",
            str(batch_size),
            "-o",
            str(output),
            *more,
        ),
    ]
    if processes == 1:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return output
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = subprocess.run(
        [*torchrun, str(processes), "-m", "numclip.cli", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.mark.parametrize("flags", ["", OTHER_HEADS[0]])
def test_two_processes_equal_one(folder: Path, flags: str, tmp_path: Path) -> None:
    one, two = (
        train(folder, tmp_path, processes, size, *flags.split())
        for processes, size in ((1, 8), (2, 4))
    )
    assert losses(two.with_suffix(".run")) == pytest.approx(
        losses(one.with_suffix(".run")), rel=1e-5
    )
    whole, split = weights(one), weights(two)
    for name, tensor in whole.items():
        if name.endswith("in_proj_bias"):
            continue  # keys' bias has no gradient but rounding, and AdamW makes steps of any size
        torch.testing.assert_close(split[name], tensor, rtol=1e-3, atol=1e-5)
