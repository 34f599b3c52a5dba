"""Versions of the relevant installed packages, without importing them."""

from __future__ import annotations

from importlib import metadata

from PIL import features

from numclip_runtime.backends.tensorrt.module import DISTRIBUTIONS

# displayed name -> distributions that provide it; the first one found counts
PACKAGES: dict[str, tuple[str, ...]] = {
    "numclip": ("numclip",),
    "numpy": ("numpy",),
    "Pillow": ("pillow",),
    "onnxruntime": ("onnxruntime",),
    "onnxruntime-gpu": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
    "tensorrt": DISTRIBUTIONS["tensorrt"],
    "tensorrt_rtx": DISTRIBUTIONS["tensorrt_rtx"],
    "tritonclient": ("tritonclient",),
    "av": ("av",),
    "pyarrow": ("pyarrow",),
    "torch": ("torch",),
}


def installed_packages() -> dict[str, str | None]:
    """Return the version of each of PACKAGES; None: not installed."""
    return {name: _version(candidates) for name, candidates in PACKAGES.items()}


def libjpeg_turbo() -> str | None:
    """Return the version of Pillow's libjpeg-turbo; None: a plain libjpeg, 2x to 6x slower."""
    found = features.version_feature("libjpeg_turbo")
    return None if found is None else str(found)


def _version(candidates: tuple[str, ...]) -> str | None:
    for name in candidates:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
