"""From an ONNX file to a plan: one strongly typed path for every TensorRT from 10.3 on.

Precision lives in the ONNX graph (float16 tensors, Q/DQ nodes), so TensorRT does not choose it;
TensorRT 11 removed the flags with which it did. The names of TensorRT used here and in this package
exist in all versions that tests/data/tensorrt_names.json lists.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numclip_export.engine.bindings import Binding, load_binding, set_compute_capabilities
from numclip_export.engine.build_options import EngineOptions
from numclip_export.engine.progress import (
    BuildProgress,
    build_watched,
    interrupt_cancels,
    progress_monitor,
)
from numclip_export.engine.timing_cache import save_timing_cache, use_timing_cache
from numclip_runtime import ModelError, ModelMetadata, UsageError
from numclip_runtime.backends.tensorrt.checks import RTX_CHOICE
from numclip_runtime.backends.tensorrt.module import collecting_logger, reason_of
from numclip_runtime.files import atomic_path, atomic_text, refuse_overwriting, sha256
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.model_files.onnx_file import read_onnx_metadata
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.operators import check_graph
from numclip_runtime.model_files.pin import checksum_line, compared, path_beside
from numclip_runtime.model_files.plan import EngineFacts, encode_metadata

TURING = 75
OUT_OF_MEMORY = "memory ran out: free some, or lower --max-batch or --workspace-mib"
# Advice for TensorRT's build errors, by a part of their text
ADVICE = {
    "FP32 GEMM is not supported": (
        "compute capability 75 has no FP32 matrix products: build from an fp16 model, with the "
        "onnx package installed, or leave 75 out of --compute-capability"
    ),
    "workspace": "give more --workspace-mib, or leave it out",
    "OutOfMemory": OUT_OF_MEMORY,
    "out of memory": OUT_OF_MEMORY,
    "bad_alloc": OUT_OF_MEMORY,
    "driver version is insufficient": (
        "update the NVIDIA driver, or install a TensorRT for the CUDA version that it runs"
    ),
}


@dataclass(frozen=True)
class BuiltEngine:
    """A plan on disk, and how it was built."""

    plan: Path
    sha256: str  # of the plan; also in `<plan>.sha256`, as sha256sum -c reads it
    size: int  # of the plan, bytes
    engine: EngineFacts  # also inside the plan
    seconds: float  # of the build
    notes: tuple[str, ...]  # differences from what was asked for

    def summary(self) -> str:
        """Return the two lines for people."""
        facts, name = self.engine, {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
        return (
            f"{self.plan}: {self.size / 1e6:.1f} MB in {self.seconds:.1f} s, "
            f"{name[facts.builder]} {facts.builder_version} for compute capability "
            f"{capability_text(facts.compute_capabilities)}, batch {facts.min_batch} to "
            f"{facts.max_batch}, fastest at {facts.opt_batch}\n"
            f"sha256 {self.sha256}; see {self.plan}.sha256"
        )


def capability_text(capabilities: Sequence[int] | None) -> str:
    """Return "8.6, 8.9" for (86, 89); None is TensorRT-RTX's own choice."""
    return ", ".join(f"{number / 10:.1f}" for number in capabilities or ()) or RTX_CHOICE


def engine_from_onnx(
    onnx_path: Path,
    plan_path: Path,
    options: EngineOptions | None = None,
    *,
    binding: Binding | None = None,
    metadata: ModelMetadata | None = None,
) -> BuiltEngine:
    """Build an engine from a file that numclip exported; its metadata travel inside.

    Two builds of one file differ in some bytes: TensorRT-RTX names inner values by addresses in
    memory, and TensorRT chooses kernels by timing them. Whether an engine is up to date is seen
    from the ONNX file's hash in its metadata.

    Args:
        onnx_path: ONNX file; its tensors' types decide the precision.
        plan_path: Where the plan goes; `<plan_path>.sha256` goes beside it.
        options: How to build; None: all defaults.
        binding: Builder that fits the options; None loads it.
        metadata: Content of the file's metadata; None reads them.

    Raises:
        ModelError: if the ONNX file is missing, broken, foreign, or cannot be built.
        UsageError: if the options do not fit the model or builder, or the output cannot be
            written.
        MissingDependencyError: if the builder is not installed.
        KeyboardInterrupt: after Ctrl-C or another signal to stop (`Stopped`), once the builder has
            stopped; nothing is left behind.
    """
    progress, chosen = BuildProgress(), options or EngineOptions()
    for output in (plan_path, path_beside(plan_path)):
        refuse_overwriting(output, [onnx_path], "the ONNX file")
    with interrupt_cancels(progress), OpenModel(onnx_path) as source:
        with compared(source, None):
            found = read_onnx_metadata(source)
            check_graph(source)
        metadata = metadata or found
        binding = binding or load_binding(chosen)
        return _build(source, plan_path, chosen, binding, metadata, progress)


def _build(
    source: OpenModel,
    plan_path: Path,
    options: EngineOptions,
    binding: Binding,
    metadata: ModelMetadata,
    progress: BuildProgress,
) -> BuiltEngine:
    started = time.perf_counter()
    trt, onnx_path = binding.module, source.path
    errors: list[str] = []
    notes: list[str] = []
    checksum_path = path_beside(plan_path)
    with (
        atomic_text(checksum_path, sync=True) as checksum_file,
        atomic_path(plan_path, sync=True) as temporary,
    ):
        logger = collecting_logger(trt, errors)
        builder = _start(binding, logger, errors)
        # the parser owns the weights, so it must live until the engine is built
        network, _parser, replaced = _parse(binding, builder, logger, source, options)
        config = builder.create_builder_config()
        batches = _set_batches(builder, network, config, options)
        flags = _set_flags(trt, config, options)
        if replaced:
            flags.append("head-without-gemm")
            notes.append(
                f"{replaced} FP32 matrix products of the head became elementwise products "
                "and sums, which compute capability 7.5 has."
            )
        facts = EngineFacts(
            builder=binding.builder,
            builder_version=binding.version,
            compute_capabilities=_set_targets(binding, config, options),
            min_batch=batches[0],
            opt_batch=batches[1],
            max_batch=batches[2],
            onnx_sha256=source.sha256(),
            flags=tuple(flags),
        )
        network.name = name = encode_metadata(metadata, facts)
        assert network.name == name  # TensorRT drops a name that it finds too long
        if options.timing_cache is not None:
            notes += use_timing_cache(binding, config, options.timing_cache)
        config.progress_monitor = progress_monitor(trt, progress)
        progress.check()
        plan = build_watched(builder, network, config, progress, plan_path.name)
        progress.check()
        if plan is None:
            raise ModelError(
                f"{onnx_path}: no engine could be built ({reason_of(errors, ADVICE)})."
            )
        with temporary.open("wb") as file:
            file.write(plan)
        digest = sha256(temporary)
        checksum_file.write(checksum_line(digest, plan_path.name))
        source.check_unchanged()
        progress.check()
        # First no checksum, then the plan, then its checksum: a kill in between leaves a plan that
        # is whole and runs. With another order it leaves one that its checksum refuses.
        checksum_path.unlink(missing_ok=True)
    if options.timing_cache is not None:
        save_timing_cache(binding, config, options.timing_cache)
    size, seconds = plan_path.stat().st_size, time.perf_counter() - started
    return BuiltEngine(plan_path, digest, size, facts, seconds, tuple(notes))


def _start(binding: Binding, logger: Any, errors: list[str]) -> Any:
    try:
        return binding.module.Builder(logger)
    except Exception as error:  # "factory function returned nullptr", a TypeError
        reason = reason_of(errors or [str(error)], ADVICE)
        raise UsageError(f"{binding.builder} {binding.version} cannot start ({reason}).") from None


def _parse(
    binding: Binding, builder: Any, logger: Any, source: OpenModel, options: EngineOptions
) -> tuple[Any, Any, int]:
    """Parse an ONNX file into a strongly typed network.

    For compute capability 7.5 the head's FP32 matrix products are replaced, if the onnx package is
    installed.

    Returns:
        The network, its parser, and how many matrix products were replaced.

    Raises:
        ModelError: if TensorRT cannot parse the file, or if it lacks numclip's tensor names.
        UsageError: if the model cannot run on a GPU that the options name.
    """
    trt, path, model = binding.module, source.path, source.content[:]
    # The flag is for TensorRT 10; TensorRT 11 has no other kind of network.
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    replaced = 0
    if TURING in options.compute_capabilities and find_spec("onnx") is not None:
        from numclip_export.engine.turing import model_for_turing

        model, replaced = model_for_turing(model, path)
    if not parser.parse(model):
        reasons = [_reason(parser.get_error(i)) for i in range(parser.num_errors)]
        raise ModelError(
            f"{path}: {binding.builder} {binding.version} cannot parse it "
            f"({reason_of(reasons, ADVICE)}); another `numclip-export --opset` may help."
        )
    inputs = {network.get_input(i).name for i in range(network.num_inputs)}
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    missing = ({INPUT_NAME} - inputs) | ({VALUES_NAME, BIN_PROBS_NAME} - outputs)
    if missing or inputs != {INPUT_NAME}:
        raise ModelError(
            f"{path}: the graph has inputs {sorted(inputs)} and outputs {sorted(outputs)}; it was "
            "changed after export."
        )
    return network, parser, replaced


def _reason(parser_error: Any) -> str:
    """Return a parser error as text: the node, and its problem."""
    description = " ".join(parser_error.desc().split())
    if not parser_error.node_operator():
        return description
    return (
        f"node {parser_error.node_name()!r}, operator {parser_error.node_operator()}: {description}"
    )


def _set_batches(
    builder: Any, network: Any, config: Any, options: EngineOptions
) -> tuple[int, int, int]:
    """Add the optimisation profile; return the smallest, optimal and largest batch."""
    image = next(
        tensor
        for tensor in (network.get_input(i) for i in range(network.num_inputs))
        if tensor.name == INPUT_NAME
    )
    batch, *rest = tuple(image.shape)
    batches = options.batches(None if batch < 0 else batch)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, *((size, *rest) for size in batches))
    config.add_optimization_profile(profile)
    return batches


def _set_flags(trt: Any, config: Any, options: EngineOptions) -> list[str]:
    """Set the switches; return the names of those that differ from a plain build."""
    flags = []
    if options.tf32:  # on in a new configuration
        flags.append("tf32")
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        flags.append("version-compatible")
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        flags.append("hardware-compatible")
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    return flags


def _set_targets(binding: Binding, config: Any, options: EngineOptions) -> tuple[int, ...] | None:
    """Set the GPUs that the engine is for; return their compute capabilities."""
    if binding.builder == "tensorrt-rtx":
        set_compute_capabilities(binding.module, config, options.compute_capabilities)
        return options.compute_capabilities or None
    assert binding.compute_capability is not None  # TensorRT is not loaded without a GPU
    return (binding.compute_capability,)
