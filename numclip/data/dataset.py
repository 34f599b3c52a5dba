"""Samples as batches of tensors, and the transforms of training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from numclip.data.readers import read_csv as read_csv
from numclip.data.samples import Sample as Sample
from numclip.torchvision_compat import import_torchvision
from numclip_runtime import Preprocessing, Task
from numclip_runtime.preprocess import load_rgb

import_torchvision()
from torchvision import transforms as T  # noqa: E402

__all__ = [
    "ImageDataset",
    "Sample",
    "evaluation_transform",
    "read_csv",
    "training_transform",
]

Transform = Callable[[Image.Image], Tensor]


def evaluation_transform(spec: Preprocessing) -> Transform:
    """Return RGB image -> (3, H, W) float32, the counterpart of the runtime's `to_input`."""
    return _transform(spec, T.CenterCrop(spec.crop))


def training_transform(spec: Preprocessing) -> Transform:
    """Return the same with a random crop and a horizontal flip, as in the paper's code."""
    return _transform(spec, T.RandomCrop(spec.crop), T.RandomHorizontalFlip())


def _transform(spec: Preprocessing, *between: Transform) -> Transform:
    size = (spec.resize, spec.resize) if spec.resize_mode == "squash" else spec.resize
    resize = T.Resize(size, T.InterpolationMode(spec.interpolation))
    steps = [resize, *between, T.ToTensor(), T.Normalize(spec.mean, spec.std)]
    return T.Compose(steps)  # type: ignore[no-any-return]


class ImageDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Samples as (image (3, H, W) float32, label () float32, bin () int64).

    Args:
        samples: What `read_samples` returned.
        task: Gives the bin of a label.
        transform: RGB image -> (3, H, W).
        draw: Where an image has several annotations, take one at random at each access, as the
            papers train; False takes their median.
    """

    def __init__(
        self, samples: Sequence[Sample], task: Task, transform: Transform, *, draw: bool = False
    ) -> None:
        self.samples = samples
        self.task = task
        self.transform = transform
        self.draw = draw
        self.labels = torch.tensor([sample.label for sample in samples])
        self.bins = torch.tensor([task.bin_of(sample.label) for sample in samples])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image = self.transform(load_rgb(self.samples[index].path))
        annotations = self.samples[index].annotations
        if self.draw and annotations:
            label = annotations[int(torch.randint(len(annotations), ()))]
            return image, torch.tensor(label), torch.tensor(self.task.bin_of(label))
        return image, self.labels[index], self.bins[index]
