"""Options of an export: their flags, the target on this machine, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import click

from numclip.cli.options import TABLE_OPTIONS
from numclip.data.columns import PLAIN_TABLE, TableOptions
from numclip_export.engine.bindings import Binding, NoGpuError, load_binding
from numclip_export.engine.build_options import MAX_BATCH, EngineOptions, EngineTarget
from numclip_runtime import MissingDependencyError, UsageError
from numclip_runtime.console import FILE
from numclip_runtime.metadata import InputKind, Precision

Target = Literal["auto", "onnx", "cpu", "tensorrt", "tensorrt-rtx"]
# Parameters that are for engines only
ENGINE_ONLY = tuple(f.name for f in fields(EngineOptions) if f.name not in ("target", "max_batch"))
IRREGULAR_FLAGS = {
    "verify": "--no-verify",
    "precision": "--precision (--fp16, --int8)",
    "compute_capabilities": "--compute-capability",
}
Command = TypeVar("Command", bound=Callable[..., Any])


def flag_of(parameter: str) -> str:
    """Return the flag of a parameter, as people write it."""
    return IRREGULAR_FLAGS.get(parameter, f"--{parameter.replace('_', '-')}")


@dataclass(frozen=True)
class ResolvedTarget:
    """The target of an export on this machine, and why."""

    target: Target = "onnx"  # never "auto"
    note: str = "target: onnx"  # for people: the outcome and its reason
    engine: EngineOptions | None = None  # how to build; None: no engine
    binding: Binding | None = None  # the builder, loaded
    required: bool = True  # whether a builder that cannot start is an error

    @property
    def builds(self) -> bool:
        """Whether an engine is built."""
        return self.engine is not None


ONNX_ONLY = ResolvedTarget()
FOR_CPU = ResolvedTarget("cpu", "target: onnxruntime on a CPU")


@dataclass(frozen=True)
class ExportOptions(TableOptions):
    """Which files to write from a checkpoint, and how they are proved.

    Raises:
        UsageError: if an option would change nothing.
    """

    ckpt: Path  # checkpoint of `numclip-train`
    # The float32 ONNX file. Beside x.onnx go x.fp16.onnx or x.int8.onnx, the engine, x.report.json
    # and x.card.md.
    onnx_path: Path
    precision: Precision = "fp32"  # "fp16" and "int8" write a second file
    target: ResolvedTarget = ONNX_ONLY
    # Of the second file; the float32 file reads float32 planes. A CPU's INT8 file reads pixels only
    # where it begins with a patch embedding. auto: pixels for engines and a CPU's INT8.
    input: Literal[InputKind, "auto"] = "auto"
    # ONNX operator set. None: 18, which TensorRT 10.3 reads (its INT8 needs 19); transformers for a
    # CPU 23: attention is one node there.
    opset: int | None = None
    atol: float | None = None  # largest difference of a value, label units; None: see BUDGETS
    verify: bool = True  # False writes without comparing; file and report state it
    verify_data: Path | None = None  # images to compare on, see `verify_images`
    max_batch: int = MAX_BATCH  # largest batch size compared
    calib_data: Path | None = None  # images INT8 is calibrated with, see `int8_data`
    calib_cache: Path | None = None  # keeps the ranges that the calibration measured
    card: bool = False  # whether to write a model card

    def __post_init__(self) -> None:
        if self.verify_data is not None and not self.verify:
            raise UsageError("--verify-data has no use with --no-verify; leave one of them out.")
        if self.table != PLAIN_TABLE and self.verify_data is None and self.calib_data is None:
            raise UsageError(
                "--path-column, --label-column and --skip-unlabelled need --verify-data or "
                "--calib-data with a table."
            )
        for name in ("calib_data", "calib_cache"):
            if self.precision != "int8" and getattr(self, name) is not None:
                raise UsageError(f"{flag_of(name)} is for --int8; leave it out, or add --int8.")
        if self.input == "uint8" and self.precision == "fp32":
            raise UsageError(
                "--input uint8 is for fp16 and int8; the fp32 file reads float32 planes."
            )

    @property
    def for_cpu(self) -> bool:
        """Whether the files are for onnxruntime on a CPU, in place of an engine."""
        return self.target.target == "cpu"

    @property
    def second_input(self) -> InputKind:
        """The kind of input of the fp16 or int8 file."""
        if self.input != "auto":
            return self.input
        pixels = self.precision != "fp32" and (self.target.builds or self.for_cpu)
        return "uint8" if pixels else "float32"


def resolve_target(target: Target, precision: Precision, options: EngineOptions) -> ResolvedTarget:
    """Decide what `auto` means on this machine, and refuse combinations that make no sense.

    Args:
        target: As asked for.
        precision: Of the file that an engine would be built from.
        options: Of the engine.

    Raises:
        UsageError: if the target cannot use the precision, the builder cannot do what the options
            ask for, or an engine's options are given where none is built.
        MissingDependencyError: if the builder that was asked for is not installed.
    """
    if target == "cpu" and precision == "fp16":
        raise UsageError(
            "fp16 is for GPUs, a CPU computes it more slowly than fp32; use --int8, or leave "
            "--fp16 out."
        )
    if target == "cpu" or target == "onnx" or (target == "auto" and precision == "fp32"):
        for name in ENGINE_ONLY:
            if getattr(options, name) != getattr(EngineOptions, name):
                raise UsageError(
                    f"{flag_of(name)} is for engines, and none is built; leave it out, or choose "
                    "--target tensorrt or tensorrt-rtx."
                )
        if target == "auto":
            note = "target: ONNX; no engine for fp32 unless --target names a builder"
            return ResolvedTarget("onnx", note)
        return FOR_CPU if target == "cpu" else ONNX_ONLY
    if target != "auto":
        options = replace(options, target=target)
        binding = load_binding(options)
        return ResolvedTarget(target, f"target: {target} {binding.version}", options, binding)
    try:
        binding = load_binding(options)
    except MissingDependencyError as error:
        form: Target = "cpu" if precision == "int8" else "onnx"
        return ResolvedTarget(form, f"target: {form}; no engine was built here: {error}")
    except NoGpuError as error:
        return ResolvedTarget("onnx", f"target: ONNX; no engine was built here: {error}")
    options = replace(options, target=binding.builder)
    note = f"target: {binding.builder} {binding.version}, found here"
    return ResolvedTarget(binding.builder, note, options, binding, required=False)


def target_with_onnx(target: Target, *, card: bool) -> EngineTarget:
    """Return the target, where the running command builds an engine from an ONNX file.

    Raises:
        UsageError: naming the first option that is for an export.
    """
    if card:
        raise UsageError("--card needs --ckpt: an ONNX file does not contain its proof.")
    source, typed = click.get_current_context().get_parameter_source, click.core.ParameterSource
    for name in (field.name for field in fields(ExportOptions)):
        if source(name) == typed.COMMANDLINE and name not in ("onnx_path", "target", "max_batch"):
            raise UsageError(f"{flag_of(name)} is for --ckpt; with --onnx the file itself decides.")
    if target == "onnx" or target == "cpu":
        raise UsageError(f"--target {target} builds no engine; choose tensorrt or tensorrt-rtx.")
    return target


def output_path(source: Path, output: Path | None, suffix: str) -> Path:
    """Return the file for `--output`, a folder or a name with this suffix; None: beside the source.

    Raises:
        UsageError: if the folder does not exist.
    """
    if output is None:
        return source.with_suffix(suffix)
    path = output if output.suffix == suffix else output / f"{source.stem}{suffix}"
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder; create it first.")
    return path


def compute_capabilities(text: str) -> tuple[int, ...]:
    """Return (75, 86) for "75,86" or "7.5,8.6"."""
    words = [word.strip().lower().removeprefix("sm").replace(".", "") for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(
            f"{text!r} is not a list of compute capabilities such as 86,89,120."
        )
    return tuple(map(int, words))


FLAGS: tuple[Callable[[Any], Any], ...] = (
    click.option("--ckpt", type=FILE, help="Checkpoint of numclip-train."),
    click.option(
        "--onnx", "onnx_path", type=FILE, help="Build an engine from this file of numclip-export."
    ),
    click.option(
        "-o",
        "--output",
        type=FILE,
        help="Folder, or a name ending in .onnx (.plan with --onnx).  [default: beside the source]",
    ),
    click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default=ExportOptions.precision,
        help="fp16 and int8 add x.fp16.onnx or x.int8.onnx.",
    ),
    *(
        click.option(f"--{name}", "precision", flag_value=name, show_default=False, help=text)
        for name, text in (
            ("fp16", "Short for --precision fp16."),
            ("int8", "Short for --precision int8."),
        )
    ),
    click.option(
        "--target",
        type=click.Choice(get_args(Target)),
        default="auto",
        help="Purpose of the files. auto: fp32 ONNX only; fp16 and int8 also an engine, where a "
        "TensorRT is at hand.",
    ),
    click.option(
        "--input",
        type=click.Choice(["auto", *get_args(InputKind)]),
        default=ExportOptions.input,
        help="Input of the fp16 or int8 file: normalised planes, or pixels.  [default: pixels, "
        "for engines and for --int8 --target cpu where the network can]",
    ),
    click.option(
        "--opset",
        type=click.IntRange(18, 23),
        help="ONNX operator set.  [default: 18; vision transformers for a CPU: 23]",
    ),
    click.option(
        "--atol",
        type=click.FloatRange(0),
        help="Largest difference of a value, label units; of int8, in the mean.  [default: 1e-5 of "
        "the label range; fp16 0.002; int8 0.005]",
    ),
    click.option(
        "--verify-data",
        type=FILE,
        help="Folder of images or CSV file.  [default: the checkpoint's validation data]",
    ),
    click.option(
        "--verify/--no-verify",
        default=ExportOptions.verify,
        help="Compare with the checkpoint, or write unproved.",
    ),
    click.option(
        "--calib-data",
        type=FILE,
        help="Images for int8: folder or CSV.  [default: the checkpoint's validation data]",
    ),
    TABLE_OPTIONS,
    click.option("--calib-cache", type=FILE, help="Keeps the calibration of int8 between exports."),
    click.option(
        "--max-batch",
        type=click.IntRange(1, 4096),
        help=f"Compared and built for.  [default: {MAX_BATCH}]",
    ),
    click.option("--card", is_flag=True, help="Add x.card.md, a model card for people."),
    click.option("--min-batch", type=click.IntRange(1), help="[default: 1]"),
    click.option(
        "--opt-batch", type=click.IntRange(1), help="The batch to be fastest at.  [default: 8]"
    ),
    click.option(
        "--workspace-mib", type=click.IntRange(1), help="Most scratch memory.  [default: all]"
    ),
    click.option("--timing-cache", type=FILE, help="Kept between builds, which it makes faster."),
    click.option(
        "--version-compatible", is_flag=True, help="Run on later TensorRT versions as well."
    ),
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


def export_flags(command: Command) -> Command:
    """Add the flags of `numclip-export` to a command."""
    for flag in reversed(FLAGS):
        command = flag(command)
    return command
