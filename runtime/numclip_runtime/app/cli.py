"""`numclip-run`: read numbers off images with an exported model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import click

from numclip_runtime import __version__
from numclip_runtime.app.records import Format
from numclip_runtime.app.run import run
from numclip_runtime.app.run_options import RunOptions
from numclip_runtime.app.video import Every
from numclip_runtime.backends import BackendName, DeviceKind, OpenOptions, device_of
from numclip_runtime.commands import GroupedCommand, Output, group
from numclip_runtime.console import FILE, SETTINGS, exit_on_error, visible
from numclip_runtime.errors import UsageError
from numclip_runtime.model_files.given import is_model_name, kind_of

_BY_SUFFIX: dict[str, Format] = {f".{kind}": kind for kind in get_args(Format) if kind != "table"}


def _every(context: click.Context, parameter: click.Parameter, text: str | None) -> Every | None:
    try:
        return None if text is None else Every.parse(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def _suffix_of(kind: object) -> str:
    return str(kind) if kind in get_args(Format) else "jsonl"  # of click, if it was not given


def _device(context: click.Context, parameter: click.Parameter, name: str) -> DeviceKind:
    try:
        return device_of(name)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


class _RunOrDoctor(GroupedCommand):
    """`numclip-run MODEL INPUTS...`, unless the first word is "doctor"."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if args[:1] == ["doctor"]:  # a model of that name: ./doctor
            from numclip_runtime.app.doctor.command import doctor

            return doctor.make_context(f"{info_name} doctor", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


OUTPUTS = group(
    "Output",
    click.option(
        "-o",
        "--output",
        type=Output(lambda context: f"records.{_suffix_of(context.params.get('kind'))}"),
        help="Write records to this file, or into this folder.",
    ),
    click.option(
        "--format",
        "kind",
        type=click.Choice(get_args(Format)),
        is_eager=True,  # before --output
        help="Default: by the suffix of --output, else table on a terminal and jsonl in a pipe.",
    ),
    click.option(
        "--csv-safe",
        is_flag=True,
        help="Write ' before cells that a spreadsheet would run as a formula, such as =name.jpg.",
    ),
    click.option(
        "--annotate", type=FILE, help="Write copies with the number drawn to this folder."
    ),
    click.option(
        "--report",
        type=Output("report.html"),
        help="Write a gallery, one HTML page, to this file, or into this folder.",
    ),
    click.option(
        "-v", "--verbose", is_flag=True, help="Print to stderr what runs the model and how fast."
    ),
)
INPUTS = group(
    "Input",
    click.option("--model", "named_model", type=FILE, help="The model, in place of MODEL."),
    click.option(
        "--images",
        "--data",
        "named_inputs",
        multiple=True,
        type=click.Path(),
        help="Images, as INPUTS; repeat.",
    ),
    click.option("--every", callback=_every, help="Frames of a video: 10 (each tenth) or 0.5s."),
    click.option("-0", "--null", is_flag=True, help="Paths on standard input end with NUL."),
)
MACHINE = group(
    "Machine",
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="[auto|cpu|cuda]",
        callback=_device,
        help="auto: a GPU where it can be used; cuda (or gpu): a GPU, or an error.",
    ),
    click.option(
        "--backend",
        type=click.Choice(get_args(BackendName)),
        help="Default: onnxruntime for .onnx, tensorrt for .plan.",
    ),
    click.option("--require-gpu", is_flag=True, help="Refuse to run on the CPU."),
    click.option("--sha256", help="Refuse a model file with another SHA-256."),
)
SPEED = group(
    "Speed",
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        show_default="automatic: 1 on a CPU, up to 16 on a GPU",
        help="Images per inference.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1),
        show_default="automatic: 1, or all cores for a single image or a camera",
        help="CPU threads inside one inference.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        show_default="automatic: the usable cores",
        help="Threads that decode.",
    ),
    click.option(
        "--fast-decode",
        is_flag=True,
        help="Decode large JPEGs at 1/2 to 1/8 size; the effect on the value is printed at the "
        "end.",
    ),
)


@click.command(
    cls=_RunOrDoctor,
    context_settings=SETTINGS,
    examples=(
        "model.onnx photo.jpg",
        "model.onnx photos/ -o numbers.csv",
        "model.onnx 'photos/**/*.png' --report page.html",
        "model.onnx camera:0 --every 0.5s",
        "doctor model.onnx",
    ),
    epilog="`doctor [MODEL]` in place of MODEL reports on this machine, and whether it can run it.",
)
@click.argument(
    "words",
    nargs=-1,
    metavar="MODEL INPUTS...",
    type=click.Path(),
)
@INPUTS
@OUTPUTS
@SPEED
@MACHINE
@click.version_option(__version__)
@click.pass_context
def main(
    context: click.Context,
    words: tuple[str, ...],
    named_model: Path | None,
    named_inputs: tuple[str, ...],
    output: Path | None,
    kind: Format | None,
    csv_safe: bool,
    annotate: Path | None,
    report: Path | None,
    every: Every | None,
    null: bool,
    batch_size: int | None,
    threads: int | None,
    workers: int | None,
    fast_decode: bool,
    device: DeviceKind,
    backend: BackendName | None,
    require_gpu: bool,
    sha256: str | None,
    verbose: bool,
) -> None:
    """Read a number off each of INPUTS with MODEL.

    MODEL is a .onnx or .plan file, the name of a model that comes with the package (quality), or
    hf://OWNER/NAME@REVISION.

    INPUTS are image files, folders (searched for images), glob patterns, video files, - (a list of
    paths on standard input), or one camera (camera:0) or stream (rtsp://...).

    Exit codes: 0 all read, 1 some images failed, 2 wrong use or bad model,
    130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP: finished records are kept.
    """
    with exit_on_error():
        model, inputs = in_order(context, named_model, [*words, *named_inputs])
        options = RunOptions(
            opening=OpenOptions(
                threads=threads,
                device=device,
                backend=backend,
                sha256=sha256,
                require_gpu=require_gpu,
                fast_decode=fast_decode,
            ),
            kind=kind or default_format(output),
            output=output,
            csv_safe=csv_safe,
            annotate=annotate,
            report=report,
            every=every,
            null=null,
            batch_size=batch_size,
            workers=workers,
            verbose=verbose,
        )
        code = run(model, inputs, options)
    sys.exit(code)


def in_order(
    context: click.Context, model: Path | None, words: list[str]
) -> tuple[Path, list[str]]:
    """Return model and inputs, where --model may have named the first.

    Raises:
        UsageError: if one is missing, or the model is among the inputs.
    """
    if model is None:
        if not words:
            context.fail("Missing argument 'MODEL'.")
        model = Path(words.pop(0))
    command, kind = context.command_path, kind_of(model)
    if not is_model_name(model):
        if late := [word for word in words if is_model_name(word)]:
            others = " ".join([str(model), *(word for word in words if word != late[0])][:3])
            kind = kind or ("a folder" if model.is_dir() else "not a model")
            raise UsageError(
                f"{model}: is {kind}; the model comes first: `{command} {late[0]} {others}`."
            )
        if not words and kind not in (None, "a checkpoint"):
            raise UsageError(
                f"{model}: is {kind}; the model comes first: `{command} model.onnx {model}`."
            )
    if not words:
        context.fail(f"Missing argument 'INPUTS...': which pictures shall {visible(model)} read?")
    return model, words


def default_format(output: Path | None) -> Format:
    """Choose a format by the output's suffix; without one, a table for a terminal, else JSONL."""
    if output is not None:
        if (suffix := output.suffix.lower()) not in _BY_SUFFIX:
            raise UsageError(
                f"{output}: cannot tell the format from this name; use .json, .jsonl, .csv or "
                ".parquet, or give --format."
            )
        return _BY_SUFFIX[suffix]
    # stdout is None if the caller closed it, which `RunOptions.check` refuses
    return "table" if sys.stdout is not None and sys.stdout.isatty() else "jsonl"
