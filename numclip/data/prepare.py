"""From named data sources to checked sets of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from numclip.data.checks import (
    ImageCheck,
    balance_table,
    bar_character,
    broken_images,
    empty_bins,
    find_leakage,
    summary,
    without_broken,
)
from numclip.data.columns import TableOptions
from numclip.data.readers import read_samples
from numclip.data.samples import Sample
from numclip.data.subsets import few_shot, from_label, shift_labels, split_samples
from numclip_runtime import Task, UsageError
from numclip_runtime.console import visible
from numclip_runtime.images.folder import LeftOut


@dataclass(frozen=True)
class DataConfig(TableOptions):
    """Data sources (see `read_samples`), and the part of them to use."""

    train: Path
    val: Path | None = None
    test: Path | None = None
    root: Path | None = None  # where relative image paths start; None: beside their file
    val_share: float | None = None  # in place of val: share of train that is kept for validation
    calibration_share: float | None = None  # of the validation images, see `calibration_split`
    group_column: str | None = None  # column whose values must not be in two sets
    shots: int | None = None  # training images kept of each distinct label
    shift_top: int | None = None  # most frequent training labels that are thinned out
    shift_keep: float = 0.1  # share of their training images that is kept
    val_min_label: float | None = None  # validation and test: only labels from here on
    image_check: ImageCheck = "header"
    skip_broken: bool = False  # leave broken images out; False refuses them
    seed: int = 0  # of the split and of subsampling

    def __post_init__(self) -> None:
        for name in ("train", "val", "test", "root"):
            if isinstance(place := getattr(self, name), str):  # from a notebook, say
                object.__setattr__(self, name, Path(place))
        if (self.val is None) == (self.val_share is None):
            raise UsageError(
                "give either --val with images of other people, photos or places, "
                "or --val-share 0.2 to keep a part of --train for validation."
            )
        if self.shots is not None and self.shift_top is not None:
            raise UsageError("--shots and --shift-top are two protocols; give one of them.")


@dataclass(frozen=True)
class Data:
    """Checked samples."""

    train: list[Sample]
    val: list[Sample]
    test: list[Sample]  # empty where none was given
    notes: tuple[str, ...] = ()  # how tables were read, where they are unlike plain ones

    @property
    def sets(self) -> dict[str, list[Sample]]:
        """The sets that are not empty, by name."""
        sets = {"train": self.train, "val": self.val, "test": self.test}
        return {name: samples for name, samples in sets.items() if samples}


@dataclass(frozen=True)
class ReadSets:
    """Samples as their sources name them; no image has been opened."""

    samples: dict[str, list[Sample]]  # by the name of the set: "train", "val", "test"
    warnings: tuple[str, ...]
    notes: tuple[str, ...]  # see `Data`


def read_sets(config: DataConfig, task: Task) -> ReadSets:
    """Read paths and labels of all sources.

    Raises:
        UsageError: if a source cannot be read.
        MissingDependencyError: if a source needs a package that is not installed.
    """
    sources = {"train": config.train, "val": config.val, "test": config.test}
    return read_sources(sources, task, config.root, config.group_column, config.table)


def read_sources(
    sources: Mapping[str, Path | None],
    task: Task,
    root: Path | None,
    group_column: str | None,
    table: TableOptions,
) -> ReadSets:
    """Do what `read_sets` does, for any sources by name; None: there is none."""
    others, notes = LeftOut(), list[str]()
    sets = {
        name: read_samples(
            source,
            task,
            root,
            group_column=group_column,
            table=table,
            left_out=others,
            notes=notes,
        )
        for name, source in sources.items()
        if source is not None
    }
    warnings = (f"pictures in the folders were {others}.",) if others else ()
    return ReadSets(sets, warnings, tuple(dict.fromkeys(notes)))


def prepare_data(
    config: DataConfig, task: Task, read: ReadSets | None = None
) -> tuple[Data, list[str]]:
    """Read, check, split and subsample data, in this order.

    Args:
        config: Sources, and what to take from them.
        task: Labels that are not of this task are refused.
        read: Return value of `read_sets`, where that was called before.

    Returns:
        The data, and warnings: broken images left out, leakage, bins without training image.

    Raises:
        UsageError: if a source cannot be read, images are broken, or nothing is left of a set.
        MissingDependencyError: if a source needs a package that is not installed.
    """
    read = read or read_sets(config, task)
    sets, broken = readable_sets(read.samples, config.image_check, skip=config.skip_broken)
    warnings = [*read.warnings, *broken]
    if config.val_share is not None:
        sets["train"], sets["val"] = split_samples(
            sets["train"], (1 - config.val_share, config.val_share), task, seed=config.seed
        )
    warnings += disagreement_warnings(sets, task)
    warnings += leakage_warnings(sets, contents=config.image_check != "none")
    if config.shots is not None:
        sets["train"] = few_shot(sets["train"], config.shots, seed=config.seed)
    if config.shift_top is not None:
        sets["train"] = shift_labels(
            sets["train"], config.shift_top, config.shift_keep, seed=config.seed
        )
    if config.val_min_label is not None:
        for name in sets.keys() - {"train"}:
            sets[name] = from_label(sets[name], config.val_min_label)
    if empty := empty_bins(sets["train"], task):
        warnings.append(
            f"no training image in {len(empty)} of {task.num_bins} bins "
            f"({', '.join(empty)}); the model cannot learn them. Add images, or merge bins."
        )
    data = Data(sets["train"], sets["val"], sets.get("test", []), read.notes)
    return data, warnings


def readable_sets(
    sets: Mapping[str, list[Sample]], check: ImageCheck, *, skip: bool
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Return the sets without images that cannot be read, and a warning for each that had some.

    Raises:
        UsageError: if images are broken and `skip` is False, or nothing is left of a set.
    """
    broken = broken_images([s.image for samples in sets.values() for s in samples], check)
    found, warnings = dict[str, list[Sample]](), list[str]()
    for name, samples in sets.items():
        found[name] = without_broken(samples, broken, skip=skip, name=name)
        if left_out := len(samples) - len(found[name]):
            warnings.append(f"{left_out} of {len(samples)} {name} images are broken, left out.")
    return found, warnings


def disagreement_warnings(sets: dict[str, list[Sample]], task: Task) -> Iterator[str]:
    """Yield a warning for each set with annotators who differ by more than half of the range.

    Such labels are often one number that a blank divides, as "1 234".
    """
    for name, samples in sets.items():
        far = [
            sample
            for sample in samples
            if sample.annotations
            and max(sample.annotations) - min(sample.annotations) > task.label_range / 2
        ]
        if far:
            labels = " ".join(f"{label:g}" for label in far[0].annotations[:10])
            yield (
                f"the annotators of {len(far)} of {len(samples)} {name} images differ by more than "
                f"half of the range, first {visible(far[0].path)} ({labels}); check that these are "
                "several labels, not one number with a blank inside."
            )


def leakage_warnings(sets: dict[str, list[Sample]], *, contents: bool) -> Iterator[str]:
    """Yield a warning for each two sets that share images or groups."""
    names = [name for name in ("train", "val", "test") if name in sets]
    for first, second in combinations(names, 2):
        found = find_leakage(sets[second], sets[first], contents=contents)
        by_path, by_content = len(found.same_path), len(found.same_content)
        if by_path + by_content:
            yield (
                f"{by_path + by_content} of {len(sets[second])} {second} images are in {first} as "
                f"well ({by_path} the same file, {by_content} the same content, first "
                f"{(found.same_path + found.same_content)[0]}); {second} metrics will be too good."
            )
        if found.groups:
            yield (
                f"{len(found.groups)} groups are in both {first} and {second}, first "
                f"{found.groups[0]!r}; {second} metrics will be too good."
            )


def data_report(data: Data, task: Task) -> str:
    """Return a report for the user before training: a line per set, and the class balance."""
    lines = [summary(name, samples, task) for name, samples in data.sets.items()]
    return "\n".join(
        (*map(visible, data.notes), *lines, balance_table(data.sets, task, bar=bar_character()))
    )
