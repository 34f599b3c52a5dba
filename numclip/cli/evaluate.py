"""`numclip-eval`: evaluate a checkpoint or an exported model on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from numclip.cli.options import COUNT, TABLE_OPTIONS, config_of, options_of
from numclip.evaluation.metrics import evaluate_predictions
from numclip.evaluation.predictions import EvaluationSource
from numclip.evaluation.report import METRICS_FILE, PICTURE_FILE, make_folder, table, write_report
from numclip_runtime import UsageError, __version__
from numclip_runtime.commands import add
from numclip_runtime.console import FILE, SETTINGS, Command, exit_on_error, show
from numclip_runtime.errors import require
from numclip_runtime.files import refuse_overwriting, require_writable

OPTIONS = add(
    options_of(
        EvaluationSource,
        ckpt="Checkpoint of numclip-train; needs torch.",
        model="Exported model; needs what numclip-run needs.",
    ),
    click.option("--data", type=FILE, required=True, help="Labelled images, as for numclip-train."),
    options_of(
        EvaluationSource,
        root="Where image paths start.  [default: the CSV's folder]",
        group_column="Column, such as person: coverage is measured by person as well.",
    ),
    TABLE_OPTIONS,
    click.option("-o", "--output", type=FILE, help="Folder for metrics.json."),
    click.option("--plot", is_flag=True, help="Also draw evaluation.png there."),
    options_of(
        EvaluationSource,
        batch_size=(COUNT, ""),
        workers=(COUNT, "Image loading, in parallel."),
        fast_decode="With --model: as numclip-run --fast-decode.",
    ),
)


@click.command(cls=Command, context_settings=SETTINGS)
@OPTIONS
@click.version_option(__version__)
def main(output: Path | None, plot: bool, **given: Any) -> None:
    """Measure errors, right bins, calibration of the probabilities and coverage of the intervals.

    Use images that neither training nor validation has seen. Exit codes: 0 measured, 2 wrong use
    or bad data.
    """
    with exit_on_error():
        source = config_of(EvaluationSource, given)
        if plot:
            if output is None:
                raise UsageError("--plot needs a folder for the picture; give -o FOLDER.")
            require("plot", "matplotlib")
        if output is not None:
            make_folder(output)
            for name in (METRICS_FILE, PICTURE_FILE) if plot else (METRICS_FILE,):
                require_writable(output / name)
                refuse_overwriting(output / name, (source.file, source.data), "an input")
        found = source.predictions()
        metrics = evaluate_predictions(found)
        show(table(metrics, found.task))
        if output is not None:
            written = write_report(output, metrics, found, source, plot=plot)
            show(f"\nwritten: {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
