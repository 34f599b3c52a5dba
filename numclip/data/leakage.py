"""Images and groups that two sets of samples share, where a metric would be too good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from numclip.data.samples import Sample
from numclip.data.splits import shared_groups
from numclip_runtime.files import sha256


@dataclass(frozen=True)
class Overlap:
    """What a set has in common with a set it must be independent of."""

    same_path: tuple[Path, ...]  # files that are in both
    same_content: tuple[Path, ...]  # other files that equal one of the other set, byte by byte
    groups: tuple[str, ...]  # groups that have images in both, sorted


def overlap(held_out: Sequence[Sample], train: Sequence[Sample], *, contents: bool) -> Overlap:
    """Compare two sets.

    Args:
        held_out: Set to judge, such as validation; its paths are reported.
        train: Set that the model learns from.
        contents: Compare contents, too. Only files of equal size are read.
    """
    seen = {sample.path.resolve() for sample in train}
    paths = list(dict.fromkeys(sample.path for sample in held_out))
    same_path = [path for path in paths if path.resolve() in seen]
    others = sorted(set(paths) - set(same_path))
    same_content = _equal_files(others, seen) if contents else []
    return Overlap(
        tuple(same_path), tuple(same_content), tuple(sorted(shared_groups(held_out, train)))
    )


def _equal_files(paths: Iterable[Path], others: Iterable[Path]) -> list[Path]:
    sizes = {path: path.stat().st_size for path in paths}
    other_sizes = {path: path.stat().st_size for path in others}
    common = Counter(sizes.values()).keys() & Counter(other_sizes.values()).keys()
    mine = [path for path, size in sizes.items() if size in common]
    theirs = [path for path, size in other_sizes.items() if size in common]
    with ThreadPoolExecutor(4) as pool:  # hashing releases the interpreter lock
        known = set(pool.map(sha256, theirs))
        return [
            path
            for path, digest in zip(mine, pool.map(sha256, mine), strict=True)
            if digest in known
        ]
