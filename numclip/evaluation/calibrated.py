"""A checkpoint with a calibration: fitted on labelled images that its training has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from numclip_runtime import UsageError
from numclip_runtime.console import FILE

if TYPE_CHECKING:
    from numclip.checkpoint import Checkpoint
    from numclip.data.samples import Sample

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--val",
        type=FILE,
        help="Labelled images to calibrate on, as for numclip-train: gives every number an "
        "interval, and export real images to compare on.  [default: no intervals]",
    ),
    click.option(
        "--root", type=FILE, help="Where --val's image paths start.  [default: its folder]"
    ),
)


def calibration_options(command: Command) -> Command:
    """Add the options that `calibrated_on` takes to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def calibrated(
    checkpoint: Checkpoint, samples: Sequence[Sample], *, batch_size: int = 64, workers: int = 0
) -> tuple[Checkpoint, str]:
    """Fit the temperature of the bins and the intervals.

    Args:
        checkpoint: Model to run; a calibration that it has is replaced.
        samples: Images that training has not seen.
        batch_size: Images per run.
        workers: Processes that load images.

    Returns:
        The checkpoint with its calibration, and a line about it for people.

    Raises:
        ImageError: if an image cannot be read.
        UsageError: if the model's outputs are not finite.
    """
    from numclip.evaluation.calibration import describe_calibration, fit_calibration
    from numclip.evaluation.predictions import labels_of, raw_outputs

    task = checkpoint.task
    values, logits = raw_outputs(
        checkpoint.model,
        samples,
        checkpoint.preprocessing,
        batch_size=batch_size,
        workers=workers,
    )
    calibration = fit_calibration(values, logits, labels_of(samples), task)
    line = describe_calibration(calibration, values, logits, task)
    return replace(checkpoint, calibration=calibration), line


def calibrated_on(
    checkpoint: Checkpoint, val: Path | None, root: Path | None = None
) -> tuple[Checkpoint, str | None]:
    """Make the images of `val` the checkpoint's validation data, and calibrate on them.

    Its metrics, which are those of other images then, if of any, are left out.

    Args:
        checkpoint: Checkpoint that was not trained here.
        val: See `read_samples`; None leaves the checkpoint as it is.
        root: See `read_samples`.

    Returns:
        The checkpoint, and a line about its calibration for people, if `val` is given.

    Raises:
        UsageError: if `val` cannot be read, or `root` is given without it.
        ImageError: if an image cannot be read.
    """
    from numclip.data.sources import read_samples

    if val is None:
        if root is not None:
            raise UsageError("--root says where the image paths of --val start; give --val.")
        return checkpoint, None
    samples = read_samples(val, checkpoint.task, root)
    place = None if root is None else str(root)
    moved = replace(checkpoint, metrics={}, validation_csv=str(val), validation_root=place)
    return calibrated(moved, samples)
