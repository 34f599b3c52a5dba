"""The Python packages of TensorRT: which there are, how they are installed, and loading one."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, Literal

from numclip_runtime.errors import MissingDependencyError

# tensorrt_lean runs version-compatible engines only, and builds none.
Module = Literal["tensorrt", "tensorrt_rtx", "tensorrt_lean"]

INSTALL: dict[Module, str] = {
    "tensorrt": (
        "on a PC with: pip install 'numclip[tensorrt]'; on a Jetson it comes with JetPack, and a "
        "virtual environment sees it when made with --system-site-packages"
    ),
    "tensorrt_rtx": "with: pip install 'numclip[rtx]' (x86-64)",
    "tensorrt_lean": "with: pip install tensorrt-lean-cu13 (x86-64)",
}


def installed(module: Module) -> bool:
    """Tell whether a package is there, without loading it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # a module that is None in sys.modules
        return False


def load_module(module: Module) -> Any:
    """Import a package.

    Raises:
        MissingDependencyError: if it is not installed, or does not load.
    """
    try:
        loaded = importlib.import_module(module)
        assert loaded.__version__, "an empty version"  # a folder left by an uninstall has none
        return loaded
    except ModuleNotFoundError as error:
        if error.name != module:
            raise _broken(module, error) from None
        raise MissingDependencyError(
            f"{module} is not installed; install it {INSTALL[module]}."
        ) from None
    except Exception as error:  # a missing or foreign library: OSError, ImportError, RuntimeError
        raise _broken(module, error) from None


def _broken(module: Module, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(
        f"{module} is installed but does not load ({error}); install it again {INSTALL[module]}."
    )
