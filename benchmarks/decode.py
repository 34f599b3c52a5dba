"""Measure what comes before the network: from JPEG files to its input, exactly and fast.

Run from the repository: `python benchmarks/decode.py photos/ --json decode.json`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
from PIL import Image

if __name__ == "__main__":  # run as a script: the package `benchmarks` is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench.decode_paths import SAME, Timing, measure, psnr, ways
from benchmarks.bench.images import write_synthetic
from benchmarks.bench.machine.environment import describe_environment, load_average
from numclip_runtime import Preprocessing
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.decode import decode
from numclip_runtime.files import atomic_text, find_images
from numclip_runtime.preprocess import least_side

ROUNDS = 5
SYNTHETIC = {"0.3": (640, 480), "2": (1632, 1224), "12": (4000, 3000)}  # megapixels -> size
SYNTHETIC_COUNT = 4  # of each size
CLASSES = (1.0, 4.0)  # megapixels at which a new class of sizes starts


@dataclass(frozen=True)
class Row:
    """One way on all files of one class of sizes; medians over the files."""

    size: str  # class, megapixels
    images: int
    megapixels: float
    way: str
    decode_ms: float
    preprocess_ms: float
    speed: float  # times as fast as the textbook
    scaled: int  # images that were decoded at a smaller size
    # To the textbook's input, of the 8-bit pixels behind it; SAME: equal
    psnr_db: float
    worst_psnr_db: float


def compare(
    paths: Sequence[str], spec: Preprocessing, *, rounds: int, tick: Callable[[], None]
) -> list[Row]:
    """Measure all ways on all files; one row for each class of sizes and way."""
    by = ways(spec)
    found: dict[int, list[tuple[float, int, dict[str, Timing], dict[str, float]]]] = {}
    for path in paths:
        scale = decode(path, least=least_side(spec)).scale  # also refuses broken files
        timings = measure(path, by, rounds=rounds)
        with Image.open(path) as image:
            megapixels = image.width * image.height / 1e6
        inputs = {name: finish(decoder(path)) for name, (decoder, finish) in by.items()}
        fidelity = {name: psnr(each, inputs["textbook"], spec) for name, each in inputs.items()}
        size = sum(megapixels >= edge for edge in CLASSES)
        found.setdefault(size, []).append((megapixels, scale, timings, fidelity))
        tick()
    rows = []
    for size, files in sorted(found.items()):
        for way in by:
            mine, fidelities = [f[2][way] for f in files], [f[3][way] for f in files]
            rows.append(
                Row(
                    size=_class_name(size),
                    images=len(files),
                    megapixels=median(f[0] for f in files),
                    way=way,
                    decode_ms=median(t.decode_ms for t in mine),
                    preprocess_ms=median(t.preprocess_ms for t in mine),
                    speed=median(t.ratio for t in mine),
                    scaled=sum(f[1] > 1 for f in files) if way == "fast" else 0,
                    psnr_db=median(fidelities),
                    worst_psnr_db=min(fidelities),
                )
            )
    return rows


def _class_name(size: int) -> str:
    if size == 0:
        return f"below {CLASSES[0]:g}"
    if size == len(CLASSES):
        return f"from {CLASSES[-1]:g}"
    return f"{CLASSES[size - 1]:g} to {CLASSES[size]:g}"


def table(rows: Sequence[Row]) -> str:
    """Return an aligned table of all rows."""
    head = ("MP", "images", "way", "decode", "preprocess", "speed", "scaled", "PSNR dB", "worst")
    lines: list[tuple[str, ...]] = [head]
    for r in rows:
        close = ("equal" if db == SAME else f"{db:.1f}" for db in (r.psnr_db, r.worst_psnr_db))
        ms = (f"{r.decode_ms:.2f}", f"{r.preprocess_ms:.2f}", f"{r.speed:.2f}x")
        lines.append((r.size, str(r.images), r.way, *ms, str(r.scaled), *close))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


@contextmanager
def files(folder: Path | None) -> Iterator[tuple[list[str], str]]:
    """Give the images of a folder, or for None synthetic ones of three sizes, and their name.

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
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, help="Turns per image.")
@click.option("--resize", type=click.IntRange(1), default=Preprocessing.resize, help="Pixels.")
@click.option("--crop", type=click.IntRange(1), default=Preprocessing.crop, help="Pixels.")
def main(folder: Path | None, json_path: Path | None, rounds: int, resize: int, crop: int) -> None:
    """Measure decoding and preprocessing of the images in FOLDER, in ms per image."""
    with exit_on_error():
        run(folder, Preprocessing(crop, resize), json_path=json_path, rounds=rounds, argv=sys.argv)


def run(
    folder: Path | None,
    spec: Preprocessing,
    *,
    rounds: int = ROUNDS,
    json_path: Path | None = None,
    argv: Sequence[str] = ("decode.py",),
) -> list[Row]:
    """Measure, print the table, write the JSON file; return the rows.

    Args:
        folder: Images; None makes synthetic ones.
        spec: What the network wants; resized by squashing, bilinearly.
        rounds: Timed turns per image.
        json_path: File for all numbers.
        argv: Command line, script first; named in the JSON.

    Raises:
        NumclipError: if an image or the output cannot be used.
    """
    with ExitStack() as stack:
        json_file = stack.enter_context(atomic_text(json_path)) if json_path else None
        paths, name = stack.enter_context(files(folder))
        load_before = load_average()
        with click.progressbar(
            length=len(paths), file=sys.stderr, hidden=not sys.stderr.isatty()
        ) as bar:
            rows = compare(paths, spec, rounds=rounds, tick=lambda: bar.update(1))
        environment = describe_environment(argv=argv, load_before=load_before) | {
            "images": {"name": name, "count": len(paths)},
            "rounds": rounds,
            "preprocessing": asdict(spec),
        }
        click.echo(
            f"ms per image, one thread, medians of {rounds} turns; {environment['cpu']}; {name}; "
            f"to {spec.crop} x {spec.crop}.\n\n{table(rows)}"
        )
        if json_file is not None:
            results = [asdict(row) for row in rows]
            json.dump({"environment": environment, "results": results}, json_file, indent=2)
            json_file.write("\n")
    return rows


if __name__ == "__main__":
    main()
