"""`numclip-eval`: evaluate a checkpoint or an exported model on labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from numclip.cli.options import COUNT, TABLE_OPTIONS, config_of, options_of
from numclip.evaluation.metrics import evaluate_predictions
from numclip.evaluation.predictions import EvaluationSource
from numclip.evaluation.report import METRICS_FILE, PICTURE_FILE, make_folder, table, write_report
from numclip_runtime import UsageError, __version__
from numclip_runtime.commands import GroupedCommand, add, group
from numclip_runtime.console import FILE, SETTINGS, exit_on_error, show, visible
from numclip_runtime.errors import require
from numclip_runtime.files import refuse_overwriting, require_writable
from numclip_runtime.model_files.given import kind_of, require_checkpoint
from numclip_runtime.model_files.model_file import files_of_model

OPTIONS = add(
    group(
        "Model",
        options_of(
            EvaluationSource,
            model="Exported model, in place of FILE; needs what numclip-run needs.",
            ckpt="Checkpoint of numclip-train, in place of FILE; needs torch.",
        ),
    ),
    group(
        "Data",
        click.option("--data", type=FILE, help="The images, in place of IMAGES."),
        options_of(
            EvaluationSource,
            root="Where image paths start.  [default: the CSV's folder]",
            group_column="Column, such as person: coverage is measured by person as well.",
        ),
        TABLE_OPTIONS,
    ),
    group(
        "Output",
        click.option(
            "-o", "--output", type=FILE, help="Folder for metrics.json, or that file's own name."
        ),
        click.option("--plot", is_flag=True, help="Also draw evaluation.png there."),
    ),
    group(
        "Speed",
        options_of(
            EvaluationSource,
            batch_size=(COUNT, ""),
            workers=(COUNT, "Image loading, in parallel."),
            fast_decode="With --model: as numclip-run --fast-decode.",
        ),
    ),
)


@click.command(
    cls=GroupedCommand,
    context_settings=SETTINGS,
    examples=(
        "model.onnx test.csv",
        "checkpoint.pt test.csv -o evaluation/ --plot",
        "model.onnx test.csv --group-column person",
    ),
)
@click.argument("files", nargs=-1, type=FILE, metavar="FILE IMAGES")
@OPTIONS
@click.version_option(__version__)
def main(files: tuple[Path, ...], output: Path | None, plot: bool, **given: Any) -> None:
    """Measure errors, right bins, calibration of the probabilities and coverage of the intervals.

    FILE is an exported model or a checkpoint. IMAGES are labelled, as for numclip-train; use those
    that neither training nor validation has seen.

    Exit codes: 0 measured, 2 wrong use or bad data.
    """
    with exit_on_error():
        source = config_of(EvaluationSource, given | files_by_option(files, given))
        if source.ckpt is not None:
            require_checkpoint(source.ckpt, "give it as --model")
        if plot:
            if output is None:
                raise UsageError("--plot needs a folder for the picture; give -o FOLDER.")
            require("plot", "matplotlib")
        if output is not None:
            own = output.suffix.lower() == ".json" and not output.is_dir()
            folder, metrics_file = (output.parent, output.name) if own else (output, METRICS_FILE)
            make_folder(folder)
            for name in (metrics_file, PICTURE_FILE) if plot else (metrics_file,):
                require_writable(folder / name)
                inputs = (*files_of_model(source.file), source.data)
                refuse_overwriting(folder / name, inputs, "an input")
        found = source.predictions()
        metrics = evaluate_predictions(found)
        show(table(metrics, found.task))
        if output is not None:
            written = write_report(
                folder, metrics, found, source, plot=plot, metrics_file=metrics_file
            )
            show(f"\nwritten: {', '.join(map(str, written))}")


def files_by_option(files: Sequence[Path], given: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files without an option as the values of --model, --ckpt and --data.

    Raises:
        UsageError: of click's or numclip's, if one is missing, too many, or they are swapped.
    """
    left, found, context = list(files), dict[str, Path](), click.get_current_context()
    if given["model"] is None and given["ckpt"] is None and left:
        first = left.pop(0)
        if kind_of(first) == "a table or list" and left and kind_of(left[0]) != kind_of(first):
            raise UsageError(
                f"{first}: is a table or list; the model comes first: `{context.command_path} "
                f"{left[0]} {first}`."
            )
        found["ckpt" if kind_of(first) == "a checkpoint" else "model"] = first
    if given["data"] is None:
        if not left:
            context.fail("Missing option '--data', the labelled images: give them after the model.")
        found["data"] = left.pop(0)
    if left:
        context.fail(f"Got unexpected extra argument ({visible(left[0])}).")
    return found


if __name__ == "__main__":
    main()
