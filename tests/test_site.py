"""What the documentation says of the program is what the program does."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path

from numclip.training.recipes import RECIPES, RecipeName, recipe_of
from numclip_runtime import Calibration, ModelMetadata, Preprocessing, Task
from numclip_runtime.results.records import CSV_COLUMNS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROOMS = ("runtime", "numclip", "export")
COMMANDS = (
    *("numclip.cli.train", "numclip.cli.evaluate", "numclip.cli.zeroshot", "numclip.cli.convert"),
    *("numclip_export.cli", "numclip_runtime.app.cli", "benchmarks.latency", "benchmarks.real"),
    *("numclip_runtime.serve.serve_command", "benchmarks.serve", "numclip.cli.distill"),
)
# Options of pip, docker and torchrun
OF_OTHERS = {"--system-site-packages", "--shm-size", "--nproc-per-node", "--help", "--version"}
OF_OTHERS |= {"--model-repository", "--disable-auto-complete-config"}  # of tritonserver
OF_OTHERS |= {"--rm", "--read-only", "--user", "--cpus", "--build-arg", "--gpus", "--runtime"}
OF_OTHERS |= {"--data-binary"}  # of curl


def test_figures_are_those_of_the_script() -> None:
    drawn = dict(runpy.run_path(str(DOCS / "figures" / "draw.py"))["figures"]())
    kept = {path.name: path.read_text("utf-8") for path in (DOCS / "figures").glob("*.svg")}
    assert drawn == kept, "run: python docs/figures/draw.py"


def test_figures_of_light_pages_have_dark_ones() -> None:
    for page in DOCS.rglob("*.md"):
        light = re.findall(r"!\[(.+)\]\((.+)-light\.svg#gh-light-mode-only\)", page.read_text())
        dark = re.findall(r"!\[(.+)\]\((.+)-dark\.svg#gh-dark-mode-only\)", page.read_text())
        assert light == dark, page


@cache
def texts() -> str:
    """Return every text of the source, one a line; a field of an f-string is "…"."""

    def found(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.value
            elif isinstance(child, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) else "…"  # type: ignore[misc]
                    for part in child.values
                )
                for part in child.values:
                    yield from found(part)
            else:
                yield from found(child)

    sources = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return "\n".join(text for path in sources for text in found(ast.parse(path.read_text("utf-8"))))


def test_messages_are_said_by_the_program() -> None:
    rows = re.findall(r"^\| `(.+?)` \|", (DOCS / "troubleshooting.md").read_text("utf-8"), re.M)
    assert len(rows) > 30
    for message in rows:
        words = [part for part in re.split(r"…", message) if len(part.strip(" .;:,()[]'")) > 3]
        assert words, message
        assert all(part.strip(" ;:") in texts() for part in words), message


def test_format_page_names_every_field() -> None:
    text = (DOCS / "formats.md").read_text("utf-8")
    for kind in (ModelMetadata, Task, Preprocessing, Calibration):
        for field in fields(kind):
            assert f"`{field.name}`" in text, (kind.__name__, field.name)
    assert all(f"`{column}`" in text for column in CSV_COLUMNS)


def test_recipe_table_has_the_recipes_epochs() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| (\d+), (.+?) \|", (DOCS / "train.md").read_text(), re.M
    )
    assert [name for name, *_ in rows] == list(RECIPES)
    for name, epochs, schedule in rows:
        training = RECIPES[name].training
        assert int(epochs) == training.epochs
        drop = "cosine" if training.schedule == "cosine" else f"x0.1 at {training.drop_at}"
        assert schedule == drop


def test_rate_table_has_the_recipes_rates() -> None:
    page = (DOCS / "train.md").read_text("utf-8")
    cases: tuple[tuple[RecipeName, str, str], ...] = (
        ("finetune", "by name", "ViT-B-16"),
        ("finetune", "convolutional `timm/NAME`", "timm/mobilenetv2_100"),
        ("finetune", "a `.json` file", "x.json"),
        ("scratch", "by name", "ViT-B-16"),
        ("scratch", "a `.json` file", "x.json"),
    )
    for recipe, kind, backbone in cases:
        rates = recipe_of(recipe, "openai", backbone).training.rates
        row = re.search(rf"^\| `{recipe}` \| {re.escape(kind)} \| (.+) \|$", page, re.M)
        assert row, (recipe, kind)
        stated = {float(number) for number in re.findall(r"[\d.]+e-\d+", row[1])}
        assert stated == set(vars(rates).values()) - {0.0}, (recipe, kind, rates)


def test_readme_is_short_and_its_speeds_are_the_benchmark_pages() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 90
    page = (DOCS / "benchmarks.md").read_text("utf-8")
    table = page.partition("| ViT-B-32: ms")[2].partition("\n\n")[0]
    measured = dict(re.findall(r"^\| ([^|]+?) \| (.+) \|$", table, re.M))
    speeds = re.findall(
        r"^\| ([^|]+?) \| ([\d.]+ \([\d.]+\)(?: \| [\d.]+ \([\d.]+\))*) \|$", readme, re.M
    )
    assert len(speeds) == 6
    for name, cells in speeds:
        row = re.sub(r", [\d.]+-[\d.]+", "", measured[name]).split(" | ")  # without quartiles
        assert cells.split(" | ") == row[:2], name


def test_options_on_the_pages_exist() -> None:
    commands = [import_module(name).main for name in COMMANDS]
    known = {name for command in commands for param in command.params for name in param.opts}
    known |= {name for command in commands for p in command.params for name in p.secondary_opts}
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text("utf-8")))
        assert named <= known | OF_OTHERS, page
