"""`numclip-eval`: judge a checkpoint or an exported model on labelled images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from numclip_runtime import UsageError, __version__
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import require
from numclip_runtime.files import atomic_text


@click.command(context_settings=SETTINGS)
@click.option("--ckpt", type=FILE, help="Checkpoint of numclip-train; needs torch.")
@click.option("--model", type=FILE, help="Exported model; needs what numclip-run needs.")
@click.option("--data", type=FILE, required=True, help="Labelled images, as for numclip-train.")
@click.option("--root", type=FILE, help="Where image paths start.  [default: the CSV's folder]")
@click.option("-o", "--output", type=FILE, help="Folder for metrics.json.")
@click.option("--plot", is_flag=True, help="Also draw evaluation.png there.")
@click.option("--batch-size", type=click.IntRange(1), default=32)
@click.option("--workers", type=click.IntRange(1), default=1, help="Image loading, in parallel.")
@click.option("--fast-decode", is_flag=True, help="With --model: as numclip-run --fast-decode.")
@click.version_option(__version__)
def main(
    ckpt: Path | None,
    model: Path | None,
    data: Path,
    root: Path | None,
    output: Path | None,
    plot: bool,
    batch_size: int,
    workers: int,
    fast_decode: bool,
) -> None:
    """Measure errors, right bins, honesty of the probabilities and coverage of the intervals.

    Take images that neither training nor validation has seen. Exit codes: 0 measured, 2 wrong use
    or bad data.
    """
    with exit_on_error():
        if (ckpt is None) == (model is None):
            raise UsageError("give either --ckpt (a checkpoint) or --model (an exported model).")
        if fast_decode and model is None:
            raise UsageError("--fast-decode is about exported models; give one with --model.")
        if plot:
            if output is None:
                raise UsageError("--plot needs a folder for the picture; give -o FOLDER.")
            require("plot", "matplotlib")
        if output is not None:
            make_folder(output)
        run(
            ckpt=ckpt,
            model=model,
            data=data,
            root=root,
            output=output,
            plot=plot,
            batch_size=batch_size,
            workers=workers,
            fast_decode=fast_decode,
        )


def run(
    *,
    data: Path,
    ckpt: Path | None = None,
    model: Path | None = None,
    root: Path | None = None,
    output: Path | None = None,
    plot: bool = False,
    batch_size: int = 32,
    workers: int = 1,
    fast_decode: bool = False,
) -> dict[str, Any]:
    """Evaluate one of `ckpt` and `model`, print a table, write `output`; return the metrics."""
    from numclip.data.sources import read_samples
    from numclip.evaluation.metrics import evaluate_predictions
    from numclip.evaluation.predictions import predictions_of_checkpoint, predictions_of_model
    from numclip.evaluation.report import table

    if ckpt is not None:
        require("train", "torch", "torchvision", "open_clip")
        from numclip.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(ckpt)
        samples = read_samples(data, checkpoint.task, root)
        found = predictions_of_checkpoint(
            checkpoint, samples, batch_size=batch_size, workers=workers if workers > 1 else 0
        )
    else:
        assert model is not None
        from numclip_runtime import load

        with load(model, fast_decode=fast_decode) as predictor:
            samples = read_samples(data, predictor.metadata.task, root)
            found = predictions_of_model(predictor, samples, batch_size=batch_size, workers=workers)
    metrics = evaluate_predictions(found)
    click.echo(table(metrics, found.task))
    if output is not None:
        artefact = str((ckpt or model or Path()).name)
        written = [output / "metrics.json"]
        with atomic_text(written[0]) as file:
            source: dict[str, Any] = {"artefact": artefact, "data": data.name}
            if fast_decode:
                source["fast_decode"] = True
            json.dump(source | metrics, file, indent=2, ensure_ascii=False)
            file.write("\n")
        if plot:
            from numclip.evaluation.plots import save_plot

            written.append(output / "evaluation.png")
            save_plot(written[1], found, title=f"{artefact} on {data.name}")
        click.echo(f"\nwritten: {', '.join(map(str, written))}")
    return metrics


def make_folder(path: Path) -> None:
    """Create the output folder.

    Raises:
        UsageError: if something else is in its place, or it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot create this folder ({error.strerror}).") from None
    if not os.access(path, os.W_OK):
        raise UsageError(f"{path}: cannot write into this folder.")


if __name__ == "__main__":
    main()
