"""Which calls fail, with which errors, and on whose files; and how one such case is run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tests.faults.harness import Fault, Result, Server, files_of, problems


@dataclass(frozen=True)
class Spot:
    """A kind of call on a kind of file."""

    call: str
    path: str  # text in the path
    errors: tuple[str, ...]
    named: str | None = None  # what a refusal must name; None: any file


DISK = ("EIO", "ENOSPC", "EPERM", "EINTR")
MOVE = ("EIO", "ENOSPC", "EPERM", "EBUSY")
READ = ("EIO", "EPERM", "EINTR")


def _reading(path: str, named: str | None = None) -> tuple[Spot, ...]:
    return (
        Spot("open", path, READ, named),
        Spot("read", path, READ, named),
        Spot("stat", path, ("EIO", "EPERM"), named),
        Spot("close", path, ("EIO",), named),
    )


def _writing(path: str, named: str | None = None) -> tuple[Spot, ...]:
    return (
        Spot("create", path, DISK, named),
        Spot("write", path, DISK, named),
        Spot("fsync", path, ("EIO", "ENOSPC"), named),
        Spot("close", path, ("EIO", "ENOSPC"), named),
        Spot("chmod", path, ("EPERM", "EIO"), named),
        Spot("rename", path, MOVE, named),
        Spot("unlink", path, ("EPERM", "EIO", "EBUSY"), named),
        Spot("truncate", path, ("EIO",), named),
    )


MODEL = (*_reading("model.onnx", "model.onnx"), Spot("mmap", "model.onnx", ("EIO",), "model.onnx"))
SPOTS: dict[str, tuple[Spot, ...]] = {
    "run": (*_reading("photos"), *MODEL, *_writing("out.", "out.jsonl")),
    "run-json": (
        *_writing("out.", "out.json"),
        *_writing("page.", "page.html"),  # not huge_pages.py
        *_writing("copies"),
        Spot("mkdir", "copies", MOVE, "copies"),
        *_reading("photos"),
    ),
    "run-csv": _writing("out.", "out.csv"),
    "run-parquet": _writing("out.", "out.parquet"),
    "run-resume": (
        *_writing("part-", "out"),
        *_writing("_manifest", "out"),
        *_reading("_manifest", "out"),
        Spot("mkdir", "out", MOVE, "out"),
    ),
    "export": (
        *_reading("x.pt", "x.pt"),
        *_reading("val"),
        *_writing(".onnx", ".onnx"),
        *_writing("report", "x.report.json"),
        *_writing("card", "x.card.md"),
    ),
    "train": (
        *_reading("train/"),
        *_reading("train.csv", "train.csv"),
        Spot("open", "backbone.json", READ, "backbone.json"),
        Spot("open", "task.toml", READ, "task.toml"),
        *_writing("out.pt", "out.pt"),
        *_writing("out.run", "out.run"),
        *_writing(".out."),
        Spot("mkdir", "out.run", MOVE, "out.run"),
    ),
    "train-safetensors": (
        *_writing("out.", "out.safetensors"),
        *_writing("logs", "logs"),
        *_reading("given.toml", "given.toml"),
    ),
    "distill": (
        *_reading("x.pt", "x.pt"),
        *_reading("train/"),
        *_writing("out.pt", "out.pt"),
        *_writing("out.distill", "out.distill.json"),
        *_writing("out.run", "out.run"),
    ),
    "eval": (
        *_reading("val.csv", "val.csv"),
        *_reading("photos/"),
        *MODEL,
        *_writing("metrics", "metrics.json"),
        Spot("mkdir", "figures", MOVE, "figures"),
    ),
}


def chosen(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers 1 to `count`: evenly spread, first and last included."""
    if count <= most:
        return list(range(1, count + 1))
    if most == 1:
        return [count]
    return sorted({1 + round(i * (count - 1) / (most - 1)) for i in range(most)})


def faults_of(server: Server, spot: Spot, most: int, errors: int = 99) -> Iterator[Fault]:
    """Yield the faults of a spot: counts its calls first. A full disk stays full."""
    counting = Fault(spot.call, "EIO", 0, spot.path)
    folder = server.fresh()
    count = server.start(folder, counting).count
    shutil.rmtree(folder)
    for nth in chosen(count, most):
        for error in spot.errors[:errors]:
            yield replace(counting, error=error, nth=nth, sticky=error == "ENOSPC")


def injected(server: Server, fault: Fault, named: str | None, *, old: bool) -> Result:
    """Run a command with one fault, and check it; its folder is removed if all is well."""
    folder = server.fresh(old=old)
    before = files_of(folder)
    result = server.start(folder, fault)
    result.problems = problems(
        server.command, result, folder, before, named=named if result.struck else None
    )
    if not result.problems:
        shutil.rmtree(folder)
    return result


def rotated(spots: Sequence[Spot], turn: int) -> list[Spot]:
    """Return the spots with their errors in another order, so that a smoke meets all of them."""
    return [
        replace(spot, errors=spot.errors[(i + turn) % len(spot.errors) :] + spot.errors)
        for i, spot in enumerate(spots)
    ]
