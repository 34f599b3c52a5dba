"""One checkpoint and its export for each tower, made once: each export takes seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch

from numclip.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from numclip_export import ExportOptions, ExportResult, run_export
from tests.numclip.tiny import TASK, spec_of, tiny_model, write_photos

METRICS = {"mae": 2.5, "bin_accuracy": 0.75}


@dataclass(frozen=True)
class Chain:
    """From a checkpoint to what the export left on disk."""

    tower: str
    ckpt: Path
    checkpoint: Checkpoint
    done: ExportResult
    graph: onnx.ModelProto


def make_chain(tower: str, folder: Path) -> Chain:
    """Save a random model beside 5 validation photos, and export it."""
    write_photos(folder, "val", 5)
    model = tiny_model(tower, task=replace(TASK, label_offset=100))
    torch.nn.init.constant_(model.logit_scale, 3.0)
    ckpt = folder / "checkpoint.pt"
    val = write_labels(folder)
    save_checkpoint(ckpt, Checkpoint(model, spec_of(tower), METRICS, str(val)))
    done = run_export(ExportOptions(ckpt, folder / "model.onnx"))
    return Chain(tower, ckpt, load_checkpoint(ckpt), done, onnx.load(done.onnx))


def write_labels(folder: Path) -> Path:
    """Write offset.csv: the photos of val.csv with labels of the chain's task."""
    path = folder / "offset.csv"
    path.write_text("path,label\n" + "".join(f"val/{i}.png,{100 + i}\n" for i in range(5)))
    return path
