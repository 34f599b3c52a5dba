"""Options of an export, the target on this machine, and refusals."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import click

from numclip_export.engine.bindings import Binding, NoGpuError, load_binding
from numclip_export.engine.build_options import MAX_BATCH, EngineOptions, EngineTarget
from numclip_runtime import MissingDependencyError, UsageError
from numclip_runtime.errors import require_installed
from numclip_runtime.metadata import InputKind, Precision
from numclip_runtime.model_files.given import kind_of

if TYPE_CHECKING:  # engines are built on devices without the training package's requirements
    from numclip.data.columns import TableOptions

CPU_TARGETS = ("cpu", "openvino")
Target = Literal["auto", "onnx", "cpu", "openvino", "tensorrt", "tensorrt-rtx"]
# Parameters that are for engines only
ENGINE_ONLY = tuple(f.name for f in fields(EngineOptions) if f.name not in ("target", "max_batch"))
# Parameters that may stand beside a finished file, of --web, and of --triton alone
COPIED_FILE = ("source", "onnx_path", "web", "ort_web", "triton")
TRITON_ONLY = ("target", "max_batch")
NOT_OF_A_BUNDLE = (
    *(
        "output",
        "target",
        "precision",
        "fp16",
        "int8",
        "bf16",
        "compute_capabilities",
        "card",
        "push",
    ),
    *("web", "triton", "opset"),
)
IRREGULAR_FLAGS = {
    "verify": "--no-verify",
    "precision": "--precision (--fp16, --int8, --bf16)",
    "compute_capabilities": "--compute-capability",
}


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
FOR_OPENVINO = ResolvedTarget("openvino", "target: OpenVINO on a CPU")
WITHOUT_ENGINE = {"onnx": ONNX_ONLY, "cpu": FOR_CPU, "openvino": FOR_OPENVINO}


@dataclass(frozen=True)
class ExportOptions:
    """Which files to write from a checkpoint, and how they are proved.

    Raises:
        UsageError: if an option would change nothing.
    """

    ckpt: Path  # checkpoint of `numclip-train`
    # The float32 ONNX file. Beside x.onnx go x.fp16.onnx or x.int8.onnx, the engine, x.report.json
    # and x.card.md.
    onnx_path: Path
    precision: Precision = "fp32"  # "fp16" and "int8" write a second file
    bf16: bool = False  # prove that a CPU may run the float32 file in bfloat16, see `Bf16Proof`
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
    # How to read a table of `verify_data` or `calib_data`, see `numclip.TableOptions`
    path_column: str | None = None
    label_column: str | None = None
    skip_unlabelled: bool = False

    def __post_init__(self) -> None:
        if self.bf16 and self.precision != "fp32":
            raise UsageError(
                f"bf16 is proved of the float32 file, and {self.precision} writes another one; run "
                "the export once for each, with another --output."
            )
        if self.bf16 and not self.verify:
            raise UsageError("--bf16 is a proof, which --no-verify skips; leave one of them out.")
        if self.bf16 and not self.for_cpu:
            raise UsageError(
                "--bf16 is for a CPU; choose --target cpu without --web, or leave --bf16 out."
            )
        if self.verify_data is not None and not self.verify:
            raise UsageError("--verify-data has no use with --no-verify; leave one of them out.")
        of_tables = self.path_column or self.label_column or self.skip_unlabelled
        if of_tables and self.verify_data is None and self.calib_data is None:
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
    def table(self) -> TableOptions:
        """How to read tables."""
        from numclip.data.columns import TableOptions

        return TableOptions(
            path_column=self.path_column,
            label_column=self.label_column,
            skip_unlabelled=self.skip_unlabelled,
        )

    @property
    def for_cpu(self) -> bool:
        """Whether the files are for a CPU, in place of an engine."""
        return self.target.target in CPU_TARGETS

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
    if target in CPU_TARGETS and precision == "fp16":
        raise UsageError(
            "fp16 is for GPUs, a CPU computes it more slowly than fp32; use --int8, or leave "
            "--fp16 out."
        )
    built = target in get_args(EngineTarget)
    if not built or (target == "auto" and precision == "fp32"):
        for name in ENGINE_ONLY:
            if getattr(options, name) != getattr(EngineOptions, name):
                raise UsageError(
                    f"{flag_of(name)} is for engines, and none is built; leave it out, or choose "
                    "--target tensorrt or tensorrt-rtx."
                )
        if target == "auto":
            note = "target: ONNX; no engine for fp32 unless --target names a builder"
            return ResolvedTarget("onnx", note)
        if target == "openvino":
            require_installed("openvino", "openvino")  # the files are proved with it
        return WITHOUT_ENGINE[target]
    if target != "auto":
        assert target == "tensorrt" or target == "tensorrt-rtx"
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


def refused_with_onnx(name: str) -> UsageError:
    """Return the error about a parameter of an export, where an engine is built from ONNX."""
    return UsageError(f"{flag_of(name)} is for --ckpt; with --onnx the file itself decides.")


def target_with_onnx(target: Target, *, card: bool) -> EngineTarget:
    """Return the target, where the running command builds an engine from an ONNX file.

    Raises:
        UsageError: naming the first option that is for an export.
    """
    if card:
        raise UsageError("--card needs --ckpt: an ONNX file does not contain its proof.")
    refuse_of_export()
    if target == "onnx" or target == "cpu" or target == "openvino":
        raise UsageError(f"--target {target} builds no engine; choose tensorrt or tensorrt-rtx.")
    return target


def refuse_of_export() -> None:
    """Refuse the options of an export, where the running command has an ONNX file.

    Raises:
        UsageError: naming the first of them.
    """
    source, typed = click.get_current_context().get_parameter_source, click.core.ParameterSource
    for name in ("data", *(field.name for field in fields(ExportOptions))):
        if source(name) == typed.COMMANDLINE and name not in ("onnx_path", "target", "max_batch"):
            raise refused_with_onnx(name)


def refuse_beside_bundle() -> None:
    """Refuse options that choose one form or place, where the running command writes a bundle.

    Raises:
        UsageError: naming the first of them.
    """
    context, typed = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    for name in NOT_OF_A_BUNDLE:
        if context.get_parameter_source(name) == typed:
            raise UsageError(
                f"{flag_of(name)} has no use with --bundle, whose --targets say what is written; "
                "leave it out."
            )


def refuse_beside_copies(*, page: bool) -> None:
    """Refuse other options where the running command copies an ONNX file or a plan.

    Args:
        page: Whether it writes a page; else only a repository for Triton.

    Raises:
        UsageError: naming the first of them.
    """
    context, typed = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    fitting = COPIED_FILE if page else (*COPIED_FILE, *TRITON_ONLY)
    for name in context.params:
        if context.get_parameter_source(name) == typed and name not in fitting:
            raise UsageError(
                f"{flag_of(name)} has no use with --onnx and {'--web' if page else '--triton'}, "
                "which copies the file as it is."
            )


def output_path(source: Path, output: Path | None, suffix: str) -> Path:
    """Return the file for `--output`, a folder or a name with this suffix; None: beside the source.

    Raises:
        UsageError: if the name has the suffix of another kind of file.
    """
    if output is None:
        return source.with_suffix(suffix)
    if output.suffix == suffix and not output.is_dir():
        return output
    if kind_of(output) is not None and not output.is_dir():
        raise UsageError(f"{output}: the name must end in {suffix}, or be that of a folder.")
    return output / f"{source.stem}{suffix}"
