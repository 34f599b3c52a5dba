"""`--config run.toml`: it holds any option, the command line wins, each run writes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

from numclip.checkpoint import load_checkpoint
from numclip.cli.run_file import OF_ONE_CALL, run_file
from numclip.cli.train import main
from numclip.tasks import load_task, read_toml
from numclip.training.run import TrainOptions
from tests.numclip.tiny import TOWERS, write_photos

TASK = """name = "b"
unit = ""
bin_edges = [0, 10, 20, 30]
phrases = ["dark", "neither", "bright"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, count in (("train", 10), ("val", 5)):
        write_photos(tmp_path, name, count)
    (tmp_path / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    (tmp_path / "task.toml").write_text(TASK, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def options_of(monkeypatch: pytest.MonkeyPatch, *args: object) -> TrainOptions:
    seen: list[TrainOptions] = []
    monkeypatch.setattr("numclip.cli.train.train", lambda options, **_: seen.append(options))
    result = train(*args)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_a_run_repeats_itself_from_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("--train", "train.csv", "--val", "val.csv", "--task", "task.toml")
    model = ("--backbone", "tiny.json", "--resize", 36, "--gelu", "--base-phrase", "a b")
    how = ("--epochs", 2, "--batch-size", 8, "--workers", 0, "--lr", 3e-4, "--seed", 5)
    more = ("--prompt", "rank", "--base-phrase", 'say "c"', "--no-check-images")
    first = train(*files, *model, *how, *more, "-o", "first.pt")
    assert first.exit_code == 0, first.output
    written = folder / "first.run" / "run.toml"
    content = read_toml(str(written), "run file")
    assert content["base-phrase"] == ["a b", 'say "c"']
    assert (content["lr-adapter"], content["epochs"]) == (3e-4, 2)
    assert (content["quickgelu"], content["check-images"]) == (False, False)
    assert not {"lr", *OF_ONE_CALL} & set(content)
    other = folder / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    again = train("--config", written, "-o", "again.pt")
    assert again.exit_code == 0, again.output
    one, two = (load_checkpoint(file) for file in (folder / "first.pt", other / "again.pt"))
    assert one.metrics == two.metrics
    weights = two.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in one.model.state_dict().items())
    lines = [(f / "run.toml").read_text().splitlines() for f in (written.parent, Path("again.run"))]
    (moved,) = set(lines[0]) ^ set(lines[1]) - {f'output = "{other / "again.pt"}"'}
    assert moved == f'output = "{folder / "first.pt"}"'


def test_the_command_line_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r.toml").write_text(
        'train = "a.csv"\nval = "b.csv"\nrecipe = "finetune"\nepochs = 9\nlr_rank = 1e-2\n'
        'name = "x"\nbin-edges = [0, 1.5, 2]\nphrases = ["low", "high"]\n'
        'skip-broken = true\nlogger = "mlflow"\n'
    )
    options = options_of(monkeypatch, "--config", "r.toml", "--epochs", 4, "--val", "c.csv")
    assert options.training is not None
    assert (options.training.epochs, options.training.rates.rank) == (4, 1e-2)
    assert (options.data.train, options.data.val) == (Path("a.csv"), Path("c.csv"))
    assert (options.task.bin_edges, options.task.phrases) == ((0, 1.5, 2), ("low", "high"))
    assert options.data.skip_broken
    assert (options.recipe, options.loggers) == ("finetune", ("mlflow",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "r.toml: there is no option 'epoch'; similar is 'epochs'."),
        ("resume = true", "r.toml: there is no option 'resume'"),
        ("config = 'r.toml'", "r.toml: there is no option 'config'"),
        ("[training]\nepochs = 3", "r.toml: there is no option 'training'; similar is 'train'."),
        ("skip-broken = 1", "the option 'skip-broken' is one of those for true or false"),
        ("epochs = true", "the option 'epochs' is not one of those for true or false"),
        ("epochs = [1, 2]", "the option 'epochs' must be one text or number"),
        ("train = 2020-01-01", "the option 'train' must be one text or number"),
        ("epochs = 0", "'--epochs': 0 is not in the range x>=1"),
        ("recipe = 'moprh'", "'moprh' is not one of 'auto', 'finetune'"),
        ("epochs =", "r.toml: not valid TOML"),
        (None, "r.toml: cannot read this run file"),
    ],
)
def test_wrong_files_are_one_sentence(folder: Path, text: str | None, message: str) -> None:
    if text is not None:
        Path("r.toml").write_text(text)
    given = ("--train", "train.csv", "--val", "val.csv", "--task", "age")
    result = train("--config", "r.toml", *given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_the_file_is_no_output(folder: Path) -> None:
    Path("r.toml").write_text('train = "train.csv"\nval = "val.csv"\ntask = "age"\n')
    result = train("--config", "r.toml", "-o", "r.toml")
    assert result.exit_code == 2
    assert "r.toml" in result.stderr
    assert Path("r.toml").read_text().startswith("train")


@pytest.mark.parametrize(
    "value", ['a "b"\\\n\t', "\x7f\x00", "Ärger 😀", -1.5e-300, float("inf"), 7, True, ("a", "ü")]
)
def test_every_value_comes_back(value: Any, tmp_path: Path) -> None:
    several = isinstance(value, tuple)
    param = click.Option(["--some-thing/--no"] if value is True else ["--some-thing"])
    (tmp_path / "r.toml").write_text(run_file([param], {"some_thing": value}), "utf-8")
    wanted = {"some-thing": list(value) if several else value}
    assert read_toml(str(tmp_path / "r.toml"), "run file") == wanted


def test_a_file_name_that_is_no_text_is_a_comment(tmp_path: Path) -> None:
    param = click.Option(["--train"])
    text = run_file([param], {"train": Path("/a/\udcff.csv")})
    (tmp_path / "r.toml").write_text(text, "utf-8")
    assert read_toml(str(tmp_path / "r.toml"), "run file") == {}
    assert "# train = " in text


def test_a_preset_stays_a_name_beside_a_file_of_that_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("age").touch()
    assert load_task("age").unit == "years"
    param = click.Option(["--task"])
    assert run_file([param], {"task": "age"}).splitlines()[1] == 'task = "age"'
    assert (
        run_file([param], {"task": "task.toml"}).splitlines()[1] == f'task = "{folder}/task.toml"'
    )
