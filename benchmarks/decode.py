"""Measure what comes before the network: from JPEG files to its input, exactly and fast.

Run from the repository: `python benchmarks/decode.py photos/ --json decode.json`.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.decode_paths import SAME, DecodeTimes, psnr, time_ways, ways
from benchmarks.bench.images import write_synthetic
from benchmarks.bench.interleave import track
from benchmarks.bench.machine.environment import script_report
from numclip_runtime import Preprocessing
from numclip_runtime.console import FILE, SETTINGS, columns, exit_on_error
from numclip_runtime.images.decode import decode
from numclip_runtime.images.folder import find_images
from numclip_runtime.images.formats import open_image
from numclip_runtime.preprocess import least_side
from numclip_runtime.system import cpu_name

DECODE_ROUNDS = 5
SYNTHETIC = {"0.3": (640, 480), "2": (1632, 1224), "12": (4000, 3000)}  # megapixels -> size
SYNTHETIC_COUNT = 4  # of each size
CLASSES = (1.0, 4.0)  # megapixels at which a new class of sizes starts


@dataclass(frozen=True)
class WaySpeed:
    """One way on all files of one class of sizes; medians over the files."""

    size: str  # class, megapixels
    images: int
    megapixels: float
    way: str
    decode_ms: float
    preprocess_ms: float
    speed: float  # relative to the textbook
    scaled: int  # images that were decoded at a smaller size
    # To the textbook's input, of the 8-bit pixels behind it; SAME: equal
    psnr_db: float
    worst_psnr_db: float


def compare_ways(paths: Sequence[str], spec: Preprocessing, *, rounds: int) -> list[WaySpeed]:
    """Measure all ways on all files; one record for each class of sizes and way."""
    by = ways(spec)
    # (class, way) -> megapixels, scale, times and PSNR of each file
    found: dict[tuple[int, str], list[tuple[float, int, DecodeTimes, float]]] = defaultdict(list)
    for path in track("images", paths):
        scale = decode(path, least=least_side(spec)).scale  # also refuses broken files
        times = time_ways(path, by, rounds=rounds)
        with open_image(path) as opened:
            megapixels = opened.size[0] * opened.size[1] / 1e6
        inputs = {name: finish(decoder(path)) for name, (decoder, finish) in by.items()}
        size = sum(megapixels >= edge for edge in CLASSES)
        for name, each in inputs.items():
            fidelity = psnr(each, inputs["textbook"], spec)
            found[size, name].append((megapixels, scale, times[name], fidelity))
    return [
        WaySpeed(
            size=_class_name(size),
            images=len(files),
            megapixels=median(f[0] for f in files),
            way=way,
            decode_ms=median(f[2].decode_ms for f in files),
            preprocess_ms=median(f[2].preprocess_ms for f in files),
            speed=median(f[2].ratio for f in files),
            scaled=sum(f[1] > 1 for f in files) if way == "fast" else 0,
            psnr_db=median(f[3] for f in files),
            worst_psnr_db=min(f[3] for f in files),
        )
        for (size, way), files in sorted(found.items(), key=lambda item: item[0][0])
    ]


def _class_name(size: int) -> str:
    if size == 0:
        return f"below {CLASSES[0]:g}"
    if size == len(CLASSES):
        return f"from {CLASSES[-1]:g}"
    return f"{CLASSES[size - 1]:g} to {CLASSES[size]:g}"


def way_table(rows: Sequence[WaySpeed]) -> str:
    """Return an aligned table of all rows."""
    head = ("MP", "images", "way", "decode", "preprocess", "speed", "scaled", "PSNR dB", "worst")
    lines: list[tuple[str, ...]] = [head]
    for r in rows:
        close = ("equal" if db == SAME else f"{db:.1f}" for db in (r.psnr_db, r.worst_psnr_db))
        ms = (f"{r.decode_ms:.2f}", f"{r.preprocess_ms:.2f}", f"{r.speed:.2f}x")
        lines.append((r.size, str(r.images), r.way, *ms, str(r.scaled), *close))
    return "\n".join(columns(lines, ">" * len(head)))


@contextmanager
def image_files(folder: Path | None) -> Iterator[tuple[list[str], str]]:
    """Yield the images of a folder, or for None synthetic ones of three sizes, and their name.

    Raises:
        UsageError: if the folder holds no image.
    """
    if folder is not None:
        yield find_images([str(folder)]), folder.resolve().name
        return
    with tempfile.TemporaryDirectory(prefix="numclip-decode-") as temporary:
        paths = []
        for name, size in SYNTHETIC.items():
            (Path(temporary) / name).mkdir()
            paths += write_synthetic(Path(temporary) / name, count=SYNTHETIC_COUNT, size=size)
        yield paths, f"synthetic JPEGs of {', '.join(SYNTHETIC)} MP"


@click.command(context_settings=SETTINGS)
@click.argument("folder", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "json_path", type=FILE, help="Write all numbers.")
@click.option("--rounds", type=click.IntRange(1), default=DECODE_ROUNDS, help="Turns per image.")
@click.option("--resize", type=click.IntRange(1), default=Preprocessing.resize, help="Pixels.")
@click.option("--crop", type=click.IntRange(1), default=Preprocessing.crop, help="Pixels.")
def main(folder: Path | None, json_path: Path | None, rounds: int, resize: int, crop: int) -> None:
    """Measure decoding and preprocessing of the images in FOLDER, in ms per image."""
    with exit_on_error():
        spec = Preprocessing(crop, resize)
        measure_decoding(folder, spec, json_path=json_path, rounds=rounds, argv=sys.argv)


def measure_decoding(
    folder: Path | None,
    spec: Preprocessing,
    *,
    rounds: int = DECODE_ROUNDS,
    json_path: Path | None = None,
    argv: Sequence[str] = ("decode.py",),
) -> list[WaySpeed]:
    """Measure, print the table, write the JSON file; return the rows.

    Args:
        folder: Images; None makes synthetic ones.
        spec: Input of the network; images are resized by squashing, bilinearly.
        rounds: Timed turns per image.
        json_path: File for all numbers.
        argv: Command line, script first; named in the JSON.

    Raises:
        NumclipError: if an image or the output cannot be used.
    """
    with script_report(json_path, argv) as write, image_files(folder) as (paths, name):
        rows = compare_ways(paths, spec, rounds=rounds)
        click.echo(
            f"ms per image, one thread, medians of {rounds} turns; {cpu_name()}; {name}; "
            f"to {spec.crop} x {spec.crop}.\n\n{way_table(rows)}"
        )
        images = {"name": name, "count": len(paths)}
        write({"images": images, "rounds": rounds, "preprocessing": spec}, results=rows)
    return rows


if __name__ == "__main__":
    main()
