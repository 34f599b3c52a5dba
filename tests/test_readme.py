"""Every code block of README and site is run, or a comment before it gives the reason why not."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.export.conftest import exporter_runs_once  # noqa: F401  a fixture, which acts here too

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)  # a page that is a file of the root
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# In place of networks that would have to be downloaded, and of an hour of training
STAND_INS = {
    "--backbone ViT-B-16 --pretrained openai": "--backbone tiny.json --pretrained weights.pt",
    "--backbone timm/mobilenetv2_100": "--backbone timm/test_resnet --image-size 64 --workers 0",
    "--max-loss 5": "--max-loss 100",  # two epochs teach little
}
SHORT = ["--epochs", "2", "--workers", "0"]  # of a training with epochs


def _pages(entries: list[dict[str, object]]) -> Iterator[Path]:
    for entry in entries:
        for target in entry.values():
            if isinstance(target, str):
                yield ROOT / "docs" / target
            else:
                assert isinstance(target, list)
                yield from _pages(target)


SITE = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
PAGES = [ROOT / "README.md", *_pages(SITE["nav"])]


@dataclass(frozen=True)
class Block:
    place: str  # "README.md:14"
    language: str
    text: str
    reason: str | None  # why it is not run

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a block of shell commands."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def text_of(page: Path) -> str:
    """Return a page's text, with the file that it includes."""
    text = page.read_text("utf-8")
    return INCLUDED.sub(lambda found: (ROOT / found[1]).read_text("utf-8"), text)


def blocks_of(page: Path) -> list[Block]:
    text = text_of(page)
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


BLOCKS = {page: blocks_of(page) for page in PAGES}
EVERY = [block for blocks in BLOCKS.values() for block in blocks]


def test_blocks_are_of_kinds_that_are_run() -> None:
    assert {block.language for block in EVERY} <= {"", "toml", "json", "python"}


def test_every_page_is_in_the_navigation() -> None:
    assert sorted(PAGES[1:]) == sorted((ROOT / "docs").rglob("*.md"))


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {
        extra
        for page in PAGES
        for group in re.findall(r"'(?:numclip|\.)\[([\w,]+)\]'", text_of(page))
        for extra in group.split(",")
    }
    assert named
    assert named <= set(project["optional-dependencies"])


def test_scripts_and_targets_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for block in EVERY:
        for words in block.commands if block.language == "" else ():
            assert words[0] != "make" or words[1] in targets
            assert words[0] != "python" or words[1] == "-m" or (ROOT / words[1]).is_file()


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text("utf-8")):
            assert "://" in target or (page.parent / target).exists(), (page.name, target)


def test_tasks(tmp_path: Path) -> None:
    from numclip.tasks import load_task

    for block in EVERY:
        if block.language == "toml":
            (tmp_path / "task.toml").write_text(block.text, "utf-8")
            assert load_task(str(tmp_path / "task.toml")).num_bins >= 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, exporter_runs_once: None) -> Path:  # noqa: F811
    """Return a folder with what the pages take for granted: data, weights, a trained model."""
    import torch
    from safetensors.torch import save_file

    from numclip.checkpoint import Checkpoint, save_checkpoint
    from numclip.model.backbone import build_clip
    from numclip_export import ExportOptions, run_export
    from tests.numclip.tiny import TOWERS, VIT, spec_of, tiny_model, write_photos

    home = tmp_path_factory.mktemp("pages")
    for name, count in (("train", 40), ("val", 10), ("test", 6)):
        write_photos(home, name, count)
    shutil.copytree(home / "test", home / "photos")
    for picture in (home / "val").iterdir():
        shutil.copy(picture, home / "photos" / f"val-{picture.name}")
    for name in ("a.jpg", "b.jpg", "photo.jpg"):
        shutil.copy(next((home / "photos").iterdir()), home / name)
    (home / "tiny.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    small = {**TOWERS["vit"], "vision_cfg": {**VIT, "width": 16}}  # than that of the checkpoint
    (home / "small.json").write_text(json.dumps(small), "utf-8")
    torch.manual_seed(0)
    torch.save(build_clip(TOWERS["vit"]).state_dict(), home / "weights.pt")
    import timm  # after open_clip, which makes room for it beside a torchvision without kernels

    tower = timm.create_model("test_resnet", pretrained=False)
    save_file(tower.state_dict(), home / "mobilenet.safetensors")
    for block in EVERY:
        if block.language == "toml":
            (home / "crowd.toml").write_text(block.text, "utf-8")
    trained = Checkpoint(tiny_model(), spec_of("vit"), {}, str(home / "val.csv"))
    for name in ("checkpoint.pt", "x.pt"):
        save_checkpoint(home / name, trained)
    run_export(ExportOptions(home / "checkpoint.pt", home / "checkpoint.onnx"))
    shutil.copy(home / "checkpoint.onnx", home / "model.onnx")
    return home


def run(words: list[str], place: str) -> str:
    """Run a command in this process, and return what it prints."""
    from numclip.entry import main

    if words[1] in ("train", "distill") and "probe" not in words:
        words = [*words, *SHORT]
    assert words[0] == "numclip", (place, words)
    done = CliRunner().invoke(main, words[1:])
    assert done.exit_code == 0, (place, words, done.output, done.exception)
    return done.stdout


@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCKS[p]], ids=lambda page: f"{page.parent.name}/{page.name}"
)
def test_page(page: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    if page.name in ("distill.md", "commands.md"):  # which of two tiny networks is faster is chance
        monkeypatch.setattr(
            "numclip.distillation.trade.lower_quartiles_ms", lambda runs: [2.0, 1.0]
        )
    for block in BLOCKS[page]:
        if block.reason is not None:
            continue
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), {})
        if block.language == "":
            text = block.text
            for shown, stand_in in STAND_INS.items():
                text = text.replace(shown, stand_in)
            for words in Block(block.place, "", text, None).commands:
                if words[0] != "pip":  # its extras are checked above; make and .ci/run install them
                    run(words, block.place)


def test_records(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    from numclip.entry import main

    done = CliRunner().invoke(main, ["run", "model.onnx", "photos", "none.jpg"])
    kinds = {tuple(json.loads(line)) for line in done.stdout.splitlines()}
    for block in EVERY:
        if block.language == "json":
            shown = [json.loads(line) for line in block.text.splitlines()]
            assert {tuple(record) for record in shown} == kinds
            assert all(list(r["bin_probs"]) for r in shown if "value" in r)
