"""From sources to sets: order of the steps, what is warned about, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from numclip.data.prepare import DataConfig, data_report, prepare_data
from numclip.tasks import load_task
from numclip_runtime import UsageError

TASK = replace(load_task("historical"), label_offset=0.0)  # lists of 0 to 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 20 images, 0.png to 19.png, and all.csv: class i % 4, person i // 2."""
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    write(tmp_path / "all.csv", range(20))
    return tmp_path


def write(path: Path, indices: range) -> Path:
    rows = "".join(f"{i}.png,{i % 4},p{i // 2}\n" for i in indices)
    path.write_text(f"path,label,person\n{rows}")
    return path


def test_given_validation_and_test(folder: Path) -> None:
    config = DataConfig(
        write(folder / "train.csv", range(12)),
        val=write(folder / "val.csv", range(12, 16)),
        test=write(folder / "test.csv", range(16, 20)),
    )
    data, warnings = prepare_data(config, TASK)
    assert [len(part) for part in (data.train, data.val, data.test)] == [12, 4, 4]
    assert warnings == [
        "no training image in 1 of 5 bins (1970s); the model cannot learn them. "
        "Add images, or merge bins."
    ]
    lines = data_report(data, TASK).splitlines()
    assert lines[:2] == [
        "train: 12 images, labels 0 to 3 decades",
        "val: 4 images, labels 0 to 3 decades",
    ]
    assert lines[3].split() == ["bin", "decades", "train", "val", "test"]


def test_split_keeps_groups(folder: Path) -> None:
    config = DataConfig(folder / "all.csv", val_share=0.2, group_column="person")
    data, warnings = prepare_data(config, TASK)
    assert (len(data.train), len(data.val), data.test) == (16, 4, [])
    assert not {s.group for s in data.train} & {s.group for s in data.val}
    assert len(warnings) == 1  # the empty bin


def test_only_training_is_subsampled_after_the_split(folder: Path) -> None:
    whole, _ = prepare_data(DataConfig(folder / "all.csv", val_share=0.2), TASK)
    shots, _ = prepare_data(DataConfig(folder / "all.csv", val_share=0.2, shots=2), TASK)
    assert sorted(s.label for s in shots.train) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert shots.val == whole.val
    shift = DataConfig(folder / "all.csv", val_share=0.2, shift_top=2, shift_keep=0.5)
    shifted, _ = prepare_data(shift, TASK)
    assert sorted(s.label for s in shifted.train) == [0] * 2 + [1] * 2 + [2] * 4 + [3] * 4
    assert shifted.val == whole.val


def test_long_tail_is_evaluated_only(folder: Path) -> None:
    data, _ = prepare_data(DataConfig(folder / "all.csv", val_share=0.2, val_min_label=2), TASK)
    assert {s.label for s in data.train} == {0, 1, 2, 3}
    assert {s.label for s in data.val} == {2, 3}


def test_overlaps_are_named(folder: Path) -> None:
    (folder / "15.png").write_bytes((folder / "0.png").read_bytes())
    config = DataConfig(
        write(folder / "train.csv", range(11)),
        val=write(folder / "val.csv", range(10, 16)),
        group_column="person",
    )
    _, warnings = prepare_data(config, TASK)
    assert warnings[:2] == [
        "2 of 6 val images are in train as well (1 the same file, 1 the same content, first "
        f"{folder / '10.png'}); val metrics will be too good.",
        "1 groups are in both train and val, first 'p5'; val metrics will be too good.",
    ]


def test_broken_images(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"")
    config = DataConfig(folder / "all.csv", val_share=0.2)
    with pytest.raises(UsageError, match=r"1 of 20 train images are broken:\n .*3\.png: the file"):
        prepare_data(config, TASK)
    skipping = DataConfig(folder / "all.csv", val_share=0.2, skip_broken=True)
    data, warnings = prepare_data(skipping, TASK)
    assert len(data.train) + len(data.val) == 19
    assert warnings[0] == "1 of 20 train images are broken, left out."
    unchecked = DataConfig(folder / "all.csv", val_share=0.2, image_check="none")
    data, _ = prepare_data(unchecked, TASK)
    assert len(data.train) + len(data.val) == 20


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give either --val .* or --val-share"),
        ({"val": Path("v.csv"), "val_share": 0.2}, "give either --val .* or --val-share"),
        ({"val_share": 0.2, "shots": 1, "shift_top": 10}, "--shots and --shift-top are two"),
    ],
)
def test_contradictions(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataConfig(Path("train.csv"), **fields)  # type: ignore[arg-type]
