"""Measure the memory of a process that streams many images: it must stay flat.

Run from the repository: `python benchmarks/memory.py model.onnx --images photos`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

if __name__ == "__main__":  # run as a script: the package `benchmarks` is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench.images import open_images
from benchmarks.bench.machine.environment import describe_environment, load_average
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import ModelError, UsageError
from numclip_runtime.files import atomic_text, sha256

STATUS = Path("/proc/self/status")  # Linux; VmRSS and VmHWM, the peak, in kB

# A process of its own, which loads the runtime and nothing else.
_CHILD = """
import itertools, json, sys, time
from numclip_runtime import load

def kib(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name + ":"))

task = json.load(sys.stdin)
start = time.perf_counter()
with load(task["model"], **task["options"]) as predictor:
    images = itertools.islice(itertools.cycle(task["paths"]), task["count"])
    for done, result in enumerate(predictor.stream(images, **task["stream"]), 1):
        if isinstance(result, Exception):
            raise result
        if done % task["every"] == 0 or done == task["count"]:
            seconds = time.perf_counter() - start
            sample = {"images": done, "rss_kib": kib("VmRSS"), "peak_kib": kib("VmHWM")}
            print(json.dumps({**sample, "seconds": seconds}), flush=True)
"""


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
        run(**options, argv=sys.argv)


def run(
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
) -> dict[str, Any]:
    """Measure and print; return what is in the JSON.

    Args:
        model: Exported model.
        images: Folder, read again and again; None makes synthetic images.
        count: Images in all.
        every: Images between two samples; growth counts from the first one.
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
        raise UsageError(f"memory is read from {STATUS}, which Linux has.")
    if every >= count:
        raise UsageError(f"--every {every} leaves one sample of {count}; make it smaller.")
    load_before = load_average()
    with ExitStack() as stack:
        file = stack.enter_context(atomic_text(json_path)) if json_path else None
        found = stack.enter_context(open_images(images))
        task = {
            "model": str(model),
            "options": {"backend": backend, "device": "cpu", "optimize_for": "throughput"},
            "paths": found.paths,
            "count": count,
            "every": every,
            "stream": {"batch_size": batch_size, "workers": workers},
        }
        click.echo(f"{model.name}; {found}\n\n  images     RSS MiB    peak MiB    images/s")
        samples = _samples(task)
        first, last = samples[0]["rss_kib"], samples[-1]["rss_kib"]
        report = {
            "environment": describe_environment(argv=argv, load_before=load_before),
            "images": found.description,
            "model": {"name": model.name, "sha256": sha256(model)},
            "samples": samples,
            "growth": last / first - 1,
        }
        click.echo(
            f"\nRSS after {samples[0]['images']} images {first / 1024:.1f} MiB, after "
            f"{samples[-1]['images']} {last / 1024:.1f} MiB: {report['growth']:+.2%}; "
            f"peak {samples[-1]['peak_kib'] / 1024:.1f} MiB."
        )
        if file is not None:
            json.dump(report, file, indent=1)
            file.write("\n")
    return report


def _samples(task: dict[str, Any]) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", _CHILD]
    samples = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        json.dump(task, process.stdin)
        process.stdin.close()
        for line in process.stdout:
            sample = json.loads(line)
            samples.append(sample)
            rss, peak = (sample[name] / 1024 for name in ("rss_kib", "peak_kib"))
            rate = sample["images"] / sample["seconds"]
            click.echo(f"{sample['images']:>8}  {rss:>10.1f}  {peak:>10.1f}  {rate:>10.1f}")
    if process.returncode:
        raise ModelError(f"{task['model']}: the process failed, exit code {process.returncode}.")
    return samples


if __name__ == "__main__":
    main()
