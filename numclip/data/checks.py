"""Checks before training: broken images, images that two sets share, images of each bin."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from numclip.data.samples import ImageFile, Sample
from numclip_runtime import ImageError, Task, UsageError
from numclip_runtime.console import WIDTH, columns, cut, visible
from numclip_runtime.files import sha256, sha256_of
from numclip_runtime.images.decode import MAX_CONTENT
from numclip_runtime.images.formats import open_image
from numclip_runtime.preprocess import load_rgb
from numclip_runtime.task import as_written

# none; header: Pillow opens and verifies the file (checksums of PNG, the header of JPEG);
# decode: every pixel, as training does.
ImageCheck = Literal["none", "header", "decode"]
NAMED = 5  # broken files that an error names
BAR = 10  # characters of the longest bar of `balance_table`
NUMBERS = 13  # characters of count and share before it


def broken_images(images: Sequence[ImageFile], check: ImageCheck) -> dict[ImageFile, str]:
    """Check images in threads (Pillow decodes outside the interpreter lock).

    A progress bar is drawn where stderr is a terminal.

    Args:
        images: Image files and members of tars; each is checked once.
        check: How thoroughly.

    Returns:
        The fault of each broken file, in the order of `images`.
    """
    if check == "none":
        return {}
    from tqdm import tqdm

    checks: dict[ImageCheck, Callable[[ImageFile], str | None]] = {
        "header": _verify,
        "decode": _decode,
    }
    distinct = list(dict.fromkeys(images))
    with _threads(min(8, os.cpu_count() or 1)) as pool:
        results = tqdm(
            pool.map(checks[check], distinct),
            desc="checking images",
            total=len(distinct),
            unit="",
            leave=False,
            disable=None,  # quiet when piped
        )
        return {image: fault for image, fault in zip(distinct, results, strict=True) if fault}


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool; an exception, such as that of Ctrl-C, does not wait for what is queued."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _decode(image: ImageFile) -> str | None:
    try:
        load_rgb(image)
    except ImageError as error:
        return str(error)
    return None


def _verify(image: ImageFile) -> str | None:
    try:
        # a member is read whole: archives lie in one piece on the disk
        source = image if isinstance(image, Path) else image.read(MAX_CONTENT)
        with open_image(source) as opened:
            opened.image.verify()
    except Exception:  # as many types as Pillow has plugins
        return _decode(image)  # a damaged comment, for example, takes nothing from the pixels
    return None


def without_broken(
    samples: Sequence[Sample], broken: dict[ImageFile, str], *, skip: bool, name: str
) -> list[Sample]:
    """Return the samples whose files are not broken.

    Args:
        samples: Samples of one set.
        broken: Return value of `broken_images`.
        skip: Drop broken ones; False refuses them.
        name: The set in errors, such as "training".

    Raises:
        UsageError: if there are broken files and `skip` is False, or nothing else is left.
    """
    faults = {s.image: broken[s.image] for s in samples if s.image in broken}
    kept = [sample for sample in samples if sample.image not in faults]
    if faults and (not skip or not kept):
        lines = [f"  {fault}" for fault in list(faults.values())[:NAMED]]
        if len(faults) > NAMED:
            lines.append(f"  and {len(faults) - NAMED} more")
        way_out = "or leave them out with --skip-broken." if kept else "none is left."
        lines.insert(0, f"{len(faults)} of {len(samples)} {name} images are broken:")
        lines.append(f"Repair or remove them, {way_out}")
        error = UsageError("\n".join(lines))
        error.lines = tuple(lines)
        raise error
    return kept


def still_readable(samples: Sequence[Sample], name: str, *, skip: bool) -> list[Sample]:
    """Return the samples that can be read; with `skip`, some may have broken in the meantime."""
    if not skip:
        return list(samples)
    broken = broken_images([sample.image for sample in samples], "decode")
    return without_broken(samples, broken, skip=True, name=name)


@dataclass(frozen=True)
class Leakage:
    """Images and groups that a set shares with a set it must be independent of."""

    same_path: tuple[Path, ...]  # files that are in both
    same_content: tuple[Path, ...]  # other files that equal one of the other set, byte by byte
    groups: tuple[str, ...]  # groups that have images in both, sorted


def find_leakage(held_out: Sequence[Sample], train: Sequence[Sample], *, contents: bool) -> Leakage:
    """Compare two sets.

    Args:
        held_out: Set to check, such as validation; its paths are reported.
        train: Set that the model learns from.
        contents: Compare contents as well; only files of equal size are read.
    """
    seen = {sample.path.resolve(): sample.image for sample in train}
    images = {sample.path: sample.image for sample in held_out}
    same_path = [path for path in images if path.resolve() in seen]
    others = {path: images[path] for path in sorted(set(images) - set(same_path))}
    same_content = _equal_files(others, seen.values()) if contents else []
    groups = ({s.group for s in held_out} & {s.group for s in train}) - {""}
    return Leakage(tuple(same_path), tuple(same_content), tuple(sorted(groups)))


def _equal_files(images: Mapping[Path, ImageFile], others: Iterable[ImageFile]) -> list[Path]:
    sizes = {path: _size(image) for path, image in images.items()}
    other_sizes = {image: _size(image) for image in others}
    common = Counter(sizes.values()).keys() & Counter(other_sizes.values()).keys()
    mine = [path for path, size in sizes.items() if size in common]
    theirs = [image for image, size in other_sizes.items() if size in common]
    with _threads(4) as pool:  # hashing releases the interpreter lock
        known = set(pool.map(_content_digest, theirs))
        digests = pool.map(_content_digest, map(images.__getitem__, mine))
        return [path for path, digest in zip(mine, digests, strict=True) if digest in known]


def _size(image: ImageFile) -> int:
    return image.stat().st_size if isinstance(image, Path) else image.size


def _content_digest(image: ImageFile) -> str:
    return sha256(image) if isinstance(image, Path) else sha256_of(io.BytesIO(image.read()))


def balance_table(sets: Mapping[str, Sequence[Sample]], task: Task, *, bar: str = "#") -> str:
    """Return an aligned table: one row per bin, and count, share and bar for each set.

    Args:
        sets: Samples by the heading of their column.
        task: Gives the bins; their edges are shown with the label offset, as labels are.
        bar: Character that bars are made of.
    """
    counts = {
        name: Counter(task.bin_of(sample.label) for sample in samples)
        for name, samples in sets.items()
    }
    ranges = (cut(task.unit or "label", 20), *label_ranges(task))
    room = WIDTH - 2 - max(map(len, ranges)) - len(counts) * (NUMBERS + 2)  # for phrases and bars
    longest = max(len(visible(phrase)) for phrase in task.phrases)
    # bars give way to phrases, down to two characters
    length = max(2, min(BAR, (room - longest - len(counts)) // len(counts)))
    phrases = [cut(name, max(8, room - len(counts) * (length + 1))) for name in task.phrases]
    table = [("bin", *phrases), ranges]
    table += [
        (f"{name:>6}", *(_cell(count, k, bar * length) for k in range(task.num_bins)))
        for name, count in counts.items()
    ]
    return "\n".join(columns(list(zip(*table, strict=True))))


def label_ranges(task: Task) -> list[str]:
    """Return the labels of each bin as text: "13 to 19", or "3" where labels are classes."""
    edges = [edge + task.label_offset for edge in task.bin_edges]
    if task.labels_are_classes:
        return [as_written(edge) for edge in edges[:-1]]
    return [f"{as_written(low)} to {as_written(high)}" for low, high in pairwise(edges)]


def _cell(counts: Counter[int], k: int, bar: str) -> str:
    length = max(round(len(bar) * counts[k] / max(counts.values())), 1) if counts[k] else 0
    return f"{counts[k]:>6} {counts[k] / counts.total():>6.1%} {bar[:length]}"


def bar_character() -> str:
    """Return a block where stdout can show one, else "#"."""
    try:
        "█".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeError:
        return "#"
    return "█"


def summary(name: str, samples: Sequence[Sample], task: Task) -> str:
    """Return one line: number of images, range of labels, several annotators if any."""
    labels = [sample.label for sample in samples]
    lowest, highest = as_written(min(labels)), as_written(max(labels))
    line = f"{name}: {len(samples)} images, labels {lowest} to {highest} {task.unit}".rstrip()
    several = sum(1 for sample in samples if sample.annotations)
    return f"{line}, {several} with several annotators" if several else line


def with_whole_numbers(task: Task, samples: Sequence[Sample]) -> tuple[Task, list[str]]:
    """Return the task with `whole_numbers` as the labels have it, and a warning if they contradict.

    A task that says true or false keeps it, unless labels contradict. Where it says nothing, labels
    decide: if they are all whole, a bin such as [13, 19) holds 13 to 18 and stands for 15.5, not
    for 16. Labels that are a bin's own number decide nothing: a folder named by a phrase has it.

    Args:
        task: Gives the bins.
        samples: Training and validation samples.
    """
    labels = {float(label) for s in samples for label in (s.label, *s.annotations)}
    others = labels - {value + task.label_offset for value in task.bin_values}
    parts = [] if task.labels_are_classes else sorted(x for x in others if not x.is_integer())
    if task.whole_numbers and parts:
        return replace(task, whole_numbers=False), [
            f"task {task.name!r} says whole_numbers, but there are labels such as "
            f"{as_written(parts[0])}; its bins stand for their centres."
        ]
    if task.whole_numbers is None and (
        task.labels_are_classes or (others and all(label.is_integer() for label in labels))
    ):
        return replace(task, whole_numbers=True), []
    return task, []


def empty_bins(samples: Sequence[Sample], task: Task) -> list[str]:
    """Return the phrases of the bins that have no sample."""
    filled = {task.bin_of(sample.label) for sample in samples}
    return [phrase for k, phrase in enumerate(task.phrases) if k not in filled]
