"""Measure how many images of a folder are predicted per second, against a textbook loop.

Run from the repository: `python benchmarks/folder.py fp32.onnx int8.onnx --images photos`.
"""

from __future__ import annotations

import inspect
import itertools
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

if __name__ == "__main__":  # run as a script: the package `benchmarks` is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench.folder_runners import Program, Rates, StreamOf, TextbookLoop, by_turns
from benchmarks.bench.images import open_images
from benchmarks.bench.machine.environment import describe_environment, load_average
from numclip_runtime import Predictor, UsageError, load
from numclip_runtime.backends import BackendName
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.files import atomic_text, sha256

LOOP = "textbook loop, fp32"
CHUNK = 50  # images; a stream fills and empties its window once in each


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
        run(**options, argv=sys.argv)


def run(
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
) -> dict[str, Any]:
    """Measure, print the table, write the JSON; return what is in it.

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
    if fast_decode and "fast_decode" not in inspect.signature(load).parameters:
        raise UsageError("--fast-decode: this numclip cannot decode so.")
    load_before = load_average()
    with ExitStack() as stack:
        file = stack.enter_context(atomic_text(json_path)) if json_path else None
        found = stack.enter_context(open_images(images))
        paths = list(itertools.islice(itertools.cycle(found.paths), repeat_to))

        def opened(model: Path, **more: Any) -> Predictor:
            options: dict[str, Any] = {
                "backend": backend,
                "device": "cpu",
                "optimize_for": "throughput",
            }
            return stack.enter_context(load(model, **options, **more))

        streams = {
            "stream, fp32": StreamOf(opened(model_fp32), workers=workers),
            "stream, best": StreamOf(opened(model_best), workers=workers),
        }
        if fast_decode:
            fast = opened(model_best, fast_decode=True)
            streams["stream, best, fast decode"] = StreamOf(fast, workers=workers)
        exact = streams["stream, fp32"].predictor
        loop = TextbookLoop(model_fp32, exact.metadata)
        programs: dict[str, Program] = {LOOP: loop}
        for name, stream in streams.items():
            stream.prepare(found.paths[: 4 * stream.plan.batch_size])
            programs |= {name: stream, f"{name}: decode": stream.decode}
            programs[f"{name}: infer"] = stream.infer
        sample = found.paths[:20]
        drift = _drift(loop(sample), {name: stream(sample) for name, stream in streams.items()})
        seconds = by_turns(programs, paths, chunk=min(CHUNK, len(paths)))
        found_rows = rows(seconds, streams, len(paths))
        report: dict[str, Any] = {
            "environment": describe_environment(argv=argv, load_before=load_before),
            "images": found.description | {"predicted": len(paths), "chunk": CHUNK},
            "models": {
                path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
                for path in (model_fp32, model_best)
            },
            "rows": found_rows,
            "largest_difference_to_loop": drift,  # of values, in the task's unit
        }
        click.echo(f"{found}; {len(paths)} predicted, by turns, {CHUNK} at a time.\n")
        click.echo(table(found_rows))
        worst = ", ".join(f"{name} {value:.4f}" for name, value in drift.items())
        click.echo(f"\nLargest difference of a value to the loop's: {worst}.")
        if file is not None:
            json.dump(report, file, indent=1)
            file.write("\n")
    return report


def rows(
    seconds: dict[str, list[float]], streams: dict[str, StreamOf], count: int
) -> list[dict[str, Any]]:
    """Turn seconds per chunk into one row per program that predicts.

    Args:
        seconds: See `by_turns`; "NAME", and for streams "NAME: decode" and "NAME: infer".
        streams: By name.
        count: Images that each program got.
    """
    found: list[dict[str, Any]] = []
    for name in (LOOP, *streams):
        ratios = [loop / own for loop, own in zip(seconds[LOOP], seconds[name], strict=True)]
        row: dict[str, Any] = {
            "name": name,
            "images_per_s": count / sum(seconds[name]),
            "ratio": sum(seconds[LOOP]) / sum(seconds[name]),
            # over the chunks, each of which met one state of the machine
            "ratio_median": median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        if name in streams:
            stream = streams[name]
            backend, plan = stream.predictor.backend, stream.plan
            rates = Rates(
                *(
                    count / sum(seconds[part])
                    for part in (name, f"{name}: decode", f"{name}: infer")
                )
            )
            row |= {
                "backend": backend.name,
                "threads": backend.threads,
                "workers": plan.workers,
                "lanes": plan.lanes,
                "batch_size": plan.batch_size,
                "decode_images_per_s": rates.decode,
                "infer_images_per_s": rates.infer,
                "share_of_slowest_stage": rates.of_slowest,
                "share_of_shared_cores": rates.of_shared_cores,
            }
        found.append(row)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| | images/s | to the loop | decode alone | network alone | of slowest | of cores |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        ratio = f"{row['ratio']:.2f}x ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        cells = [row["name"], f"{row['images_per_s']:.1f}", ratio]
        if "decode_images_per_s" in row:
            cells += [f"{row[f'{part}_images_per_s']:.1f}" for part in ("decode", "infer")]
            cells += [f"{row[f'share_of_{of}']:.0%}" for of in ("slowest_stage", "shared_cores")]
        else:
            cells += ["", "", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _drift(expected: list[float], found: dict[str, list[float]]) -> dict[str, float]:
    return {
        name: float(np.abs(np.subtract(values, expected)).max()) for name, values in found.items()
    }


if __name__ == "__main__":
    main()
