"""Find the TensorRT builder that works on this machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from numclip_export.engine.options import EngineOptions
from numclip_export.engine.rtx import check_compute_capabilities
from numclip_runtime import MissingDependencyError, UsageError
from numclip_runtime.cuda_probe import CudaDriver, probe_cuda
from numclip_runtime.plan import Builder

MODULES: dict[Builder, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL: dict[Builder, str] = {
    "tensorrt": (
        "on a PC with: pip install 'numclip[tensorrt]'; on a Jetson it comes with JetPack, and a "
        "virtual environment sees it when made with --system-site-packages"
    ),
    "tensorrt-rtx": "with: pip install 'numclip[rtx]' (x86-64)",
}


class NoGpuError(UsageError):
    """The builder is installed, but builds on a GPU only, and here is none that works."""


@dataclass(frozen=True)
class Binding:
    """A builder that can be used."""

    builder: Builder
    module: Any  # `tensorrt` or `tensorrt_rtx`
    version: str  # "10.3.0", "1.7.1.116"
    compute_capability: int | None  # of this machine's first GPU, 86 means 8.6; None: no GPU


def load_binding(options: EngineOptions, driver: CudaDriver | None = None) -> Binding:
    """Load the builder that the options ask for.

    `auto` takes TensorRT where it is installed and a GPU works, else TensorRT-RTX, which builds
    without a GPU; compute capabilities are an option of TensorRT-RTX only, so they choose it.

    Args:
        options: Give the target, and what the builder must be able to do.
        driver: What `probe_cuda` says; None asks it.

    Raises:
        MissingDependencyError: if the builder is not installed, or does not load.
        UsageError: if the builder cannot do what the options ask for.
        NoGpuError: if it needs a GPU.
    """
    driver = driver or probe_cuda()
    builder = options.target if options.target != "auto" else _choose(options, driver)
    options.check(builder)
    if builder == "tensorrt" and driver.problem is not None and _installed(builder):
        # without a driver it returns None or crashes the process, so it is not even loaded
        raise NoGpuError(
            f"TensorRT builds on the GPU that will run the engine, and here is {driver.problem}; "
            "build on the device, or use --target tensorrt-rtx, which needs no GPU."
        )
    module = _load(builder)
    if builder == "tensorrt-rtx":
        check_compute_capabilities(module, options.compute_capabilities)
    capability = driver.devices[0].compute_capability if driver.devices else None
    return Binding(builder, module, str(module.__version__), capability)


def _choose(options: EngineOptions, driver: CudaDriver) -> Builder:
    if options.compute_capabilities:
        return "tensorrt-rtx"
    if _installed("tensorrt") and (driver.problem is None or not _installed("tensorrt-rtx")):
        return "tensorrt"
    if _installed("tensorrt-rtx"):
        return "tensorrt-rtx"
    raise MissingDependencyError(
        f"no TensorRT is installed. TensorRT-RTX, which builds without a GPU, installs "
        f"{INSTALL['tensorrt-rtx']}. TensorRT installs {INSTALL['tensorrt']}."
    )


def _installed(builder: Builder) -> bool:
    try:
        return find_spec(MODULES[builder]) is not None
    except ValueError:  # a module that is None in sys.modules
        return False


def _load(builder: Builder) -> Any:
    try:
        module = importlib.import_module(MODULES[builder])
        assert module.__version__, "an empty version"  # a folder left by an uninstall has none
        return module
    except ModuleNotFoundError as error:
        if error.name != MODULES[builder]:
            raise _broken(builder, error) from None
        raise MissingDependencyError(
            f"{MODULES[builder]} is not installed; install it {INSTALL[builder]}."
        ) from None
    except Exception as error:  # a missing or foreign library: OSError, ImportError, RuntimeError
        raise _broken(builder, error) from None


def _broken(builder: Builder, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(
        f"{MODULES[builder]} is installed but does not load ({error}); install it again "
        f"{INSTALL[builder]}."
    )
