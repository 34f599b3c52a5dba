import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks import real
from benchmarks.bench.machine.environment import REPOSITORY
from benchmarks.bench.realsets.image_sets import SETS, read_set, whole_numbers
from benchmarks.bench.realsets.methods import DEMO, METHODS, SCRATCH_CLIP, SCRATCH_SIDE
from benchmarks.bench.realsets.ordinal_rivals import coral_loss, corn_loss, rank_probs
from benchmarks.bench.realsets.real_measures import spearman
from benchmarks.bench.realsets.real_report import best_reference, commands, table
from examples.quality.demo import train_flags
from numclip_runtime.errors import UsageError

CELLS = next(image_set for image_set in SETS if image_set.name == "blood-cells")


def made_set(folder: Path, *, groups: dict[str, str]) -> Path:
    """Write blood-cells with dark pictures of few cells and light ones of many."""
    images = folder / "blood-cells" / "images"
    images.mkdir(parents=True)
    rows = []
    for group, part in groups.items():
        for number, label in enumerate((9, 17, 22, 27, 40)):
            name = f"images/{group}_{part}_{number}.jpg"
            Image.new("RGB", (40, 30), (6 * label,) * 3).save(folder / "blood-cells" / name)
            rows.append((name, label, part, group))
    with (folder / "blood-cells" / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split", "group"), *rows])
    return folder


def test_groups_in_two_parts_are_refused(tmp_path: Path) -> None:
    data = made_set(tmp_path, groups={"a": "train", "b": "val", "c": "test"})
    table = data / "blood-cells" / "all.csv"
    assert [len(samples) for samples in read_set(CELLS, data).values()] == [5, 5, 5]
    table.write_text(table.read_text().replace("test,c", "test,a"))
    with pytest.raises(UsageError, match="group 'a' is in several parts"):
        read_set(CELLS, data)


def test_runs_are_kept_and_not_repeated_and_absent_sets_are_said(tmp_path: Path) -> None:
    data = made_set(tmp_path / "data", groups={"a": "train", "b": "val", "c": "test", "d": "test"})
    out = tmp_path / "real.json"
    arguments = ["--data", str(data), "--json", str(out), "--work", str(tmp_path / "work")]
    arguments += ["--method", "corn", "--method", "words-demo", "--quick", "--jobs", "1"]
    arguments += ["--table", str(tmp_path / "real.md"), "--plot", str(tmp_path / "real.png")]
    command = [sys.executable, real.__file__, *arguments]  # as typed: its processes start from it
    first = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert first.returncode == 0, first.stderr
    assert "tomato-freshness: skipped" in first.stdout
    assert "pv-cells: skipped" in first.stdout
    report = json.loads(out.read_text())
    assert report["constants"] == {"blood-cells": {"mae": 8.2, "rmse": 10.373}}
    run = report["results"]["blood-cells/words-demo/0"]
    assert run["command"][:3] == ["numclip-train", "--train", "train.csv"]
    assert str(tmp_path) not in json.dumps(run)
    assert run["coverage_by_group"].keys() == {"c", "d"} if "coverage" in run else True
    assert "| CORN | none | 1 |" in (tmp_path / "real.md").read_text()
    assert (tmp_path / "real.png").stat().st_size > 5_000
    again = CliRunner().invoke(real.main, arguments, catch_exceptions=False)
    assert again.exit_code == 0
    assert not re.search(r"^ +1/\d", again.output, re.MULTILINE)  # no line of a run
    assert json.loads(out.read_text())["results"] == report["results"]


def test_a_folder_without_any_set_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(real.main, ["--data", str(tmp_path), "--json", str(tmp_path / "j")])
    assert result.exit_code == 2
    assert "holds none of the 3 sets" in result.output


def test_coral_loss_is_that_of_the_authors_package() -> None:
    # the example in the docstring of coral_pytorch 1.4.0's coral_loss
    logits = torch.tensor([[2.1, 1.8, -2.1, -1.8], [1.9, -1.0, -1.5, -1.3], [1.9, 1.8, 1.7, 1.6]])
    assert coral_loss(logits, torch.tensor([2, 1, 4])).item() == pytest.approx(0.6920, abs=1e-4)


def test_corn_asks_an_image_only_the_questions_up_to_its_rank() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]])
    up, down = (-torch.log(torch.sigmoid(sign * logits)) for sign in (1, -1))
    # rank 0 fails the first question; rank 2 passes two and fails the third
    expected = (down[0, 0] + up[1, 0] + up[1, 1] + down[1, 2]) / 4
    assert corn_loss(logits, torch.tensor([0, 2])).item() == pytest.approx(expected.item())


def test_rank_probabilities_are_differences_of_the_ranks_above() -> None:
    logits = torch.tensor([[0.0, 0.0]])
    assert torch.allclose(rank_probs(logits, "corn"), torch.tensor([[0.5, 0.25, 0.25]]))
    assert torch.allclose(rank_probs(logits, "coral"), torch.tensor([[0.5, 0.0, 0.5]]))


def test_rank_correlation_shares_the_ranks_of_ties() -> None:
    # ranks 1, 2.5, 2.5, 4 and 2, 1, 3, 4: covariance 3 / 4, variances 4.5 / 4 and 5 / 4
    first, second = np.array([1.0, 5.0, 5.0, 9.0]), np.array([3.0, 1.0, 4.0, 8.0])
    assert spearman(first, second) == pytest.approx(3 / (4.5 * 5) ** 0.5)
    assert spearman(first, np.ones(4)) == 0


def test_every_label_of_a_set_has_a_bin_of_its_own() -> None:
    cells = whole_numbers(CELLS.task)
    assert [cells.bin_of(label) for label in (0, 9, 45)] == [0, 9, 45]
    grades = next(s for s in SETS if s.name == "pv-cells").task
    assert whole_numbers(grades).num_bins == 4


def test_the_reference_to_beat_is_the_best_by_the_set_s_own_measure() -> None:
    found = {each.name: getattr(best_reference(each), each.judged_by) for each in SETS}
    assert found == {"tomato-freshness": 1.749, "pv-cells": 1.164, "blood-cells": 4.149}


def test_the_demos_recipe_is_the_demos() -> None:
    def options(words: Sequence[object]) -> dict[str, object]:
        return {
            str(name): as_number(value) for name, value in zip(words[::2], words[1::2], strict=True)
        }

    demo, mine = options(train_flags(Path("data"), Path("x.pt"), 12)), options(DEMO)
    of_the_run = {"--train", "--val", "--task", "--backbone", "--resize", "-o", "--epochs"}
    of_the_run |= {"--workers"}
    # The demo's narrower network learns faster
    rates = {name: 1e-3 for name in demo if name.startswith("--lr-") and name != "--lr-text"}
    demo |= rates
    assert mine == {name: value for name, value in demo.items() if name not in of_the_run}
    assert json.loads(SCRATCH_CLIP.read_text())["vision_cfg"]["image_size"] == SCRATCH_SIDE


def as_number(word: object) -> object:
    try:
        return float(str(word))
    except ValueError:
        return str(word)


def test_the_published_table_is_that_of_the_published_runs() -> None:
    folder = REPOSITORY / "benchmarks" / "results"
    report = json.loads((folder / "real.json").read_text("utf-8"))
    assert f"{table(report)}\n{commands(report)}" in (folder / "real.md").read_text("utf-8")
    closed = sum(method.closed for method in METHODS)
    assert len(report["results"]) == len(SETS) * (5 * (len(METHODS) - closed) + closed)
