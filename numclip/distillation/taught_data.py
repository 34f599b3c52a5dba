"""The images of a distillation: unlabelled and labelled ones, checked and split; needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from numclip.data.prepare import (
    disagreement_warnings,
    leakage_warnings,
    read_sources,
    readable_sets,
)
from numclip.data.samples import Sample
from numclip.data.subsets import split_samples
from numclip.distillation.distill_options import DistillOptions
from numclip_runtime import Task, UsageError
from numclip_runtime.console import visible
from numclip_runtime.images.folder import find_images

LEAST_HELD_OUT = 2  # images; of fewer, no difference is known


@dataclass(frozen=True)
class TaughtData:
    """Checked samples; an unlabelled one has the label NaN."""

    train: list[Sample]
    val: list[Sample]  # held out: all labelled, or none
    test: list[Sample]  # labelled; empty where none was given
    warnings: list[str]

    @property
    def labelled(self) -> bool:
        """Whether the held-out images have labels."""
        return not math.isnan(self.val[0].label)

    def lines(self) -> list[str]:
        """Return a line about each set, for people."""
        known = sum(not math.isnan(sample.label) for sample in self.train)
        kinds = [f"{known} with labels"] * bool(known)
        kinds += [f"{len(self.train) - known} without"] * (known < len(self.train))
        lines = [f"train: {len(self.train)} images, {', '.join(kinds)}"]
        lines.append(
            f"held out: {len(self.val)} images, {'with' * self.labelled or 'without'} labels"
        )
        return lines + [f"test: {len(self.test)} images"] * bool(self.test)


def unlabelled_samples(source: Path) -> list[Sample]:
    """Find the images of a folder, at any depth, or of a pattern, as numclip-run does.

    Returns:
        Samples whose label is NaN.

    Raises:
        UsageError: if there are none.
    """
    if not source.exists() and not any(c in str(source) for c in "*?["):
        raise UsageError(f"{source}: no such folder; give --images a folder of images.")
    if source.is_file():
        raise UsageError(
            f"{source}: is a file; give --images a folder of images, or --data a table of "
            "labelled ones."
        )
    return [Sample(Path(path), math.nan) for path in find_images([str(source)])]


@dataclass(frozen=True)
class FoundImages:
    """Samples as their sources name them; no image has been opened."""

    sets: dict[str, list[Sample]]  # labelled "train", "val", "test", and unlabelled "images"
    warnings: list[str]


def found_images(options: DistillOptions, task: Task) -> FoundImages:
    """Read tables, and look into folders.

    Images of `images` that are labelled ones, too, count as these.

    Raises:
        UsageError: if a source cannot be read, or has no images.
        MissingDependencyError: if a source needs a package that is not installed.
    """
    sources = {"train": options.data, "val": options.val, "test": options.test}
    read = read_sources(sources, task, options.root, options.group_column, options.table)
    sets = read.samples
    unlabelled = [] if options.images is None else unlabelled_samples(options.images)
    known = {sample.path.resolve() for samples in sets.values() for sample in samples}
    free = [sample for sample in unlabelled if sample.path.resolve() not in known]
    if unlabelled and not free and "train" not in sets:
        raise UsageError(
            f"{options.images}: all of its images are labelled ones of --val or --test, and none "
            "is left to learn from; give others."
        )
    return FoundImages(sets | {"images": free}, [*read.warnings, *read.notes])


def taught_data(options: DistillOptions, task: Task, found: FoundImages) -> TaughtData:
    """Check and split the images.

    Labelled images are held out where there are any: those of `val`, or a share of `data`. Else a
    share of `images` is.

    Raises:
        UsageError: if images are broken, or there are too few.
    """
    sets, broken = readable_sets(found.sets, options.image_check, skip=options.skip_broken)
    warnings = [*found.warnings, *broken]
    if "val" not in sets:
        whole = "train" if "train" in sets else "images"
        sets[whole], sets["val"] = _held_out(sets[whole], options, task)
    train = [*sets.get("train", []), *sets["images"]]
    parts = {"train": train, "val": sets["val"], "test": sets.get("test", [])}
    present = {name: samples for name, samples in parts.items() if samples}
    warnings += disagreement_warnings(present, task)
    warnings += leakage_warnings(present, contents=options.image_check != "none")
    return TaughtData(**parts, warnings=warnings)


def _held_out(
    samples: list[Sample], options: DistillOptions, task: Task
) -> tuple[list[Sample], list[Sample]]:
    """Divide the samples into those to learn from and those that are held out."""
    share, seed = options.val_share, (options.training or options.recipe()).seed
    source = visible(str(options.data or options.images))
    try:
        train, val = split_samples(samples, (1 - share, share), task, seed=seed)
    except UsageError:
        train, val = samples, []
    if len(val) < LEAST_HELD_OUT:
        raise UsageError(
            f"{source}: {len(samples)} image{'s' * (len(samples) != 1)} cannot be divided into "
            f"some to learn from and {share:.0%} to be judged on; give more, or labelled ones with "
            "--val."
        )
    return train, val
