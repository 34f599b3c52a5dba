"""Training steps: time and memory of a backbone, and Lightning's cost over a plain PyTorch loop.

Both loops use the same model, batches, losses and optimizer, in turns (A B A B), so that a busy
machine disturbs both. Weights are random: this measures speed, not accuracy.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click

if not __package__:  # run by its path: the repository joins the import path
    __import__("script")

from benchmarks.bench.images import write_synthetic
from benchmarks.bench.interleave import interleave
from benchmarks.bench.machine.environment import loaded_versions, script_report
from benchmarks.bench.processes.programs import peak_host_mb
from benchmarks.bench.processes.worker import call_apart
from benchmarks.bench.results import from_plain
from numclip_runtime import Task
from numclip_runtime.console import FILE, SETTINGS, exit_on_error

TASK = Task("age", "years", (0, 13, 19, 35, 65, 101), ("child", "teen", "young", "middle", "old"))
WARMUP = 2  # steps of each turn that are not counted: allocator, lazily built kernels


@dataclass(frozen=True)
class TrainingSpeed:
    """One backbone."""

    backbone: str
    batch: int
    steps: int  # counted, of each loop
    parameters: int
    trained_parameters: int
    seconds_per_step: dict[str, float]  # "plain" and "lightning", medians
    speed_of_plain: float  # Lightning's share of the plain loop's speed
    versions: dict[str, str]
    peak_rss_mb: int  # of the whole process


def lightning_steps(model: Any, data: Any, config: Any, steps: int) -> list[float]:
    """Return the seconds of each step of Lightning's loop, data loading included."""
    from numclip.torchvision_compat import import_torchvision
    from numclip.training.lightning_module import NumClipModule

    import_torchvision()
    import pytorch_lightning as pl

    class Timed(NumClipModule):
        stamps: list[float]

        def on_train_start(self) -> None:
            self.stamps = [time.perf_counter()]

        def on_train_batch_end(self, *args: object) -> None:
            self.stamps.append(time.perf_counter())

    module = Timed(model, data, data, config)
    trainer = pl.Trainer(
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning on a newer torch
        trainer.fit(module)
    return [b - a for a, b in zip(module.stamps, module.stamps[1:], strict=False)]


def plain_steps(model: Any, data: Any, config: Any, steps: int) -> list[float]:
    """Return the seconds of each step of a plain PyTorch loop, data loading included."""
    from numclip.data.dataset import training_batches
    from numclip.training.losses import batch_losses
    from numclip.training.optim import freeze, make_optimizer

    freeze(model, config.rates)
    optimizer = make_optimizer(model, config)
    batches: Iterable[Any] = training_batches(data, config.batch_size, config.seed, 0, 0, 1)
    seconds = []
    model.train()
    start = time.perf_counter()
    for images, labels, bins in islice(batches, steps):
        loss = batch_losses(model(images), labels, bins, config)["loss"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return seconds


def measure_training(backbone: str, batch: int, steps: int, turns: int) -> TrainingSpeed:
    """Measure one backbone in this process."""
    import torch

    from numclip.data.dataset import ImageDataset, training_transform
    from numclip.data.samples import Sample
    from numclip.model.backbone import clip_config
    from numclip.model.model_config import ModelConfig
    from numclip.model.numclip import NumClip
    from numclip.model.preprocessing import image_size
    from numclip.training.config import TrainConfig
    from numclip_runtime import Preprocessing

    torch.manual_seed(0)
    clip = clip_config(backbone)
    side = image_size(clip)
    model = NumClip(ModelConfig(clip), TASK)
    config = TrainConfig(batch_size=batch, optimizer="adamw", workers=0)
    with tempfile.TemporaryDirectory() as folder:
        photos = [Path(path) for path in write_synthetic(Path(folder))]
        count = batch * (steps + WARMUP)
        samples = [Sample(photos[i % len(photos)], float(7 * i % 100)) for i in range(count)]
        spec = Preprocessing(crop=side, resize=round(side * 8 / 7))
        data = ImageDataset(samples, TASK, training_transform(spec))

        def turn(loop: Any, _: int) -> list[float]:
            seconds: list[float] = loop(model, data, config, steps + WARMUP)[WARMUP:]
            return seconds

        loops = {"plain": partial(turn, plain_steps), "lightning": partial(turn, lightning_steps)}
        found = interleave(loops, turns)
        times = {name: [s for part in found[name] for s in part] for name in loops}
    middle = {name: median(seconds) for name, seconds in times.items()}
    return TrainingSpeed(
        backbone=Path(backbone).name,
        batch=batch,
        steps=len(times["plain"]),
        parameters=sum(p.numel() for p in model.parameters()),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds_per_step={name: round(middle[name], 4) for name in ("lightning", "plain")},
        speed_of_plain=round(middle["plain"] / middle["lightning"], 4),
        versions=loaded_versions(),
        peak_rss_mb=round((peak_host_mb() or 0) * 1e6 / 2**20),
    )


@click.command(context_settings=SETTINGS)
@click.argument("backbones", nargs=-1, required=True)
@click.option("--batch", type=click.IntRange(1), default=8)
@click.option("--steps", type=click.IntRange(1), default=4, help="Counted in each turn.")
@click.option("--turns", type=click.IntRange(1), default=2)
@click.option("--json", "json_path", type=FILE, help="Write the results.")
def main(
    backbones: tuple[str, ...], batch: int, steps: int, turns: int, json_path: Path | None
) -> None:
    """Time training steps of BACKBONES (architectures or .json), each in a fresh process."""
    results = []
    with exit_on_error(), script_report(json_path, sys.argv) as write:
        click.echo(f"{'backbone':<12} {'batch':>5} {'s/step':>8} {'of plain':>9} {'peak RSS':>10}")
        for backbone in backbones:
            plain = call_apart(
                "benchmarks.training:measure_training",
                backbone=backbone,
                batch=batch,
                steps=steps,
                turns=turns,
            )
            speed = from_plain(TrainingSpeed, plain)
            results.append(speed)
            click.echo(
                f"{speed.backbone:<12} {batch:>5} {speed.seconds_per_step['lightning']:>8.3f} "
                f"{speed.speed_of_plain:>8.1%} {speed.peak_rss_mb:>7} MB"
            )
        write(results=results)


if __name__ == "__main__":
    main()
