"""Find the TensorRT builder that works on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numclip_export.engine.build_options import EngineOptions
from numclip_runtime import MissingDependencyError, UsageError
from numclip_runtime.backends.tensorrt.module import INSTALL, Module, installed, load_module
from numclip_runtime.cuda.probe import CudaDriver, probe_cuda
from numclip_runtime.model_files.plan import Builder

MODULES: dict[Builder, Module] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


class NoGpuError(UsageError):
    """The builder is installed, but builds on a GPU only, and this machine has no working GPU."""


@dataclass(frozen=True)
class Binding:
    """A builder that works on this machine."""

    builder: Builder
    module: Any  # `tensorrt` or `tensorrt_rtx`
    version: str  # "10.3.0", "1.7.1.116"
    compute_capability: int | None  # of this machine's first GPU, 86 means 8.6; None: no GPU


def load_binding(options: EngineOptions, driver: CudaDriver | None = None) -> Binding:
    """Load the builder that the options ask for.

    `auto` is TensorRT where it is installed and a GPU works, else TensorRT-RTX, which builds
    without a GPU; compute capabilities are an option of TensorRT-RTX only, so they choose it.

    Args:
        options: The target, and features that the builder must have.
        driver: Result of `probe_cuda`; None calls it.

    Raises:
        MissingDependencyError: if the builder is not installed, or does not load.
        UsageError: if the builder does not support the options.
        NoGpuError: if it needs a GPU.
    """
    driver = driver or probe_cuda()
    builder = options.target if options.target != "auto" else _choose(options, driver)
    options.check(builder)
    if builder == "tensorrt" and driver.problem is not None and installed(MODULES[builder]):
        # Without a driver TensorRT returns None or crashes the process, so it is not even loaded.
        raise NoGpuError(
            f"TensorRT builds on the GPU that will run the engine, and here is {driver.problem}; "
            "build on the device, or use --target tensorrt-rtx, which needs no GPU."
        )
    module = load_module(MODULES[builder])
    if builder == "tensorrt-rtx":
        check_compute_capabilities(module, options.compute_capabilities)
    capability = driver.devices[0].compute_capability if driver.devices else None
    return Binding(builder, module, str(module.__version__), capability)


def _choose(options: EngineOptions, driver: CudaDriver) -> Builder:
    if options.compute_capabilities:
        return "tensorrt-rtx"
    if installed("tensorrt") and (driver.problem is None or not installed("tensorrt_rtx")):
        return "tensorrt"
    if installed("tensorrt_rtx"):
        return "tensorrt-rtx"
    raise MissingDependencyError(
        f"no TensorRT is installed. TensorRT-RTX, which builds without a GPU, installs "
        f"{INSTALL['tensorrt_rtx']}. TensorRT installs {INSTALL['tensorrt']}."
    )


def supported_compute_capabilities(trt: Any) -> list[int]:
    """Return the compute capabilities that this TensorRT-RTX supports, 86 means 8.6."""
    names = (name.removeprefix("SM") for name in trt.ComputeCapability.__members__)
    return sorted(int(name) for name in names if name.isdigit())


def check_compute_capabilities(trt: Any, capabilities: tuple[int, ...]) -> None:
    """Refuse compute capabilities that TensorRT-RTX cannot build for.

    Raises:
        UsageError: if TensorRT-RTX does not know one of them.
    """
    supported = supported_compute_capabilities(trt)
    if unknown := sorted(set(capabilities) - set(supported)):
        raise UsageError(
            f"TensorRT-RTX {trt.__version__} builds for the compute capabilities "
            f"{', '.join(map(str, supported))}, not for {', '.join(map(str, unknown))}; leave it "
            "out, or build with --target tensorrt on that GPU."
        )


def set_compute_capabilities(trt: Any, config: Any, capabilities: tuple[int, ...]) -> None:
    """Build for these GPUs, checked before; if none is named, for TensorRT-RTX's choice."""
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)
