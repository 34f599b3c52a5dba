"""Samples as batches of tensors: transforms, data sets, and loaders.

Batches depend only on (seed, epoch, index): they are the same in one process or many, and after a
resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from numclip.data.samples import Sample
from numclip.data.workers import quiet_when_left
from numclip.torchvision_compat import import_torchvision
from numclip_runtime import ImageError, Preprocessing, Task
from numclip_runtime.console import say
from numclip_runtime.preprocess import load_rgb, mosaic

import_torchvision()
from torchvision import transforms as T  # noqa: E402

Transform = Callable[[Image.Image], Tensor]
Step = Callable[[Image.Image], Image.Image]
# Images (B, 3, H, W) float32, labels (B,) float32, bins (B,) int64; of one image, without B.
Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]
Broken = Literal["raise", "replace", "mark"]


def evaluation_transform(spec: Preprocessing) -> Transform:
    """Return RGB image -> (3, H, W) float32, the counterpart of the runtime's `to_input`."""
    if spec.resize_mode == "fragments":
        return to_tensor_after(spec, partial(mosaic, spec=spec))
    return to_tensor_after(spec, *resizing(spec), T.CenterCrop(spec.crop))


def training_transform(spec: Preprocessing, *, flip: bool = True) -> Transform:
    """Return the same with a random crop and a horizontal flip, as in the paper's code.

    Fragments come from random places of their cells.

    Args:
        spec: Of the network's input.
        flip: False leaves left and right as they are: a mirrored dial shows another number.
    """
    mirror = [T.RandomHorizontalFlip()] if flip else []
    if spec.resize_mode == "fragments":
        return to_tensor_after(spec, partial(_random_mosaic, spec=spec), *mirror)
    return to_tensor_after(spec, *resizing(spec), T.RandomCrop(spec.crop), *mirror)


def resizing(spec: Preprocessing) -> list[Step]:
    """Return the steps before the crop."""
    size = (spec.resize, spec.resize) if spec.resize_mode == "squash" else spec.resize
    return [T.Resize(size, T.InterpolationMode(spec.interpolation))]


def _random_mosaic(image: Image.Image, spec: Preprocessing) -> Image.Image:
    places = torch.rand(spec.fragments, spec.fragments, 2, dtype=torch.float64)
    return mosaic(image, spec, places.numpy())


def to_tensor_after(spec: Preprocessing, *steps: Step) -> Transform:
    """Return RGB image -> (3, H, W) float32: steps on the image, then normalisation."""
    return T.Compose([*steps, T.ToTensor(), T.Normalize(spec.mean, spec.std)])  # type: ignore[no-any-return]


class ImageDataset(Dataset[Batch]):
    """Samples as (image (3, H, W) float32, label () float32, bin () int64).

    Args:
        samples: Return value of `read_samples`.
        task: Gives the bin of a label.
        transform: RGB image -> (3, H, W).
        draw: Draw one of several annotations at each access, as the papers do; False: their
            median.
        broken: An image that cannot be read is an error; or is replaced by the next that can; or
            is marked, as a black image whose label is NaN. The last two are said on stderr.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        task: Task,
        transform: Transform,
        *,
        draw: bool = False,
        broken: Broken = "raise",
    ) -> None:
        self.samples = samples
        self.task = task
        self.transform = transform
        self.draw = draw
        self.broken = broken
        self._said: set[int] = set()  # indices of broken images, by this process
        self.labels = torch.tensor([sample.label for sample in samples])
        self.bins = torch.tensor([task.bin_of(sample.label) for sample in samples])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        while True:
            try:
                image = self.transform(load_rgb(self.samples[index].image))
                break
            except ImageError as error:
                if self.broken == "raise":
                    raise
                if index not in self._said:
                    say(f"Warning: {error} It is left out from here on.")
                    self._said.add(index)
                if self.broken == "mark":
                    black = self.transform(Image.new("RGB", (64, 64)))
                    return black, torch.tensor(torch.nan), torch.tensor(0)
                if len(self._said) == len(self):
                    raise
                index = (index + 1) % len(self)
        annotations = self.samples[index].annotations
        if self.draw and annotations:
            label = annotations[int(torch.randint(len(annotations), ()))]
            return image, torch.tensor(label), torch.tensor(self.task.bin_of(label))
        return image, self.labels[index], self.bins[index]


class EpochSampler(DistributedSampler[int]):
    """Yield `epoch * N + i` over a shuffled, evenly sharded data set of N samples.

    The index contains the epoch, because loading processes outlive an epoch.
    """

    def __iter__(self) -> Iterator[int]:
        size = len(self.dataset)  # type: ignore[arg-type]
        return (self.epoch * size + index for index in super().__iter__())


class SeededDataset(Dataset[Batch]):
    """An ImageDataset whose augmentation is seeded by (seed, epoch, index).

    Args:
        data: Data set with a random transform (torch's global generator).
        seed: Seed of the run.
    """

    def __init__(self, data: ImageDataset, seed: int) -> None:
        self.data = data
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Batch:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it also reseeds GPUs, and formats the call stack for each kind
            # of GPU: 0.4 ms per image in a plain loop, 0.6 ms under Lightning's deeper stack.
            torch.default_generator.manual_seed((self.seed << 40) + index)
            return self.data[index % len(self.data)]


def training_batches(
    data: ImageDataset, batch_size: int, seed: int, workers: int, rank: int, world_size: int
) -> DataLoader[Batch]:
    """Return this process's shuffled share of every global batch."""
    seeded = SeededDataset(data, seed)
    sampler = EpochSampler(seeded, world_size, rank, shuffle=True, seed=seed)
    return _loader(seeded, batch_size, sampler, workers)


def validation_batches(
    data: ImageDataset, batch_size: int, workers: int, rank: int, world_size: int
) -> DataLoader[Batch]:
    """Return every `world_size`-th sample from `rank` on, padded to equal numbers of batches."""
    sampler: DistributedSampler[int] = DistributedSampler(data, world_size, rank, shuffle=False)
    return _loader(data, batch_size, sampler, workers)


def _loader(
    data: Dataset[Batch], batch_size: int, sampler: DistributedSampler[int], workers: int
) -> DataLoader[Batch]:
    return DataLoader(
        data,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=quiet_when_left,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
