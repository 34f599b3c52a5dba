"""A training says what it is worth: beside a constant, on new images, as a table and a picture."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from numclip.training.callbacks import EpochLines, RunProgress
from numclip.training.history import Epoch, findings, save_history
from tests.numclip.tiny import TASK

CONSTANT = {"constant": 10.0}


def epochs(*pairs: tuple[float, float]) -> list[Epoch]:
    """Return a history of (training L1, validation MAE)."""
    return [
        {"epoch": i + 1.0, "loss": 3.0, "l1": l1, "val_mae": mae}
        for i, (l1, mae) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("history", "baselines", "said"),
    [
        (epochs((9, 9.9), (8, 9.7)), CONSTANT, ["the model is no better than a constant: its "]),
        (
            epochs((9, 9.9), (8, 11.0)),
            CONSTANT,
            ["a constant: its validation MAE is 9.9"],
        ),
        (epochs((9, 9.9), (8, 8.5)), CONSTANT, ["the model is hardly better than a constant"]),
        (epochs((9, 9.9), (6, 6.0)), CONSTANT, []),
        (epochs((6, 6.0), (7, 9.0)), CONSTANT, []),  # both got worse: they do not drift apart
        (epochs((6, 6.0), (5.9, 6.8)), CONSTANT, []),  # noise of an epoch
        (
            epochs((6, 6.0), (1, 7.0)),
            CONSTANT,
            ["after epoch 1 the error on training images fell from 6.0"],
        ),
        (epochs((6, 6.0), (2.5, 6.0)), CONSTANT, ["at the end the error is 2.5"]),
        (epochs((6, 6.0), (0.5, 2.0)), CONSTANT, []),  # it knows them by heart, and the others too
        (epochs((1, 1)), {"constant": 0.0}, []),  # labels that are all the same
        (epochs((6, 6)), {**CONSTANT, "probe": 5.0}, ["the probe is better than the model"]),
        (epochs((6, 4)), {**CONSTANT, "probe": 5.0}, []),
        (epochs((9, float("nan")), (9, 9.9)), CONSTANT, ["no better than a constant"]),
        (epochs((9, float("nan"))), CONSTANT, []),
        ([], CONSTANT, []),
    ],
)
def test_findings(history: list[Epoch], baselines: dict[str, float], said: list[str]) -> None:
    found = list(findings(history, baselines, TASK))
    assert len(found) == len(said)
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence
        assert "\n" not in sentence


def test_table_and_picture(tmp_path: Path) -> None:
    history = epochs((9, 9.9), (6, float("nan")), (5, 6.0))
    assert save_history(tmp_path, history, CONSTANT, TASK) is None
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["val_mae_constant"]) for row in rows] == [
        ("1", "10.0"),
        ("2", "10.0"),
        ("3", "10.0"),
    ]
    with Image.open(tmp_path / "results.png") as picture:
        assert picture.size == (1200, 480)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    assert {(0, 114, 178), (213, 94, 0), (119, 119, 119)} <= colours  # both curves, the constant


def test_without_matplotlib_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    note = save_history(tmp_path, epochs((9, 9.9)), CONSTANT, TASK)
    assert note == (
        f"{tmp_path / 'results.png'} is not drawn: matplotlib is not installed; install with: "
        "pip install 'numclip[plot]'"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]


def test_a_picture_that_fails_does_not_take_the_training_with_it(tmp_path: Path) -> None:
    (tmp_path / "results.png").mkdir()
    note = save_history(tmp_path, epochs((9, 9.9)), CONSTANT, TASK)
    assert note is not None
    assert note.startswith(f"{tmp_path / 'results.png'} is not drawn: ")


def trainer(epoch: int, **metrics: float) -> Any:
    return SimpleNamespace(
        callback_metrics=metrics,
        is_global_zero=True,
        current_epoch=epoch,
        max_epochs=12,
        num_training_batches=4,
    )


def test_epoch_lines_stay_above_the_bar_of_the_whole_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, bar = EpochLines(TASK, {**CONSTANT, "probe": 5.25}), RunProgress()
    got = {"loss": 1.5, "val_mae": 3.25, "val_bin_accuracy": 0.5}
    now, module = trainer(6, **got), SimpleNamespace()
    bar.on_train_start(now, module)  # type: ignore[arg-type]
    assert bar.bar is not None
    assert (bar.bar.n, bar.bar.total) == (24, 48)  # resumed after 6 of 12 epochs
    bar.on_train_batch_end(now, module)  # type: ignore[arg-type]
    bar.bar.refresh()
    lines.on_train_epoch_end(now, module)  # type: ignore[arg-type]
    bar.on_train_end(now, module)  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out.endswith(
        "epoch   7/12  loss 1.500  val MAE 3.250 (constant 10.000, probe 5.250)  "
        "bin accuracy 50.0%\n"
    )
    assert "epoch 7/12   52% |" in err
    assert " left" in err
