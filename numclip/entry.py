"""Entry points: the command `numclip`, and those of `numclip.cli`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from numclip_runtime import UsageError, __version__
from numclip_runtime.commands import CommandOfCommands, Entry
from numclip_runtime.console import SETTINGS, entry_point

train = entry_point("numclip.cli.train")
convert = entry_point("numclip.cli.convert")
zeroshot = entry_point("numclip.cli.zeroshot")
evaluate = entry_point("numclip.cli.evaluate")
distill = entry_point("numclip.cli.distill")


def find_benchmarks() -> None:
    """Make the benchmarks importable, which are in a checkout, but not in the wheel.

    Raises:
        UsageError: if numclip does not run from a checkout.
    """
    checkout = Path(__file__).parents[1]
    if not (checkout / "benchmarks/latency.py").is_file():
        raise UsageError(
            "the benchmarks are not part of the installed package; in a checkout of numclip type "
            "`python benchmarks/latency.py`."
        )
    sys.path.insert(0, str(checkout))


COMMANDS = {
    "run": Entry("numclip_runtime.app.cli:main", "Read numbers off images with a model."),
    "serve": Entry(
        "numclip_runtime.serve.serve_command:main",
        "Answer HTTP requests with numbers off their images.",
    ),
    "train": Entry("numclip.cli.train:main", "Train a model on labelled images."),
    "eval": Entry("numclip.cli.evaluate:main", "Measure a model on labelled images."),
    "export": Entry("numclip_export.cli:main", "Turn a checkpoint into proved model files."),
    "distill": Entry(
        "numclip.cli.distill:main", "Teach a smaller network the numbers of a larger one."
    ),
    "zeroshot": Entry("numclip.cli.zeroshot:main", "Make a model of CLIP without training."),
    "convert": Entry("numclip.cli.convert:main", "Convert models of the authors' code."),
    "doctor": Entry(
        "numclip_runtime.app.doctor.command:doctor",
        "Report on this machine, and whether it can run a model.",
    ),
    "bench": Entry(
        "benchmarks.latency:main",
        "Measure how fast models are; needs a checkout.",
        find_benchmarks,
    ),
}


@click.group(
    cls=CommandOfCommands,
    context_settings=SETTINGS,
    entries=COMMANDS,
    examples=(
        "run model.onnx photos/",
        "train --train train.csv --val val.csv --task age --pretrained openai",
        "export checkpoint.pt",
        "eval model.onnx test.csv",
    ),
    epilog="numclip-run, numclip-train and so on are the same commands.",
)
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """Read numbers off images: train, export, run and measure models."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


if __name__ == "__main__":
    main()
