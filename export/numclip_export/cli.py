"""`numclip-export`: from a checkpoint to verified model files, and to an engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import click

from numclip_export.engine.cli import engine_options, options_of, run_build
from numclip_export.option_checks import refuse_with_onnx, refuse_without_use
from numclip_export.options import ENGINE_TARGETS, Target, resolve_target
from numclip_runtime import MissingDependencyError, UsageError, __version__
from numclip_runtime.console import FILE, SETTINGS, exit_on_error
from numclip_runtime.errors import require
from numclip_runtime.files import require_writable
from numclip_runtime.metadata import InputKind, Precision


@click.command(context_settings=SETTINGS)
@click.option("--ckpt", type=FILE, help="Checkpoint of numclip-train.")
@click.option(
    "--onnx", "onnx_path", type=FILE, help="Build an engine from this file of numclip-export."
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Folder, or a name ending in .onnx (.plan with --onnx).  [default: beside the source]",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp32",
    help="fp16 and int8 add x.fp16.onnx or x.int8.onnx.",
)
@click.option(
    "--fp16", "precision", flag_value="fp16", help="Short for --precision fp16.", show_default=False
)
@click.option(
    "--int8", "precision", flag_value="int8", help="Short for --precision int8.", show_default=False
)
@click.option(
    "--target",
    type=click.Choice(get_args(Target)),
    default="auto",
    help="What the files are for. auto: fp32 ONNX only; fp16 and int8 also an engine, where a "
    "TensorRT is at hand.",
)
@click.option(
    "--input",
    type=click.Choice(["auto", *get_args(InputKind)]),
    default="auto",
    help="What the fp16 or int8 file takes: normalised planes, or pixels.  [default: pixels, for "
    "engines and for --int8 --target cpu where the network can]",
)
@click.option(
    "--opset",
    type=click.IntRange(18, 23),
    help="ONNX operator set.  [default: 18; vision transformers for a CPU: 23]",
)
@click.option(
    "--atol",
    type=click.FloatRange(0),
    help="Largest difference of a value, label units; of int8, in the mean.  [default: 1e-5 of "
    "the label range; fp16 0.002; int8 0.005]",
)
@click.option(
    "--verify-data",
    type=FILE,
    help="Folder of images or CSV file.  [default: the checkpoint's validation data]",
)
@click.option(
    "--verify/--no-verify", default=True, help="Compare with the checkpoint, or write unproved."
)
@click.option(
    "--calib-data",
    type=FILE,
    help="Images for int8: folder or CSV.  [default: the checkpoint's validation data]",
)
@click.option("--calib-cache", type=FILE, help="Keeps the calibration of int8 between exports.")
@click.option(
    "--max-batch", type=click.IntRange(1, 4096), help="Compared and built for.  [default: 32]"
)
@click.option("--card", is_flag=True, help="Add x.card.md, a model card for people.")
@engine_options
@click.version_option(__version__)
def main(
    ckpt: Path | None, onnx_path: Path | None, output: Path | None, target: Target, **given: Any
) -> None:
    """Fold the text tower into the head, write ONNX and engines, and prove what was written.

    Exit codes: 0 written and equal, 1 different (nothing is left behind), 2 wrong use.
    """
    with exit_on_error():
        if (ckpt is None) == (onnx_path is None):
            raise UsageError("give either --ckpt, or --onnx to build an engine from an ONNX file.")
        if onnx_path is not None:
            build_only(onnx_path, output, target, given)
        else:
            assert ckpt is not None
            export_and_build(ckpt, output, target, given)


def build_only(onnx_path: Path, output: Path | None, target: Target, given: dict[str, Any]) -> None:
    """Build an engine from an ONNX file, without torch and without the checkpoint."""
    refuse_with_onnx(given)
    if target in ("onnx", "cpu"):
        raise UsageError(
            f"--target {target} builds no engine; choose {' or '.join(ENGINE_TARGETS)}."
        )
    run_build(onnx_path, output, options_of(given | {"target": target}))


def export_and_build(
    ckpt: Path, output: Path | None, target: Target, given: dict[str, Any]
) -> None:
    """Export a checkpoint; then build the engine, if the target has one."""
    precision: Precision = given["precision"]
    goal = resolve_target(target, precision, options_of(given))
    refuse_without_use(given, goal)
    path = onnx_target(ckpt, output)
    engine = None
    if goal.builds:
        engine = options_of(given | {"target": goal.target})
        suffix = ".plan" if precision == "fp32" else f".{precision}.plan"
        for place in (path.with_suffix(suffix), path.with_suffix(f"{suffix}.sha256")):
            require_writable(place)
    require("export,cpu", "torch", "open_clip", "onnx", "onnxscript", "onnxruntime")

    from numclip_export.engine.verify import engine_parity, int8_engine_speed
    from numclip_export.export import Options, export
    from numclip_export.parity import DEFAULT_MAX_BATCH, ParityError
    from numclip_export.report import add_engine, summary

    pixels = goal.builds and precision != "fp32"
    int8_on_cpu = goal.target == "cpu" and precision == "int8"
    kind: InputKind = given["input"]
    if given["input"] == "auto":
        kind = "uint8" if pixels or int8_on_cpu else "float32"
    options = Options(
        precision=precision,
        for_cpu=goal.target == "cpu",
        input=kind,
        opset=given["opset"],
        max_batch=given["max_batch"] or DEFAULT_MAX_BATCH,
        **{
            name: given[name]
            for name in ("atol", "verify", "verify_data", "calib_data", "calib_cache", "card")
        },
    )
    try:
        done = export(ckpt, path, options)
        for line in summary(done.details):
            click.echo(line)
        click.echo(goal.note)
        built = None
        if engine is not None:
            try:
                built = run_build(done.artefacts[-1].path, None, engine)
            except (UsageError, MissingDependencyError) as error:  # a TensorRT that cannot start
                if target != "auto":  # which promises an engine only where that works
                    raise
                click.echo(f"Note: no engine was built here: {error}", err=True)
        if built is not None:
            parity, verification = engine_parity(built.plan, done.gate)
            click.echo(f"{built.plan}: {verification}")
            if parity is not None and precision == "int8" and engine is not None and done.gate:
                images = done.gate.images.of_kind(kind)
                speed = int8_engine_speed(built.plan, done.onnx, engine, images)
                verification += (
                    f"; {speed.int8_ms:.2f} ms, {speed.baseline} {speed.baseline_ms:.2f}"
                )
            add_engine(done, built, parity, verification)
    except ParityError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    if built is None and goal.target != "cpu" and precision != "fp32":
        click.echo(
            f"on the target: numclip-export --onnx {done.artefacts[-1].path.name} --target tensorrt"
        )
    click.echo(f"see {done.report}{f' and {done.card.name}' if done.card else ''}")


def onnx_target(ckpt: Path, output: Path | None) -> Path:
    """Return the path of the ONNX file for `--output`, a folder or a name ending in .onnx.

    Raises:
        UsageError: if the folder does not exist.
    """
    if output is None:
        return ckpt.with_suffix(".onnx")
    target = output if output.suffix == ".onnx" else output / f"{ckpt.stem}.onnx"
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder; create it first.")
    return target


if __name__ == "__main__":
    main()
