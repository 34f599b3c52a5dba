"""Labelled images from the text lists of OrdinalCLIP and NumCLIP."""

from __future__ import annotations

import re
from pathlib import Path

from numclip.data.samples import Sample, existing, sample_of
from numclip_runtime import Task, UsageError

# The labels are the numbers that a line ends in, so a path may hold spaces.
_LINE = re.compile(r"(?P<path>\S.*?)(?P<labels>(?:\s+[-+]?[\d.]+(?:[eE][-+]?\d+)?)+)")


def read_list(path: Path, task: Task, *, root: Path | None = None) -> list[Sample]:
    """Read a text file of lines `relative/path label [label ...]`, one image each.

    Args:
        path: Text file, UTF-8, no header; empty lines are skipped. Several labels are those of
            several annotators, see `Sample`.
        task: Labels that are not of this task are refused.
        root: Folder that relative image paths start from; None: the list's own folder.

    Raises:
        UsageError: naming file and line, if a line is malformed or an image file is missing.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read this list ({error}).") from None
    base = path.parent if root is None else root
    samples = []
    for index, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path} line {index}"
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{where}: expected 'path label [label ...]', got {line[:80]!r}.")
        samples.append(sample_of(base / match["path"], match["labels"].split(), task, where))
    return existing(samples, path)
