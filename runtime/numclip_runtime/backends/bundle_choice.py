"""Which artefact of a fleet bundle runs on this machine, and why.

The order: a plan for this GPU; ONNX files on the GPU, fp16 first; int8 on a CPU that has
instructions for it, where it is fastest at equal fidelity (docs/benchmarks.md); fp32; what remains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from numclip_runtime.backends import DEFAULTS, OpenOptions
from numclip_runtime.backends.onnxruntime import CUDA_PROVIDER, GPU_PROVIDERS, why_not
from numclip_runtime.backends.tensorrt.checks import (
    NAMES,
    built_by,
    choose_module,
    fits_gpu,
    fits_version,
    targets,
)
from numclip_runtime.backends.tensorrt.module import installed, installed_version
from numclip_runtime.cuda.probe import CudaDriver, probe_cuda
from numclip_runtime.errors import (
    MissingDependencyError,
    ModelError,
    import_extra,
    require_installed,
)
from numclip_runtime.metadata import Precision
from numclip_runtime.model_files.bundle import Artefact, Bundle
from numclip_runtime.model_files.plan import PlanInfo
from numclip_runtime.system import cpu_flags

# Instructions that multiply INT8 four at a time. Without them a CPU takes about as long as in fp32,
# and on x86 the sums of two products can overflow 16 bits.
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp")
ON_A_GPU = ("tensorrt", *filter(None, GPU_PROVIDERS))  # backends
PLAN_ORDER: tuple[Precision, ...] = ("int8", "fp16", "fp32")  # an INT8 plan was asked for by name
CUDA_ORDER: tuple[Precision, ...] = ("fp16", "fp32", "int8")


@dataclass(frozen=True)
class Surroundings:
    """What this machine has, as far as the choice depends on it."""

    driver: CudaDriver
    providers: tuple[str, ...]  # of onnxruntime; () without a GPU, where they do not matter
    onnxruntime: str | None  # why it cannot run; None: it is installed
    cpu_flags: tuple[str, ...]  # see `system.cpu_flags`; (): not known


@dataclass(frozen=True)
class Candidate:
    """A way to run an artefact, and its place in the order."""

    artefact: Artefact
    device: Literal["cuda", "cpu"]
    place: int  # in the order; the lowest is the first
    why: str  # of that place, in a few words
    problem: str | None = None  # why it cannot run here, or is not wanted; None: it can

    @property
    def name(self) -> str:
        """The file; of an ONNX file also that it is the GPU's turn."""
        both = self.device == "cuda" and self.artefact.engine is None
        return f"{self.artefact.file} on the GPU" if both else self.artefact.file


def read_surroundings(options: OpenOptions = DEFAULTS) -> Surroundings:
    """Return what this machine has; the driver is not asked if the CPU was chosen.

    onnxruntime is imported only where a GPU is.
    """
    cpu = options.device == "cpu"
    driver = CudaDriver(problem="the CPU was chosen") if cpu else probe_cuda()
    missing, providers = None, ()
    try:
        require_installed("cpu", "onnxruntime")
        if driver.problem is None:
            providers = tuple(import_extra("cpu", "onnxruntime").get_available_providers())
    except MissingDependencyError as error:
        missing = str(error)
    return Surroundings(driver, providers, missing, cpu_flags())


def candidates(bundle: Bundle, options: OpenOptions, here: Surroundings) -> list[Candidate]:
    """Return every way to run each artefact, in the order of the choice.

    Raises:
        ModelError: if the SHA-256 that the options give is of nothing in the bundle.
    """
    pinned = None if options.sha256 is None else options.sha256.lower()
    known = {bundle.sha256, *(one.sha256.lower() for one in bundle.artefacts)}
    if pinned is not None and pinned not in known:
        raise ModelError(
            f"{bundle.folder}: neither bundle.json, whose SHA-256 is {bundle.sha256}, nor a file "
            f"that it lists has the given one, {pinned}; nothing was loaded."
        )
    found = []
    for artefact in bundle.artefacts:
        for way in _ways(bundle, artefact, options, here):
            refused = _refused(way, options)
            if pinned not in (None, bundle.sha256, artefact.sha256.lower()):
                refused = "another file was chosen by its SHA-256"
            found.append(replace(way, problem=refused or way.problem))
    return sorted(found, key=lambda way: (way.problem is not None, way.place))


def _ways(
    bundle: Bundle, artefact: Artefact, options: OpenOptions, here: Surroundings
) -> Iterator[Candidate]:
    if artefact.engine is not None:
        yield _plan(artefact, artefact.plan_info(bundle.model), here.driver)
        return
    missing = None if options.backend == "openvino" or options.bf16 else here.onnxruntime
    if artefact.device != "cpu" and here.driver.devices:
        provider = GPU_PROVIDERS.get(options.backend, CUDA_PROVIDER)
        problem = missing or why_not(provider, here.providers, here.driver)
        place = 100 + 10 * CUDA_ORDER.index(artefact.precision)
        yield Candidate(artefact, "cuda", place, f"{artefact.precision} on the GPU", problem)
    place, why = _on_cpu(artefact, here.cpu_flags)
    yield Candidate(artefact, "cpu", place, why, missing)


def _plan(artefact: Artefact, info: PlanInfo, driver: CudaDriver) -> Candidate:
    name, module, problem = NAMES[info.builder], choose_module(info), driver.problem
    if problem is None:
        gpu, version = driver.devices[0], installed_version(module)
        if not fits_gpu(info, gpu.compute_capability):
            problem = (
                f"made for compute capability {targets(info)}, and {gpu.name} has "
                f"{gpu.compute_capability / 10:.1f}"
            )
        elif not installed(module):
            problem = f"{name} is not installed"
        elif version is not None and not fits_version(info, version):
            problem = f"built by {name} {built_by(info)}, and installed is {version}"
    place = 10 * PLAN_ORDER.index(artefact.precision) + (info.builder == "tensorrt-rtx")
    why = f"{artefact.precision} plan for compute capability {targets(info)}"
    return Candidate(artefact, "cuda", place, why, problem)


def _on_cpu(artefact: Artefact, flags: Sequence[str]) -> tuple[int, str]:
    """Return the place of an ONNX file on a CPU, and why."""
    precision = artefact.precision
    if precision == "fp32":
        return 210 + (artefact.device != "cpu"), "fp32 on the CPU"
    if artefact.device == "gpu":
        return 230, f"{precision} made for GPUs, which a CPU computes slowly"
    if flag := next((flag for flag in INT8_FLAGS if flag in flags), None):
        return 200, f"int8, for which this CPU has {flag}"
    lacks = "lacks" if flags else "is not known to have"
    return 220, f"int8, for which this CPU {lacks} instructions"


def _refused(way: Candidate, options: OpenOptions) -> str | None:
    """Return why the options exclude a way to run."""
    backend, plan = options.backend, way.artefact.engine is not None
    on_gpu = way.device == "cuda"
    if backend is not None and (
        plan != (backend == "tensorrt")
        or (on_gpu and backend == "openvino")
        or (not on_gpu and backend in GPU_PROVIDERS)
    ):
        return f"{backend} was chosen"
    if on_gpu and options.device == "cpu":
        return "the CPU was chosen"
    if not on_gpu and (options.device == "cuda" or options.require_gpu):
        return "a GPU is required"
    if options.bf16 and (on_gpu or way.artefact.precision != "fp32"):
        return "bfloat16 was chosen, which is for fp32 files on the CPU"
    if backend == "openvino" and way.artefact.made_for is not None:
        return f"made for {way.artefact.made_for}"
    return None
