"""From an ONNX file to a plan: one strongly typed path for every TensorRT from 10.3 on.

Precision lives in the ONNX graph (float16 tensors, Q/DQ nodes), so TensorRT has no say in it;
TensorRT 11 removed the flags by which it had. The names of TensorRT used here and in this package
exist in all versions that tests/data/tensorrt_names.json lists.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numclip_export.engine.bindings import Binding, load_binding
from numclip_export.engine.build_options import EngineOptions
from numclip_export.engine.log import collecting_logger, reason_of
from numclip_export.engine.network import parse_onnx
from numclip_export.engine.progress import (
    Progress,
    build_watched,
    interrupt_cancels,
    progress_monitor,
)
from numclip_export.engine.rtx import set_compute_capabilities
from numclip_export.engine.timing_cache import save_timing_cache, use_timing_cache
from numclip_runtime import ModelError, UsageError, read_metadata
from numclip_runtime.files import atomic_path, atomic_text, sha256
from numclip_runtime.metadata import INPUT_NAME
from numclip_runtime.plan import EngineFacts, encode_metadata


@dataclass(frozen=True)
class BuiltEngine:
    """What a build left on disk."""

    plan: Path
    sha256: str  # of the plan; also in `<plan>.sha256`, as sha256sum -c reads it
    size: int  # of the plan, bytes
    engine: EngineFacts  # also inside the plan
    seconds: float  # of the build
    notes: tuple[str, ...]  # what differs from what was asked for


def engine_from_onnx(
    onnx_path: Path, plan_path: Path, options: EngineOptions | None = None
) -> BuiltEngine:
    """Build an engine from a file that numclip exported; its metadata travel inside.

    Two builds of one file differ in some bytes: TensorRT-RTX names inner values by addresses in
    memory, and TensorRT chooses kernels by timing them. What tells whether an engine is up to date
    is the ONNX file's hash in its metadata.

    Args:
        onnx_path: ONNX file; its tensors' types decide the precision.
        plan_path: Where the plan goes; `<plan_path>.sha256` goes beside it.
        options: How to build; None: all defaults.

    Raises:
        ModelError: if the ONNX file is missing, broken, foreign, or cannot be built.
        UsageError: if the options do not fit the model or builder, or the output cannot be
            written.
        MissingDependencyError: if the builder is not installed.
        KeyboardInterrupt: after Ctrl-C, once the builder has stopped; nothing is left behind.
    """
    progress = Progress()
    with interrupt_cancels(progress):
        return _build(onnx_path, plan_path, options or EngineOptions(), progress)


def _build(
    onnx_path: Path, plan_path: Path, options: EngineOptions, progress: Progress
) -> BuiltEngine:
    started = time.perf_counter()
    metadata = read_metadata(onnx_path)
    binding = load_binding(options)
    trt = binding.module
    errors: list[str] = []
    notes: list[str] = []
    checksum_path = plan_path.with_name(f"{plan_path.name}.sha256")
    with atomic_text(checksum_path) as checksum_file, atomic_path(plan_path) as temporary:
        logger = collecting_logger(trt, errors)
        builder = _start(binding, logger, errors)
        parsed = parse_onnx(binding, builder, logger, onnx_path, options)
        network, config = parsed.network, builder.create_builder_config()
        batches = _set_batches(builder, network, config, options)
        flags = _set_flags(trt, config, options)
        if parsed.replaced:
            flags.append("head-without-gemm")
            notes.append(
                f"{parsed.replaced} FP32 matrix products of the head became elementwise products "
                "and sums, which compute capability 7.5 has."
            )
        facts = EngineFacts(
            builder=binding.builder,
            builder_version=binding.version,
            compute_capabilities=_set_targets(binding, config, options),
            min_batch=batches[0],
            opt_batch=batches[1],
            max_batch=batches[2],
            onnx_sha256=sha256(onnx_path),
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
            raise ModelError(f"{onnx_path}: no engine could be built ({reason_of(errors)}).")
        with temporary.open("wb") as file:
            file.write(plan)
        digest = sha256(temporary)
        checksum_file.write(f"{digest}  {plan_path.name}\n")
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
        reason = reason_of(errors or [str(error)])
        raise UsageError(f"{binding.builder} {binding.version} cannot start ({reason}).") from None


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
    """Set what is on or off; return the names of what differs from a plain build."""
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
