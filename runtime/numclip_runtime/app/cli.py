"""`numclip-run`: read numbers off images with an exported model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from numclip_runtime import __version__
from numclip_runtime.app.flags import INPUTS, MACHINE, MONITOR, OUTPUTS, SPEED
from numclip_runtime.app.monitoring.monitor_options import MonitorOptions
from numclip_runtime.app.run import run
from numclip_runtime.app.run_options import Engine, RunOptions
from numclip_runtime.app.video import Every
from numclip_runtime.backends import BackendName, DeviceKind, OpenOptions
from numclip_runtime.commands import GroupedCommand
from numclip_runtime.console import SETTINGS, exit_on_error, visible
from numclip_runtime.errors import UsageError
from numclip_runtime.model_files.given import is_bundle, is_model_name, kind_of
from numclip_runtime.remote.addresses import SCHEMES, refuse_address, scheme_of
from numclip_runtime.results.records import Format, PartFormat

if TYPE_CHECKING:
    from numclip_runtime.remote.upload import RemoteOutput

_BY_SUFFIX: dict[str, Format] = {f".{kind}": kind for kind in get_args(Format) if kind != "table"}


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


@click.command(
    cls=_RunOrDoctor,
    context_settings=SETTINGS,
    examples=(
        "model.onnx photo.jpg",
        "model.onnx photos/ -o numbers.csv",
        "model.onnx 'photos/**/*.png' --report page.html",
        "model.onnx s3://bucket/photos/ -o s3://bucket/numbers.parquet",
        "model.onnx camera:0 --every 0.5s",
        "model.onnx --watch incoming/ -o records/",
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
@MONITOR
@SPEED
@MACHINE
@click.version_option(__version__)
@click.pass_context
def main(
    context: click.Context,
    words: tuple[str, ...],
    named_model: Path | None,
    named_inputs: tuple[str, ...],
    watched: Path | None,
    poll: float | None,
    output: Path | RemoteOutput | None,
    kind: Format | None,
    csv_safe: bool,
    annotate: Path | None,
    resume: bool,
    retry_failed: bool,
    report: Path | None,
    monitor: Path | None,
    monitor_every: int | None,
    monitor_reference: Path | None,
    write_reference: Path | None,
    every: Every | None,
    null: bool,
    batch_size: int | None,
    threads: int | None,
    workers: int | None,
    fast_decode: bool,
    device: DeviceKind,
    backend: BackendName | None,
    bf16: bool | None,
    engine: Engine,
    ray_address: str | None,
    require_gpu: bool,
    sha256: str | None,
    verbose: bool,
) -> None:
    """Read a number off each of INPUTS with MODEL.

    MODEL is a .onnx or .plan file, a bundle (a folder of which the best file for this machine
    runs), the name of a model that comes with the package (quality), hf://OWNER/NAME@REVISION, or
    triton://HOST:PORT/MODEL on a Triton server.

    INPUTS are image files, folders (searched for images), glob patterns, the same in a store
    (s3://BUCKET/FOLDER/, gs://, az://), pictures on the web (https://...jpg), video files, - (a
    list of paths on standard input), or one camera (camera:0) or stream (rtsp://...).

    Exit codes: 0 all read, 1 some images failed, 2 wrong use or bad model,
    130, 143 or 129 stopped by Ctrl-C, SIGTERM or SIGHUP: finished records are kept.
    """
    with exit_on_error():
        inputs = [*words, *named_inputs]
        if watched is not None:
            inputs.append(os.fspath(watched))
        model, inputs = in_order(context, named_model, inputs)
        options = RunOptions(
            opening=OpenOptions(
                threads=threads,
                device=device,
                backend=backend,
                sha256=sha256,
                require_gpu=require_gpu,
                fast_decode=fast_decode,
                bf16=bf16,
            ),
            kind=kind or default_format(output, parts=resume or watched is not None, engine=engine),
            output=output if isinstance(output, Path) else None,
            remote=None if isinstance(output, Path) else output,
            csv_safe=csv_safe,
            annotate=annotate,
            report=report,
            monitoring=MonitorOptions(monitor, monitor_every, monitor_reference, write_reference),
            every=every,
            null=null,
            batch_size=batch_size,
            workers=workers,
            resume=resume,
            watched=watched is not None,
            poll_s=RunOptions.poll_s if poll is None else poll,
            retry_failed=retry_failed,
            engine=engine,
            ray_address=ray_address,
            verbose=verbose,
        )
        if watched is None:
            if poll is not None:
                raise UsageError("--poll is for --watch; add --watch FOLDER, or leave it out.")
            code = run(model, inputs, options)
        elif len(inputs) > 1:
            raise UsageError(
                f"--watch {watched}: takes the place of INPUTS; leave {inputs[0]} out."
            )
        else:
            from numclip_runtime.app.watching.watch import watch

            code = watch(model, watched, options)
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
        if scheme_of(words[0]) in SCHEMES:
            refuse_address(words[0], "a model is a file of this machine, or on a hub (hf://)")
        model = Path(words.pop(0))
    command, kind = context.command_path, kind_of(model)
    if not is_model_name(model) and not is_bundle(model):
        if late := [word for word in words if is_model_name(word) or is_bundle(word)]:
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


def default_format(
    output: Path | RemoteOutput | None, *, parts: bool = False, engine: Engine = "local"
) -> Format:
    """Choose a format by the output's suffix; without one, a table for a terminal, else JSONL.

    Args:
        output: File, or folder of parts; None: standard output.
        parts: Whether `output` is a folder of parts, as it is with Ray. Its manifest tells the
            format; a new one is Parquet with Ray, and JSONL without.
        engine: What the models run in.
    """
    if parts or engine == "ray":
        if not (output is None or isinstance(output, Path)):
            raise UsageError(f"{output}: a folder of parts is on this machine; give a local one.")
        from numclip_runtime.jobs.manifest import Manifest  # most runs write one file

        new: PartFormat = "parquet" if engine == "ray" else "jsonl"
        return new if output is None else Manifest.format_in(output, new)
    if output is not None:
        if (suffix := output.suffix.lower()) not in _BY_SUFFIX:
            raise UsageError(
                f"{output}: cannot tell the format from this name; use .json, .jsonl, .csv or "
                ".parquet, or give --format."
            )
        return _BY_SUFFIX[suffix]
    # stdout is None if the caller closed it, which `RunOptions.check` refuses
    return "table" if sys.stdout is not None and sys.stdout.isatty() else "jsonl"
