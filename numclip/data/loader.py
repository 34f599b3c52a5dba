"""Batches that depend only on (seed, epoch, index): the same in one process or many, and after
a resume.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from numclip.data.dataset import ImageDataset
from numclip.evaluation.evaluate import Batch


class EpochSampler(DistributedSampler[int]):
    """Yield `epoch * N + i` over a shuffled, evenly sharded data set of N samples.

    The epoch travels inside the index, so that loading processes, which outlive an epoch, know it.
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

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: it reseeds GPUs, too, and formats the whole call stack for each
            # kind of them: 0.4 ms per image in a plain loop, 0.6 ms under Lightning's deep one.
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
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
