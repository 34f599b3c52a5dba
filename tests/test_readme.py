"""Every code block of README and docs is run, or a comment before it gives the reason why not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# In place of a network that would have to be downloaded, and of an hour of training
STAND_INS = {
    "--backbone ViT-B-16 --pretrained openai": "--backbone tiny.json --pretrained weights.pt "
    "--epochs 2 --workers 0",
    "python benchmarks/": f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT))}/benchmarks/",
}


@dataclass(frozen=True)
class Block:
    place: str  # "README.md:14"
    language: str
    text: str
    reason: str | None  # why it is not run

    @property
    def commands(self) -> list[str]:
        """The lines of a block of shell commands, without their comments."""
        return [line.partition("  #")[0].strip() for line in self.text.splitlines()]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    blocks = [
        Block(
            f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}",
            match["language"],
            match["text"],
            match["reason"],
        )
        for match in FENCE.finditer(text)
    ]
    assert len(blocks) == len(re.findall(r"^```", text, re.MULTILINE)) / 2, page
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == ""]


def test_blocks_are_of_kinds_that_are_run() -> None:
    assert {block.language for block in BLOCKS} == {"", "toml", "json", "python"}


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {
        extra
        for page in PAGES
        for group in re.findall(r"'(?:numclip|\.)\[([\w,]+)\]'", page.read_text("utf-8"))
        for extra in group.split(",")
    }
    assert named
    assert named <= set(project["optional-dependencies"])


def test_scripts_and_targets_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for block in SHELL:
        for command in block.commands:
            words = command.split()
            assert words[0] != "make" or words[1] in targets
            assert words[0] != "python" or (ROOT / words[1]).is_file()


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert "://" in target or (page.parent / target).exists(), (page.name, target)


def test_tasks(tmp_path: Path) -> None:
    from numclip.tasks import load_task

    for block in BLOCKS:
        if block.language == "toml":
            (tmp_path / "task.toml").write_text(block.text, "utf-8")
            assert load_task(str(tmp_path / "task.toml")).num_bins >= 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which all shell blocks of the README were run, in order."""
    import torch

    from numclip.model.backbone import build_clip
    from tests.numclip.tiny import TOWERS, write_photos

    home = tmp_path_factory.mktemp("readme")
    for name, count in (("train", 12), ("val", 10), ("test", 6)):
        write_photos(home, name, count)
    shutil.copytree(home / "test", home / "photos")
    (home / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    torch.manual_seed(0)
    torch.save(build_clip(TOWERS["vit"]).state_dict(), home / "weights.pt")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in SHELL:
        for command in block.commands if block.reason is None else ():
            for text, stand_in in STAND_INS.items():
                command = command.replace(text, stand_in)
            if "x.pt" in command:
                shutil.copy(home / "checkpoint.pt", home / "x.pt")
            done = subprocess.run(
                command,
                shell=True,
                cwd=home,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (block.place, command, done.stderr)
    return home


def test_commands(home: Path) -> None:
    made = ("checkpoint.pt", "checkpoint.onnx", "evaluation/metrics.json", "x.fp16.onnx")
    assert all((home / name).stat().st_size > 0 for name in made)


def test_records(home: Path) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("numclip-run")),
            "checkpoint.onnx",
            "photos",
            "none.jpg",
        ],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    real = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = {tuple(record) for record in real}
    for block in BLOCKS:
        if block.language == "json":
            shown = [json.loads(line) for line in block.text.splitlines()]
            assert {tuple(record) for record in shown} == kinds
            assert all(list(r["bin_probs"]) for r in shown if "value" in r)


def test_python(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    shutil.copy(next((home / "photos").iterdir()), home / "a.jpg")
    for block in BLOCKS:
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), {})
