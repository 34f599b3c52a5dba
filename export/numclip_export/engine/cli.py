"""The part of `numclip-export` that builds an engine from an ONNX file; needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from numclip_export.engine.build import BuiltEngine, engine_from_onnx
from numclip_export.engine.build_options import EngineOptions
from numclip_runtime import UsageError
from numclip_runtime.console import FILE

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


ENGINE_OPTIONS = (
    click.option("--min-batch", type=BATCH, help="[default: 1]"),
    click.option("--opt-batch", type=BATCH, help="The batch to be fastest at.  [default: 8]"),
    click.option("--workspace-mib", type=BATCH, help="Most scratch memory.  [default: all]"),
    click.option("--timing-cache", type=FILE, help="Kept between builds, which it makes faster."),
    click.option("--version-compatible", is_flag=True, help="Run on later TensorRT versions, too."),
    click.option("--hardware-compatible", is_flag=True, help="Run on every GPU from Ampere on."),
    click.option(
        "--compute-capability",
        "compute_capabilities",
        type=compute_capabilities,
        metavar="N,N",
        help="GPUs that a TensorRT-RTX engine is for: 75,86.  [default: 80 and later]",
    ),
    click.option("--tf32", is_flag=True, help="Round FP32 products to 10 bits, head included."),
)
ENGINE_FIELDS = tuple(field.name for field in fields(EngineOptions))


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of an engine to a command; the largest batch is the command's own."""
    for option in reversed(ENGINE_OPTIONS):
        command = option(command)
    return command


def options_of(given: dict[str, Any]) -> EngineOptions:
    """Return the engine's options among a command's, names as in `EngineOptions`."""
    return EngineOptions(
        **{name: given[name] for name in ENGINE_FIELDS if given.get(name) is not None}
    )


def run_build(onnx_path: Path, output: Path | None, options: EngineOptions) -> BuiltEngine:
    """Build an engine and print what was built; exits with 130 where Ctrl-C stopped it."""
    try:
        built = engine_from_onnx(onnx_path, plan_target(onnx_path, output), options)
    except KeyboardInterrupt:
        click.echo("Interrupted: no engine was written.", err=True)
        sys.exit(130)
    for note in built.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(describe(built))
    return built


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
