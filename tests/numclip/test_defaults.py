"""Defaults stand in the dataclasses only: the commands use them, and --help shows them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from numclip.cli import distill, evaluate, train, zeroshot
from numclip.data.prepare import DataConfig
from numclip.distillation.distill_options import DistillOptions
from numclip.evaluation.predictions import EvaluationSource
from numclip.model.model_config import ModelConfig, PromptConfig
from numclip.model.preprocessing import PreprocessingConfig
from numclip.tasks import load_task
from numclip.training.config import LearningRates, TrainConfig
from numclip.training.run import TrainOptions
from numclip_runtime import Preprocessing

TRAINING: dict[type, str] = {  # dataclass -> prefix of its options
    LearningRates: "lr_",
    TrainConfig: "",
    PromptConfig: "",
    ModelConfig: "",
    PreprocessingConfig: "",
    Preprocessing: "",
    DataConfig: "",
    TrainOptions: "",
}


def shown_defaults(command: click.Command) -> dict[str, str]:
    """Return the defaults that --help takes from the options, by option; not those in words."""
    context = click.Context(command, show_default=True)
    records = {option.name: option.get_help_record(context) for option in command.params}
    infos = {option.name: option.to_info_dict() for option in command.params}
    own = {name for name, info in infos.items() if info["default"] not in (None, (), [])}
    found = {
        name: re.search(r"\[default: ([^;\]]+)(; [^\]]+)?\]$", record[1])
        for name, record in records.items()
        if record is not None and name in own
    }
    return {name: match[1] for name, match in found.items() if name and match}


def field_defaults(configs: dict[type, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for config, prefix in configs.items():
        for field in fields(config):
            found.setdefault(prefix + field.name, set()).add(str(field.default))
    return found


@pytest.mark.parametrize(
    ("command", "configs", "least"),
    [
        (train.main, TRAINING, 13),
        (evaluate.main, {EvaluationSource: ""}, 2),
        (zeroshot.main, {TrainOptions: ""}, 1),
        (distill.main, {DistillOptions: ""}, 5),
    ],
)
def test_every_default_in_help_is_that_of_a_dataclass(
    command: click.Command, configs: dict[type, str], least: int
) -> None:
    shown, wanted = shown_defaults(command), field_defaults(configs)
    if command is zeroshot.main:
        assert shown.pop("output") == "zeroshot.pt"
    if command is train.main:
        assert shown.pop("rank_specific_context") == "shared-context"
    assert len(shown) >= least
    assert {name: {text} for name, text in shown.items()} == {name: wanted[name] for name in shown}


def test_the_command_line_alone_changes_no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def spy(options: TrainOptions, *, run_file: str) -> None:
        given.append(options.resolved())

    monkeypatch.setattr("numclip.cli.train.train", spy)
    words = "--train a.csv --val b.csv --task age"
    result = CliRunner().invoke(train.main, words.split(), catch_exceptions=False)
    assert result.exit_code == 0
    data = DataConfig(Path("a.csv"), val=Path("b.csv"))
    assert given == [TrainOptions(load_task("age"), data).resolved()]


def test_defaults_are_the_papers_for_age() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.schedule) == (200, 32, "multistep")
    assert (config.rates.image, config.rates.text, config.rates.context) == (1e-5, 0, 0)
