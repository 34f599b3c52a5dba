"""The part of TensorRT-RTX that TensorRT lacks; a test compares its names with the packages."""

from __future__ import annotations

from typing import Any


def eager_execution(trt: Any, engine: Any) -> Any:
    """Return an execution context that compiles kernels for a shape before it runs it.

    By default TensorRT-RTX compiles them in the background and meanwhile runs slower ones; a CUDA
    graph captured then would always repeat the slower ones.
    """
    runtime_config = engine.create_runtime_config()
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
    return engine.create_execution_context(runtime_config)
