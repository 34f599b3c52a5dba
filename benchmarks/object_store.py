"""Measure images per second from an object store against those from the local disk, by turns.

Run from the repository: `python benchmarks/object_store.py model.onnx s3://bucket/new/`. The bucket
exists and takes files; credentials and AWS_ENDPOINT_URL come from the environment. The images are
made on the spot, put under the prefix, and deleted again.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import click
import numpy as np
from PIL import Image

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.images import QUALITY
from benchmarks.bench.machine.environment import script_report
from numclip_runtime import ImageError, Prediction, Predictor, load
from numclip_runtime.app.inputs import open_inputs
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import UsageError
from numclip_runtime.files import sha256
from numclip_runtime.images.folder import LeftOut
from numclip_runtime.remote.fetch import object_of
from numclip_runtime.remote.listing import find_objects

SMALL_SIDE = 96  # pixels
TURN = 500  # images from one source before the other has its turn


@dataclass(frozen=True)
class SourceSpeed:
    """Images of one source that were predicted."""

    source: str
    images_per_s: float  # of all chunks
    slowest: float  # chunk, images/s
    fastest: float  # chunk, images/s


@click.command(context_settings=SETTINGS)
@click.argument("model", type=FILE)
@click.argument("prefix")
@click.option("--count", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--store", default="", help="What the store is, for the JSON: moto, seaweedfs, ...")
@click.option("--json", "json_path", type=FILE, help="Write all figures.")
def main(model: Path, prefix: str, count: int, store: str, json_path: Path | None) -> None:
    """Predict COUNT images from a local folder and from PREFIX, by turns."""
    with exit_on_error():
        measure_store(model, prefix, count, store=store, json_path=json_path, argv=sys.argv)


def measure_store(
    model: Path, prefix: str, count: int, *, store: str, json_path: Path | None, argv: list[str]
) -> list[SourceSpeed]:
    """Measure, print, write the JSON.

    Raises:
        NumclipError: if the model, the store or the output cannot be used.
    """
    if not prefix.endswith("/"):
        raise UsageError(f"{prefix}: end the prefix with a slash.")
    with (
        script_report(json_path, argv) as write,
        tempfile.TemporaryDirectory(prefix="numclip-store-") as folder,
        load(model, device="cpu", optimize_for="throughput") as predictor,
    ):
        paths = write_images(Path(folder), count)
        started, there = perf_counter(), object_of(prefix)
        fs = there.store.fs
        with ThreadPoolExecutor(16) as pool:
            root = there.path.rstrip("/")
            places = [f"{root}/{path.parent.name}/{path.name}" for path in paths]
            list(pool.map(fs.put_file, map(str, paths), places))
        put_s, started = perf_counter() - started, perf_counter()
        listed = sum(1 for _ in find_objects(prefix, LeftOut()))
        list_s = perf_counter() - started
        assert listed == count
        seconds: dict[str, list[float]] = {"local disk": [], prefix: []}
        equal = 0
        for part in sorted({path.parent for path in paths}):
            turns = [("local disk", str(part)), (prefix, f"{prefix}{part.name}/")]
            if len(seconds[prefix]) % 2:
                turns.reverse()
            found: dict[str, list[float]] = {}
            for source, place in turns:
                begin = perf_counter()
                found[source] = values_of(predictor, place)
                seconds[source].append((perf_counter() - begin) / len(found[source]))
            equal += int(np.sum(np.equal(found["local disk"], found[prefix])))
        fs.rm(there.path, recursive=True)
        rows = [
            SourceSpeed(name, len(each) / sum(each), 1 / max(each), 1 / min(each))
            for name, each in seconds.items()
        ]
        ratio = median(a / b for a, b in zip(*seconds.values(), strict=True))
        click.echo(f"{count} JPEGs of {SMALL_SIDE} x {SMALL_SIDE}, {TURN} at a time by turns.")
        for row in rows:
            click.echo(
                f"{row.source}: {row.images_per_s:.0f} images/s "
                f"({row.slowest:.0f} to {row.fastest:.0f})"
            )
        click.echo(
            f"Store to disk: {ratio:.2f} (median of the turns); {equal} of {count} values equal; "
            f"listed in {list_s:.1f} s, put in {put_s:.1f} s."
        )
        write(
            {"store": store},
            images={"count": count, "side_px": SMALL_SIDE, "chunk": TURN},
            model={"name": model.name, "sha256": sha256(model)},
            rows=rows,
            store_to_disk=ratio,  # images/s, median over the turns
            equal_values=equal,
            list_s=list_s,
            put_s=put_s,
        )
    return rows


def write_images(folder: Path, count: int) -> list[Path]:
    """Write different JPEGs of noise, and return their paths in order."""
    random = np.random.default_rng(0)
    tile = random.integers(0, 256, (2 * SMALL_SIDE, 2 * SMALL_SIDE, 3), np.uint8)
    paths = []
    for i in range(count):
        x, y = int(random.integers(SMALL_SIDE)), int(random.integers(SMALL_SIDE))
        path = folder / f"{i // TURN:03}" / f"{i:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(tile[y : y + SMALL_SIDE, x : x + SMALL_SIDE]).save(path, quality=QUALITY)
        paths.append(path)
    return paths


def values_of(predictor: Predictor, place: str) -> list[float]:
    """Return the values of the images in a folder or prefix, which go the way of `numclip-run`."""
    inputs = open_inputs([place])
    found: list[Prediction | ImageError] = []
    for group in inputs.ready:
        found += predictor.stream(item.picture for item in inputs.fetched(group))
    inputs.close()
    failed = [result for result in found if not isinstance(result, Prediction)]
    assert not failed, failed[0]
    return [result.value for result in found if isinstance(result, Prediction)]


if __name__ == "__main__":
    main()
