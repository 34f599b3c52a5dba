"""Loggers: their packages are asked for at the start, and each gets the losses and metrics."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from numclip.cli.train import main
from numclip.training.loggers import LoggerName, check_loggers, make_loggers
from numclip_runtime.errors import MissingDependencyError


@pytest.mark.parametrize("flags", [("--tensorboard",), ("--logger", "tensorboard")])
def test_a_missing_package_is_named_before_anything_is_read(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    places = ("--train", "gone.csv", "--val", "gone.csv", "--task", "age")
    result = CliRunner().invoke(main, [*places, "-o", str(tmp_path / "a.pt"), *flags])
    assert result.exit_code == 2
    assert result.output == (
        "Error: tensorboard is not installed, so training cannot log to it; install with: "
        "pip install tensorboard\n"
    )


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_packages_that_are_there_pass(name: LoggerName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {name}$"):
        check_loggers([name])
    module = ModuleType(name)
    module.__spec__ = sys.__spec__  # any: it can be found
    monkeypatch.setitem(sys.modules, name, module)
    check_loggers([name])


def test_mlflow_without_a_server_needs_its_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    module = ModuleType("mlflow")
    module.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "mlflow", module)  # mlflow-skinny
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(MissingDependencyError, match=r"pip install mlflow$"):
        check_loggers(["mlflow"])


@dataclass
class Made:
    """What Lightning's logger was made with."""

    kind: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def test_each_logger_is_made_once_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_lightning import loggers as kinds

    for kind in ("CSVLogger", "TensorBoardLogger", "WandbLogger", "MLFlowLogger"):
        monkeypatch.setattr(
            kinds, kind, lambda *args, _kind=kind, **options: Made(_kind, args, options)
        )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "age.run"
    made: list[Any] = make_loggers(run, ["wandb", "mlflow", "tensorboard", "wandb"])
    assert [one.kind[:3] for one in made] == ["CSV", "Wan", "MLF", "Ten"]
    assert made[1].options == {"name": "age", "project": "numclip", "save_dir": run}
    assert made[2].options == {
        "run_name": "age",
        "tracking_uri": f"sqlite:///{run / 'mlflow.db'}",
        "artifact_location": run.as_uri(),
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    (_, server) = make_loggers(run, ["mlflow"])
    assert server.options["tracking_uri"] == "http://host:5000"  # type: ignore[attr-defined]
    assert make_loggers(None, ["wandb"]) == []
