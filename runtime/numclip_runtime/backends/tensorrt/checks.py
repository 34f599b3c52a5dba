"""Checks whether a plan can run here, before TensorRT is loaded or gets a byte of it.

Given a plan that does not fit, TensorRT returns None or crashes.
"""

from __future__ import annotations

import re
from pathlib import Path

from numclip_runtime.backends.tensorrt.module import Module, installed
from numclip_runtime.cuda.probe import CudaDevice, CudaDriver
from numclip_runtime.errors import GpuRequiredError, ModelError
from numclip_runtime.model_files.plan import Builder, PlanInfo

AMPERE = 80
# Targets of TensorRT-RTX 1.4 to 1.7, which later GPUs than the last of them run as well. A GPU
# between them needs TensorRT: on an H200, 9.0, TensorRT-RTX 1.7.1 refused its own plans.
RTX_COMPUTE_CAPABILITIES = (75, 80, 86, 89, 120, 121)
RTX_CHOICE = "8.0, 8.6, 8.9, 12.0 or later"  # where a build names no target
NAMES: dict[Builder, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def check_gpu(path: Path, info: PlanInfo, driver: CudaDriver) -> CudaDevice:
    """Return the GPU that will run the plan: the first that CUDA_VISIBLE_DEVICES shows.

    Raises:
        GpuRequiredError: if there is none, or the plan is for others.
    """
    if driver.problem is not None:
        raise GpuRequiredError(
            f"{path}: a plan runs on an NVIDIA GPU, and none can be used: {driver.problem}; run "
            "the ONNX file it was built from, or go to a machine with a GPU."
        )
    device = driver.devices[0]
    capability = device.compute_capability
    if not fits_gpu(info, capability):
        raise GpuRequiredError(
            f"{path}: built for compute capability {targets(info)}, and {device.name} has "
            f"{_point(capability)}; build it for this GPU with `{rebuild(path, info, capability)}`."
        )
    return device


def fits_gpu(info: PlanInfo, capability: int) -> bool:
    """Return whether a plan was built for GPUs of this compute capability, 86 means 8.6."""
    if not _any_ampere(info):
        return capability in (info.engine.compute_capabilities or ())
    has_kernels = info.builder != "tensorrt-rtx" or _rtx_runs_on(capability)
    return capability >= AMPERE and has_kernels


def _rtx_runs_on(capability: int) -> bool:
    return capability in RTX_COMPUTE_CAPABILITIES or capability > RTX_COMPUTE_CAPABILITIES[-1]


def _any_ampere(info: PlanInfo) -> bool:
    facts = info.engine
    return facts.compute_capabilities is None or "hardware-compatible" in facts.flags


def targets(info: PlanInfo) -> str:
    """Return the compute capabilities of a plan's target GPUs, for people."""
    if _any_ampere(info):
        return RTX_CHOICE if info.builder == "tensorrt-rtx" else f"{_point(AMPERE)} or later"
    return " or ".join(map(_point, info.engine.compute_capabilities or ()))


def choose_module(info: PlanInfo) -> Module:
    """Return the package that runs the plan; if none is installed, the one to install."""
    if info.builder == "tensorrt-rtx":
        return "tensorrt_rtx"
    lean = "version-compatible" in info.engine.flags and not installed("tensorrt")
    return "tensorrt_lean" if lean and installed("tensorrt_lean") else "tensorrt"


def check_version(path: Path, info: PlanInfo, version: str, device: CudaDevice) -> None:
    """Refuse a plan of another TensorRT version.

    TensorRT runs plans of its own version, and version-compatible plans of earlier ones;
    TensorRT-RTX runs those of its own release only.

    Args:
        path: Named in errors.
        info: Metadata of the plan.
        version: Of the installed package, such as "10.3.0" or "1.7.1.116".
        device: The GPU that will run it.

    Raises:
        ModelError: naming both versions and the command that builds the plan again.
    """
    if fits_version(info, version):
        return
    older = "version-compatible" in info.engine.flags
    name = NAMES[info.builder]
    takes = "plans of its own version or before" if older else "plans of its own version only"
    raise ModelError(
        f"{path}: built by {name} {built_by(info)}, and installed is {name} {version}, which runs "
        f"{takes}; build it again with `{rebuild(path, info, device.compute_capability)}`."
    )


def fits_version(info: PlanInfo, version: str) -> bool:
    """Return whether TensorRT of this version runs a plan; see `check_version`."""
    here, there = (tuple(map(int, re.findall(r"\d+", v))) for v in (version, built_by(info)))
    length = min(len(here), len(there))  # JetPack's package omits the fourth number
    older = "version-compatible" in info.engine.flags
    return here[:length] == there[:length] or (older and here[:length] > there[:length])


def built_by(info: PlanInfo) -> str:
    """Return the version of TensorRT that built a plan: by its header, else by its metadata."""
    return info.version or info.engine.builder_version


def rebuild(path: Path, info: PlanInfo, capability: int) -> str:
    """Return the command that builds a plan again, for a GPU of this compute capability."""
    command = f"numclip-export --onnx {path.with_suffix('.onnx').name} --target"
    if info.builder == "tensorrt-rtx" and capability in RTX_COMPUTE_CAPABILITIES:
        return f"{command} tensorrt-rtx --compute-capability {capability}"
    return f"{command} tensorrt"


def _point(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"
