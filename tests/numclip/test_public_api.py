"""The names that `numclip` promises, where they come from, and how they are started."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import numclip
from numclip.cli.train import main

PUBLIC = (
    "Checkpoint DataConfig DistillOptions DistillResult EvaluationSource LearningRates ModelConfig "
    "NumClip Predictions Preprocessing PreprocessingConfig PromptConfig Recipe Sample TableOptions "
    "Task TrainConfig TrainOptions TrainResult calibrate convert distill evaluate_predictions fit "
    "load_checkpoint load_task read_samples recipe_of save_checkpoint train zero_shot"
)
SOURCE = Path(numclip.__file__).read_text("utf-8")
LIGHT = "print(*({'torch', 'open_clip', 'numpy', 'PIL', 'click'} & set(sys.modules)))"


def output_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names() -> None:
    assert numclip.__all__ == PUBLIC.split()
    assert set(numclip.__all__) <= set(dir(numclip))


@pytest.mark.parametrize("name", numclip.__all__)
def test_each_name_resolves(name: str) -> None:
    assert getattr(numclip, name).__name__ == name
    assert getattr(numclip, name).__module__.startswith(("numclip.", "numclip_runtime."))


def test_type_checkers_see_the_same_homes() -> None:
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.ImportFrom)]
    typed = {
        node.module: tuple(alias.name for alias in node.names)
        for node in imports
        if node.module and node.module.startswith("numclip")
    }
    assert typed == numclip._HOMES


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'numclip' has no attribute 'nothing'"):
        numclip.nothing  # noqa: B018


def test_import_loads_nothing() -> None:
    assert output_of("-c", f"import sys, numclip; {LIGHT}") == "\n"


@pytest.mark.parametrize("command", ["train", "convert", "zeroshot", "evaluate", "distill"])
def test_commands_show_their_help_without_torch(command: str) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'open_clip', 'tqdm'])); "
        f"from numclip.cli.{command} import main; main(['--help'])"
    )
    assert "--help" in output_of("-c", code)


def test_entry_points_that_people_type() -> None:
    from numclip.cli import main as same

    assert same is main
    assert "numclip.cli" in output_of("-m", "numclip.cli", "--help")  # as torchrun starts it
    scripts = {p.name: p.value for p in entry_points(group="console_scripts")}
    for name, module in (
        ("train", "numclip.entry:train"),
        ("convert", "numclip.entry:convert"),
        ("zeroshot", "numclip.entry:zeroshot"),
        ("eval", "numclip.entry:evaluate"),
        ("distill", "numclip.entry:distill"),
        ("export", "numclip_export.entry:export"),
        ("run", "numclip_runtime.cli:main"),
    ):
        assert scripts[f"numclip-{name}"] == module
    for point in entry_points(group="console_scripts"):
        if point.value.startswith("numclip"):
            with pytest.raises(SystemExit) as ended:
                point.load()(["--version"])
            assert ended.value.code == 0
