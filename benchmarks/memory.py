"""Measure the memory of a process that streams many images: it must stay flat.

Run from the repository: `python benchmarks/memory.py model.onnx --images photos`.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.images import open_images
from benchmarks.bench.machine.environment import script_report
from benchmarks.bench.processes.programs import STATUS
from benchmarks.bench.processes.worker import Worker
from benchmarks.bench.results import from_plain
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import UsageError
from numclip_runtime.files import sha256

STREAMER = "benchmarks.bench.processes.programs:stream_images"


@dataclass(frozen=True)
class Sample:
    """Memory of the process after some images."""

    images: int  # so far
    rss_kib: int
    peak_kib: int
    seconds: float  # since it began to load the model


@click.command(context_settings=SETTINGS)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option("--count", type=click.IntRange(2), default=20_000, show_default=True)
@click.option("--every", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--backend", type=click.Choice(("onnxruntime", "openvino")))
@click.option("--batch-size", type=click.IntRange(1), help="Default: automatic.")
@click.option("--workers", type=click.IntRange(1), help="Default: automatic.")
@click.option("--json", "json_path", type=FILE, help="Write all samples.")
def main(**options: Any) -> None:
    """Stream --count images of a folder, again and again, and print the memory on the way."""
    with exit_on_error():
        measure_memory(**options, argv=sys.argv)


def measure_memory(
    model: Path,
    *,
    images: Path | None = None,
    count: int = 20_000,
    every: int = 1000,
    backend: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    json_path: Path | None = None,
    argv: list[str],
) -> list[Sample]:
    """Measure, print, and write the JSON; growth counts from the first sample.

    Args:
        model: Exported model.
        images: Folder, read again and again; None makes synthetic images.
        count: Images in all.
        every: Images between two samples.
        backend: None: by the model.
        batch_size: None: automatic.
        workers: None: automatic.
        json_path: File for all samples.
        argv: Command line, script first; named in the JSON.

    Raises:
        UsageError: if the system is not Linux, or there is one sample only.
        ModelError: if the process fails.
    """
    if not STATUS.exists():
        raise UsageError(f"memory is read from {STATUS}, which only Linux has.")
    if every >= count:
        raise UsageError(f"--every {every} leaves one sample of {count}; make it smaller.")
    task = {
        "model": str(model),
        "count": count,
        "every": every,
        "options": {"backend": backend, "device": "cpu", "optimize_for": "throughput"},
        "stream": {"batch_size": batch_size, "workers": workers},
    }
    samples = []
    with script_report(json_path, argv) as write, open_images(images) as found:
        click.echo(f"{model.name}; {found.about}\n\n  images     RSS MiB    peak MiB    images/s")
        with Worker(STREAMER, str(model), paths=found.paths, **task) as worker:
            for answer in itertools.chain([worker.first], worker.rest()):
                sample = from_plain(Sample, answer)
                samples.append(sample)
                rss, peak = sample.rss_kib / 1024, sample.peak_kib / 1024
                rate = sample.images / sample.seconds
                click.echo(f"{sample.images:>8}  {rss:>10.1f}  {peak:>10.1f}  {rate:>10.1f}")
        first, last = samples[0], samples[-1]
        growth = last.rss_kib / first.rss_kib - 1
        click.echo(
            f"\nRSS after {first.images} images {first.rss_kib / 1024:.1f} MiB, after "
            f"{last.images} {last.rss_kib / 1024:.1f} MiB: {growth:+.2%}; "
            f"peak {last.peak_kib / 1024:.1f} MiB."
        )
        about = {"name": model.name, "sha256": sha256(model)}
        write(images=found.about, model=about, samples=samples, growth=growth)
    return samples


if __name__ == "__main__":
    main()
