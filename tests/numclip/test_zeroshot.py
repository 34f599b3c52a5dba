"""Zero-shot: what open_clip itself says of the same sentences, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from numclip.checkpoint import load_checkpoint
from numclip.cli.zeroshot import main
from numclip.model.backbone import build_clip, open_clip
from numclip_export import ExportOptions, run_export
from numclip_runtime import load
from tests.numclip.tiny import TASK, TOWERS, write_photos


@pytest.mark.parametrize("tower", list(TOWERS))
def test_equals_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tower: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    clip: Any = build_clip(TOWERS[tower]).eval()
    torch.save(clip.state_dict(), "weights.pt")
    Path("tiny.json").write_text(json.dumps(TOWERS[tower]), "utf-8")
    lines = (f"{key} = {json.dumps(value)}" for key, value in TASK.to_dict().items())
    Path("task.toml").write_text("\n".join(lines), "utf-8")
    photo = write_photos(tmp_path, "photos", 3)[1].path

    command = "--task task.toml --backbone tiny.json --pretrained weights.pt -o zero.pt"
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(Path("zero.pt"))
    assert not list(checkpoint.model.image_adapter.parameters())

    run_export(ExportOptions(Path("zero.pt"), Path("zero.onnx")))
    with load("zero.onnx") as predictor, torch.no_grad():
        inputs = predictor.preprocess(photo)[None]
        got = predictor.predict(photo)
        text = open_clip.tokenize([f"{TASK.context} {phrase}." for phrase in TASK.phrases])
        logits, _ = clip.get_logits(torch.from_numpy(inputs), text)
    probs = logits.softmax(-1)[0]
    assert list(got.bin_probs.values()) == pytest.approx(probs.tolist(), abs=1e-5)
    edges = torch.tensor(TASK.bin_edges)
    centres = (edges[1:] + edges[:-1]) / 2
    value = (probs * centres).sum().item() + TASK.label_offset
    assert got.value == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--task nope --pretrained x.pt", "unknown task 'nope'"),
        ("--task age --pretrained opneai", "'opneai' is neither a file nor a tag of open_clip"),
        ("--task age --backbone ViT-B-32 --pretrained nope", "nope"),
        ("--task age --backbone nope --pretrained openai", "unknown backbone 'nope'"),
    ],
)
def test_bad_input(flags: str, message: str) -> None:
    result = CliRunner().invoke(main, flags.split())
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
