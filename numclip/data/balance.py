"""How many images each bin has, as a table for the terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from numclip.data.samples import Sample
from numclip_runtime import Task

BAR = 10  # characters of the longest bar


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
    columns = [("bin", *task.phrases), (task.unit or "label", *label_ranges(task))]
    columns += [
        (f"{name:>6}", *(_cell(count, k, bar) for k in range(task.num_bins)))
        for name, count in counts.items()
    ]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    )


def label_ranges(task: Task) -> list[str]:
    """Return the labels of each bin as text: "13 to 19", or "3" where labels are classes."""
    edges = [edge + task.label_offset for edge in task.bin_edges]
    if task.labels_are_classes:
        return [f"{edge:g}" for edge in edges[:-1]]
    return [f"{low:g} to {high:g}" for low, high in pairwise(edges)]


def _cell(counts: Counter[int], k: int, bar: str) -> str:
    length = max(round(BAR * counts[k] / max(counts.values())), 1) if counts[k] else 0
    return f"{counts[k]:>6} {counts[k] / counts.total():>6.1%} {bar * length}"


def bar_character() -> str:
    """Return a block where stdout can show one, else "#"."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return "#"
    return "█"


def summary(name: str, samples: Sequence[Sample], task: Task) -> str:
    """Return one line: number of images, range of labels, several annotators if any."""
    labels = [sample.label for sample in samples]
    line = (
        f"{name}: {len(samples)} images, labels {min(labels):g} to {max(labels):g} {task.unit}"
    ).rstrip()
    several = sum(1 for sample in samples if sample.annotations)
    return f"{line}, {several} with several annotators" if several else line


def empty_bins(samples: Sequence[Sample], task: Task) -> list[str]:
    """Return the phrases of the bins that have no sample."""
    filled = {task.bin_of(sample.label) for sample in samples}
    return [phrase for k, phrase in enumerate(task.phrases) if k not in filled]
