"""`numclip-export --onnx`: from a verified ONNX file to a TensorRT engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import click

from numclip_export.engine.build import BuiltEngine, engine_from_onnx
from numclip_export.engine.options import EngineOptions, Target
from numclip_runtime import UsageError
from numclip_runtime.cli import errors_as_exit_code_2

FILE = click.Path(path_type=Path)
BATCH = click.IntRange(1)


def compute_capabilities(text: str) -> tuple[int, ...]:
    """Return (75, 86) for "75,86" or "7.5,8.6"."""
    words = [word.strip().lower().removeprefix("sm").replace(".", "") for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(f"{text!r} is no list of compute capabilities such as 86,89,120.")
    return tuple(map(int, words))


def plan_target(onnx_path: Path, output: Path | None) -> Path:
    """Return the plan's path for `--output`, a folder or a name ending in .plan.

    Raises:
        UsageError: if the folder does not exist.
    """
    if output is None:
        return onnx_path.with_suffix(".plan")
    target = output if output.suffix == ".plan" else output / f"{onnx_path.stem}.plan"
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder; create it first.")
    return target


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--onnx", "onnx_path", type=FILE, required=True, help="File of numclip-export.")
@click.option(
    "--target",
    type=click.Choice(get_args(Target)),
    default="auto",
    help="Builder. auto: TensorRT where a GPU is, else TensorRT-RTX.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Folder, or a name ending in .plan.  [default: beside the ONNX file]",
)
@click.option("--min-batch", type=BATCH, help="[default: 1]")
@click.option("--opt-batch", type=BATCH, help="The batch to be fastest at.  [default: 8]")
@click.option("--max-batch", type=BATCH, help="[default: 32]")
@click.option("--workspace-mib", type=BATCH, help="Most scratch memory.  [default: all there is]")
@click.option("--timing-cache", type=FILE, help="Kept between builds, which it makes faster.")
@click.option("--version-compatible", is_flag=True, help="Run on later TensorRT versions, too.")
@click.option("--hardware-compatible", is_flag=True, help="Run on every GPU from Ampere on.")
@click.option(
    "--compute-capability",
    "compute_capabilities",
    type=compute_capabilities,
    metavar="N,N",
    help="GPUs that a TensorRT-RTX engine is for: 75,86.  [default: 80 and later]",
)
@click.option("--tf32", is_flag=True, help="Round FP32 products to 10 bits, head included.")
def build_command(onnx_path: Path, output: Path | None, **options: Any) -> None:
    """Build a TensorRT engine; its metadata travel inside the plan.

    Exit codes: 0 built, 2 wrong use or a model that cannot be built, 130 interrupted.
    """
    with errors_as_exit_code_2():
        run_build(onnx_path, output, options)


def run_build(onnx_path: Path, output: Path | None, options: dict[str, Any]) -> None:
    """Build as the command's options say (names as in `EngineOptions`) and print what was built."""
    chosen = EngineOptions(**{k: v for k, v in options.items() if v is not None})
    try:
        built = engine_from_onnx(onnx_path, plan_target(onnx_path, output), chosen)
    except KeyboardInterrupt:
        click.echo("Interrupted: no engine was written.", err=True)
        sys.exit(130)
    for note in built.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(describe(built))


def describe(built: BuiltEngine) -> str:
    """Return what was built, for people."""
    engine = built.engine
    capabilities = (
        ", ".join(f"{number / 10:.1f}" for number in engine.compute_capabilities)
        if engine.compute_capabilities
        else "8.0 and later"
    )
    name = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[engine.builder]
    return (
        f"{built.plan}: {built.size / 1e6:.1f} MB in {built.seconds:.1f} s, {name} "
        f"{engine.builder_version} for compute capability {capabilities}, batch "
        f"{engine.min_batch} to {engine.max_batch}, fastest at {engine.opt_batch}\n"
        f"sha256 {built.sha256}; see {built.plan}.sha256"
    )


if __name__ == "__main__":
    build_command()
