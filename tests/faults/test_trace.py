"""No command reaches the network, or writes anything but its outputs and scratch files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import COMMANDS, missing
from tests.faults.trace import joined, strace, traced

pytestmark = pytest.mark.skipif(strace() is None, reason="strace is missing, or may not trace")

START = "from {module} import main; main()"
MODULES = {
    "run": "numclip_runtime.cli",
    "run-json": "numclip_runtime.cli",
    "eval": "numclip.cli.evaluate",
    "export": "numclip_export.cli",
    "train": "numclip.cli.train",
}


@pytest.mark.parametrize("name", MODULES)
def test_only_outputs_are_written_and_no_socket_is_made(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    if absent := missing(command):
        pytest.skip(f"{absent[0]} is not installed")
    folder, home = tmp_path / "work", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    command.prepare(folder)
    before = set(folder.rglob("*"))
    trace = traced(START.format(module=MODULES[name]), command.args, folder, home)
    assert trace.code == 0, trace.stderr
    assert trace.sockets == []
    assert trace.outside(folder, home) == set()
    assert trace.changed & before == set()  # inputs
    outputs = {folder / output.rstrip("/") for output in command.outputs}
    parts = {path for path in trace.changed if ".part" in path.name}
    inside = trace.outside(home, *outputs) - parts
    assert inside == set()
    assert any(output in trace.changed for output in outputs)  # it was seen at work


LOAD = """
import sys
from pathlib import Path
from numclip.checkpoint import load_checkpoint
from numclip_runtime import ModelError
for path in sys.argv[1:]:
    try:
        load_checkpoint(Path(path))
    except ModelError as error:
        print(error, file=sys.stderr)
"""
# Towers that open_clip and timm would fetch from Hugging Face
FETCHED: tuple[dict[str, dict[str, Any]], ...] = (
    {"text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}},
    {"vision_cfg": {"timm_model_name": "hf-hub:timm/resnet18.a1_in1k", "image_size": 32}},
    {"vision_cfg": {"timm_model_name": "resnet18", "timm_model_pretrained": True}},
)


def test_loading_a_checkpoint_fetches_nothing(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tests.numclip.tiny import TASK, TOWERS

    paths = []
    for i, change in enumerate(FETCHED):
        config: dict[str, Any] = {**TOWERS["vit"]}
        for key, values in change.items():
            config[key] = values if "timm_model_name" in values else config[key] | values
        content = {
            "format": "numclip-checkpoint",
            "schema_version": 1,
            "config": {"clip": config, "prompts": {}},
            "task": TASK.to_dict(),
            "preprocessing": {"crop": 32, "resize": 36},
            "metrics": {},
            "validation_csv": None,
            "versions": {},
            "state_dict": {"x": torch.zeros(1)},
        }
        paths.append(str(tmp_path / f"hostile{i}.pt"))
        torch.save(content, paths[-1])
    home = tmp_path / "home"
    home.mkdir()
    trace = traced(LOAD, paths, tmp_path, home)
    assert trace.code == 0, trace.stderr
    assert [line.split(":")[0] for line in trace.stderr.splitlines()] == paths
    assert trace.sockets == []
    assert trace.outside(home) == set()


def test_the_trace_sees_sockets_and_files(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    code = (
        "import socket, pathlib, os; socket.socket(socket.AF_INET).close()\n"
        "socket.socket(socket.AF_UNIX).close(); pathlib.Path('a').write_text('x')\n"
        "pathlib.Path('a').rename('b'); open('b').close(); open(os.devnull, 'w').close()\n"
    )
    trace = traced(code, [], tmp_path, home)
    assert trace.code == 0, trace.stderr
    assert len(trace.sockets) == 1
    assert trace.outside(home) == {tmp_path / "a", tmp_path / "b"}


def test_a_call_in_two_lines_is_one() -> None:
    lines = ['7 rename("a", "b" <unfinished ...>', "8 close(3) = 0", "7 <... rename resumed>) = 0"]
    assert list(joined(lines)) == ["8 close(3) = 0", '7 rename("a", "b") = 0']
