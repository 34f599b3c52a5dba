"""Labelled images from CSV files, and the transforms of training and evaluation."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from numclip.torchvision_compat import import_torchvision
from numclip_runtime import Preprocessing, Task, UsageError
from numclip_runtime.preprocess import load_rgb

import_torchvision()
from torchvision import transforms as T  # noqa: E402

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    path: Path  # where the image lies
    label: float  # label units, as in the file


def read_csv(path: Path, task: Task, *, root: Path | None = None) -> list[Sample]:
    """Read a CSV file with the columns `path` and `label`.

    Args:
        path: CSV file, UTF-8, with a header line; other columns are ignored.
        task: Labels outside its bin_edges are refused.
        root: Folder that relative image paths start from; None: the CSV file's own folder.

    Raises:
        UsageError: naming file and line, if a column, a number or an image file is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := {"path", "label"} - set(rows.fieldnames or ()):
                raise UsageError(
                    f"{path}: lacks the column(s) {sorted(missing)}; its first line must name "
                    f"'path' and 'label' (found {list(rows.fieldnames or ())})."
                )
            base = path.parent if root is None else root
            samples = [_sample(row, base, task, f"{path} line {rows.line_num}") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot read this CSV file ({error}).") from None
    if not samples:
        raise UsageError(f"{path}: holds no images, only a header.")
    absent = [sample.path for sample in samples if not sample.path.is_file()]
    if absent:
        raise UsageError(
            f"{path}: {len(absent)} of {len(samples)} images do not exist, first {absent[0]}; "
            "paths are relative to the CSV file's folder, or to --root."
        )
    return samples


def _sample(row: Mapping[str, str | None], base: Path, task: Task, where: str) -> Sample:
    if not row["path"]:
        raise UsageError(f"{where}: the path is empty.")
    return Sample(base / row["path"], _label(row["label"], task, where))


def _label(text: str | None, task: Task, where: str) -> float:
    try:
        label = float(text or "")
    except ValueError:
        label = math.nan
    if math.isnan(label):
        raise UsageError(f"{where}: the label {text!r} is not a number.")
    if not task.contains(label):
        low, high = (edge + task.label_offset for edge in (task.bin_edges[0], task.bin_edges[-1]))
        raise UsageError(
            f"{where}: the label {label:g} is outside the task's range {low:g} to {high:g}; "
            f"correct it, or widen bin_edges of task {task.name!r}."
        )
    return label


def evaluation_transform(spec: Preprocessing) -> Transform:
    """Return RGB image -> (3, H, W) float32, the counterpart of the runtime's `to_input`."""
    size = (spec.resize, spec.resize) if spec.resize_mode == "squash" else spec.resize
    return T.Compose(  # type: ignore[no-any-return]
        [
            T.Resize(size, T.InterpolationMode(spec.interpolation)),
            T.CenterCrop(spec.crop),
            T.ToTensor(),
            T.Normalize(spec.mean, spec.std),
        ]
    )


def training_transform(spec: Preprocessing) -> Transform:
    """Return the same with a random crop and a horizontal flip, as in the paper's code."""
    size = (spec.resize, spec.resize) if spec.resize_mode == "squash" else spec.resize
    return T.Compose(  # type: ignore[no-any-return]
        [
            T.Resize(size, T.InterpolationMode(spec.interpolation)),
            T.RandomCrop(spec.crop),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(spec.mean, spec.std),
        ]
    )


class ImageDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Samples as (image (3, H, W) float32, label () float32, bin () int64).

    Args:
        samples: What `read_csv` returned.
        task: Gives the bin of a label.
        transform: RGB image -> (3, H, W).
    """

    def __init__(self, samples: Sequence[Sample], task: Task, transform: Transform) -> None:
        self.samples = samples
        self.transform = transform
        self.labels = torch.tensor([sample.label for sample in samples])
        self.bins = torch.tensor([task.bin_of(sample.label) for sample in samples])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image = self.transform(load_rgb(self.samples[index].path))
        return image, self.labels[index], self.bins[index]


def describe(samples: Sequence[Sample], task: Task) -> str:
    """Return one line of class balance: number of samples in each bin."""
    counts = Counter(task.bin_of(sample.label) for sample in samples)
    return ", ".join(f"{phrase} {counts[k]}" for k, phrase in enumerate(task.phrases))
