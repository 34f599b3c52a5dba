"""Keep TensorRT's kernel timings between builds: later builds on a GPU take a fraction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numclip_export.engine.bindings import Binding
from numclip_runtime import UsageError
from numclip_runtime.files import atomic_path


def use_timing_cache(binding: Binding, config: Any, path: Path) -> list[str]:
    """Pass the timings of earlier builds to the builder.

    Timings belong to a GPU and a TensorRT version, which the cache records: a cache that does not
    fit is replaced by a new one.

    Returns:
        Notes on differences from what was asked for.

    Raises:
        UsageError: if the file exists and cannot be read.
    """
    if binding.builder == "tensorrt-rtx":  # its cache operations do nothing, and warn
        return ["TensorRT-RTX times nothing while it builds: --timing-cache is ignored."]
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UsageError(f"{path}: cannot read this cache ({error.strerror}).") from None
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, False):
        return []
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return [f"{path}: from another GPU or TensorRT, or damaged; it is begun anew."]


def save_timing_cache(binding: Binding, config: Any, path: Path) -> None:
    """Write the timings of this build and of those before it.

    Raises:
        UsageError: if the file cannot be written.
    """
    if binding.builder == "tensorrt-rtx":
        return
    cache = config.get_timing_cache()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(cache.serialize())
