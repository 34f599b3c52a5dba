"""Measure how many images of a folder are predicted per second, against a textbook loop.

Run from the repository: `python benchmarks/folder.py fp32.onnx int8.onnx --images photos`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.folder_runners import (
    Program,
    StreamOf,
    TextbookLoop,
    stream_shares,
    time_chunks,
)
from benchmarks.bench.images import open_images
from benchmarks.bench.machine.environment import script_report
from benchmarks.bench.output.table import markdown_lines
from numclip_runtime import Predictor, load
from numclip_runtime.backends import BackendName
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.files import sha256

LOOP = "textbook loop, fp32"
CHUNK = 50  # images; a stream fills and empties its window once in each


@dataclass(frozen=True)
class ProgramSpeed:
    """One program that predicted all images."""

    name: str
    images_per_s: float
    ratio: float  # to the loop, of the whole time
    ratio_median: float  # over the chunks, each of which met one state of the machine
    ratio_min: float
    ratio_max: float


@dataclass(frozen=True)
class StreamSpeed(ProgramSpeed):
    """A stream, beside its stages by themselves."""

    backend: str
    threads: int | None
    workers: int
    lanes: int
    batch_size: int
    decode_images_per_s: float
    infer_images_per_s: float
    share_of_slowest_stage: float
    share_of_shared_cores: float


@click.command(context_settings=SETTINGS)
@click.argument("model_fp32", type=FILE)
@click.argument("model_best", type=FILE)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option("--fast-decode", is_flag=True, help="Also with scaled JPEG decoding.")
@click.option("--repeat-to", type=click.IntRange(1), default=500, show_default=True)
@click.option("--backend", type=click.Choice(("onnxruntime", "openvino")), help="Of the streams.")
@click.option("--workers", type=click.IntRange(1), help="Default: automatic.")
@click.option("--json", "json_path", type=FILE, help="Write all figures.")
def main(**options: Any) -> None:
    """Stream a folder through MODEL_FP32 and MODEL_BEST; print images/s and ratios to the loop."""
    with exit_on_error():
        measure_folder(**options, argv=sys.argv)


def measure_folder(
    model_fp32: Path,
    model_best: Path,
    *,
    images: Path | None = None,
    fast_decode: bool = False,
    repeat_to: int = 500,
    backend: BackendName | None = None,
    workers: int | None = None,
    json_path: Path | None = None,
    argv: list[str],
) -> list[ProgramSpeed | StreamSpeed]:
    """Measure, print the table, write the JSON.

    Args:
        model_fp32: ONNX file, also run by the loop.
        model_best: Its fastest form.
        images: Folder; None makes synthetic images.
        fast_decode: Also stream `model_best` with `load(..., fast_decode=True)`.
        repeat_to: Images in all; the folder is repeated, or cut.
        backend: Of the streams; None: by the model.
        workers: Of the streams; None: automatic.
        json_path: File for all figures.
        argv: Command line, script first; named in the JSON.

    Raises:
        NumclipError: if a model, an image or the output cannot be used.
    """
    with ExitStack() as stack:
        write = stack.enter_context(script_report(json_path, argv))
        found = stack.enter_context(open_images(images))
        paths = list(itertools.islice(itertools.cycle(found.paths), repeat_to))

        def opened(model: Path, *, fast: bool = False) -> Predictor:
            return stack.enter_context(
                load(
                    model,
                    backend=backend,
                    device="cpu",
                    optimize_for="throughput",
                    fast_decode=fast,
                )
            )

        streams = {
            "stream, fp32": StreamOf(opened(model_fp32), workers=workers),
            "stream, best": StreamOf(opened(model_best), workers=workers),
        }
        if fast_decode:
            fast = StreamOf(opened(model_best, fast=True), workers=workers)
            streams["stream, best, fast decode"] = fast
        loop = TextbookLoop(model_fp32, streams["stream, fp32"].predictor.metadata)
        programs: dict[str, Program] = {LOOP: loop}
        for name, stream in streams.items():
            stream.prepare(found.paths[: 4 * stream.plan.batch_size])
            programs |= {name: stream, f"{name}: decode": stream.decode}
            programs[f"{name}: infer"] = stream.infer
        sample = found.paths[:20]
        expected = loop(sample)
        differences = {
            name: float(np.abs(np.subtract(stream(sample), expected)).max())
            for name, stream in streams.items()
        }
        seconds = time_chunks(programs, paths, chunk=min(CHUNK, len(paths)))
        rows = speeds(seconds, streams, len(paths))
        click.echo(f"{found.about}; {len(paths)} predicted, by turns, {CHUNK} at a time.\n")
        click.echo(speed_table(rows))
        worst = ", ".join(f"{name} {value:.4f}" for name, value in differences.items())
        click.echo(f"\nLargest difference of a value to the loop's: {worst}.")
        files = (model_fp32, model_best)
        write(
            images={**vars(found.about), "predicted": len(paths), "chunk": CHUNK},
            models={p.name: {"sha256": sha256(p), "bytes": p.stat().st_size} for p in files},
            rows=rows,
            largest_difference_to_loop=differences,  # stream -> of values, in the task's unit
        )
    return rows


def speeds(
    seconds: Mapping[str, list[float]], streams: Mapping[str, StreamOf], count: int
) -> list[ProgramSpeed | StreamSpeed]:
    """Turn seconds per chunk into one record per program that predicted `count` images.

    `seconds` is of `time_chunks`: "NAME", and for streams "NAME: decode" and "NAME: infer".
    """
    found: list[ProgramSpeed | StreamSpeed] = []
    total = {name: sum(times) for name, times in seconds.items()}
    for name in (LOOP, *streams):
        ratios = [loop / own for loop, own in zip(seconds[LOOP], seconds[name], strict=True)]
        speed = ProgramSpeed(
            name=name,
            images_per_s=count / total[name],
            ratio=total[LOOP] / total[name],
            ratio_median=median(ratios),
            ratio_min=min(ratios),
            ratio_max=max(ratios),
        )
        if name in streams:
            backend, plan = streams[name].predictor.backend, streams[name].plan
            decode, infer = (count / total[f"{name}: {stage}"] for stage in ("decode", "infer"))
            slowest, shared = stream_shares(speed.images_per_s, decode, infer)
            speed = StreamSpeed(
                **vars(speed),
                backend=backend.name,
                threads=backend.threads,
                workers=plan.workers,
                lanes=plan.lanes,
                batch_size=plan.batch_size,
                decode_images_per_s=decode,
                infer_images_per_s=infer,
                share_of_slowest_stage=slowest,
                share_of_shared_cores=shared,
            )
        found.append(speed)
    return found


def speed_table(rows: Sequence[ProgramSpeed]) -> str:
    """Return the rows as Markdown."""
    heading = (
        "",
        "images/s",
        "to the loop",
        "decode alone",
        "network alone",
        "of slowest",
        "of cores",
    )
    lines = []
    for row in rows:
        ratio = f"{row.ratio:.2f}x ({row.ratio_min:.2f} to {row.ratio_max:.2f})"
        cells = [row.name, f"{row.images_per_s:.1f}", ratio]
        if isinstance(row, StreamSpeed):
            cells += [f"{row.decode_images_per_s:.1f}", f"{row.infer_images_per_s:.1f}"]
            cells += [f"{row.share_of_slowest_stage:.0%}", f"{row.share_of_shared_cores:.0%}"]
        lines.append(cells + [""] * (len(heading) - len(cells)))
    return "\n".join(markdown_lines(heading, lines, [True] + [False] * 6))


if __name__ == "__main__":
    main()
