"""TensorRT-RTX only: engines for several GPUs, named by their compute capability."""

from __future__ import annotations

from typing import Any

from numclip_runtime import UsageError


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
    """Build for these GPUs, checked before; if none is named, for 8.0 and later."""
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)
