"""The commands under test on tiny inputs, and the files that each of them may leave behind."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

DATA = Path(__file__).parents[1] / "data"
PHOTOS = 8


@dataclass(frozen=True)
class Command:
    """One command line, in a folder of its own."""

    name: str  # numclip-NAME
    args: tuple[str, ...]
    outputs: tuple[str, ...]  # what it writes: names, or folders that end in /
    prepare: Callable[[Path], None]  # makes the inputs in an empty folder
    graph: str | None = None  # file that torch's exporter is replaced by


def _prepare_run(folder: Path) -> None:
    shutil.copy(DATA / "tiny.onnx", folder / "model.onnx")
    (folder / "photos").mkdir()
    for i in range(PHOTOS):
        kind = ("png", "jpg")[i % 2]
        Image.new("RGB", (16, 12), (30 * i, 20 * i, 10 * i)).save(folder / f"photos/{i}.{kind}")


def _prepare_train(folder: Path) -> None:
    from tests.numclip.tiny import TASK, TOWERS, write_photos

    write_photos(folder, "train", 10)
    write_photos(folder, "val", 5)
    (folder / "backbone.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")
    lines = (f"{key} = {json.dumps(value)}" for key, value in TASK.to_dict().items())
    (folder / "task.toml").write_text("\n".join(lines), "utf-8")
    (folder / "given.toml").write_text("workers = 0\n", "utf-8")


def _prepare_export(folder: Path) -> None:
    import onnx

    from numclip.checkpoint import load_checkpoint
    from numclip_export import FoldedModel, onnx_from_folded
    from tests.export.fragile import save_fragile

    model = load_checkpoint(save_fragile(folder, 1)).model
    onnx.save(onnx_from_folded(FoldedModel(model), 32), folder / "graph.onnx")


def _prepare_distill(folder: Path) -> None:
    from numclip.checkpoint import Checkpoint, save_checkpoint
    from tests.numclip.tiny import TOWERS, VIT, spec_of, tiny_model, write_photos

    write_photos(folder, "train", 12)
    large = {**TOWERS["vit"], "vision_cfg": {**VIT, "layers": 8}}  # slower than the student, surely
    save_checkpoint(folder / "x.pt", Checkpoint(tiny_model(clip=large), spec_of("vit")))
    (folder / "backbone.json").write_text(json.dumps(TOWERS["vit"]), "utf-8")


def _prepare_eval(folder: Path) -> None:
    _prepare_run(folder)
    rows = [f"photos/{i}.{('png', 'jpg')[i % 2]},{30 * i / PHOTOS}" for i in range(PHOTOS)]
    (folder / "val.csv").write_text("path,label\n" + "\n".join(rows) + "\n", "utf-8")


def run_command(output: str, *more: str, outputs: tuple[str, ...] = ()) -> Command:
    """Return numclip-run on the photos."""
    args = ("model.onnx", "photos", "-o", output, *more)
    return Command("run", args, (output, *outputs), _prepare_run)


TRAIN = "--train train.csv --val val.csv --task task.toml --backbone backbone.json --epochs 2"
DISTILL = "x.pt train --student backbone.json --epochs 2"
COMMANDS = {
    "run": run_command("out.jsonl"),
    "run-json": run_command(
        "out.json",
        "--report",
        "page.html",
        "--annotate",
        "copies",
        outputs=("page.html", "copies/"),
    ),
    "run-csv": run_command("out.csv", "--batch-size", "3"),
    "run-parquet": run_command("out.parquet"),
    "run-resume": run_command("out/", "--resume"),
    "export": Command(
        "export",
        ("--ckpt", "x.pt", "--fp16", "--target", "onnx", "--card"),
        (
            "x.onnx",
            "x.fp16.onnx",
            "x.onnx.sha256",
            "x.fp16.onnx.sha256",
            "x.report.json",
            "x.card.md",
        ),
        _prepare_export,
        "graph.onnx",
    ),
    "train": Command(
        "train",
        tuple(f"{TRAIN} --batch-size 4 --workers 0 -o out.pt".split()),
        ("out.pt", "out.run/"),
        _prepare_train,
    ),
    "train-safetensors": Command(
        "train",
        tuple(
            f"{TRAIN} --batch-size 4 --config given.toml -o out.safetensors --run-dir logs".split()
        ),
        ("out.safetensors", "logs/"),
        _prepare_train,
    ),
    "distill": Command(
        "distill",
        tuple(f"{DISTILL} --max-loss 60 --batch-size 4 --workers 0 -o out.pt".split()),
        ("out.pt", "out.distill.json", "out.run/"),
        _prepare_distill,
    ),
    "eval": Command(
        "eval",
        ("--model", "model.onnx", "--data", "val.csv", "-o", "figures"),
        ("figures/",),
        _prepare_eval,
    ),
}


NEEDS = {  # packages of each command
    "run": ("onnxruntime",),
    "export": ("torch", "onnxscript", "onnxruntime"),
    "train": ("torch", "pytorch_lightning"),
    "distill": ("torch", "pytorch_lightning"),
    "eval": ("torch", "onnxruntime"),
}


def missing(command: Command) -> list[str]:
    """Return the packages that a command needs and that are not installed; imports none."""
    return [name for name in NEEDS[command.name] if find_spec(name) is None]


def records(path: Path) -> list[dict[str, object]]:
    """Return the records of a run's output; raises if any part of the file is incomplete."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        found: list[dict[str, object]] = pyarrow.parquet.read_table(path).to_pylist()
        return found
    text = path.read_text("utf-8")
    if text and not text.endswith("\n"):
        raise ValueError("the last line is incomplete")
    if path.suffix == ".csv" and text:
        rows = list(csv.reader(io.StringIO(text), strict=True))
        if any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("a row is incomplete")
        return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    whole = json.loads(text) if path.suffix == ".json" else map(json.loads, text.splitlines())
    return list(whole)


def check_whole(path: Path) -> None:
    """Raise unless a file under a final name is complete."""
    name = path.name
    if name.startswith(("out.", "part-")) and path.suffix in (
        ".jsonl",
        ".json",
        ".csv",
        ".parquet",
    ):
        records(path)
    elif path.suffix == ".json":
        json.loads(path.read_text("utf-8"))
    elif path.suffix == ".html":
        if not path.read_text("utf-8").rstrip().endswith("</html>"):
            raise ValueError("the page has no end")
    elif path.suffix in (".png", ".jpg"):
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".onnx":
        from numclip_runtime import load

        with load(path, threads=1) as predictor:
            if not predictor.metadata.verified:
                raise ValueError("never compared")
    elif path.suffix == ".sha256":
        _check_sidecar(path)
    elif path.suffix in (".pt", ".safetensors"):
        from numclip.checkpoint import load_checkpoint

        load_checkpoint(path)
    elif path.suffix == ".ckpt":
        import torch

        torch.load(path, weights_only=True)
    elif path.suffix == ".md" and "\n## Versions" not in path.read_text("utf-8"):
        raise ValueError("the card has no end")


def _check_sidecar(path: Path) -> None:
    from numclip_runtime.files import sha256

    beside = path.with_suffix("")
    digest = path.read_text().split()[0]
    if beside.exists() and sha256(beside) != digest:
        raise ValueError("the checksum is that of another file")
