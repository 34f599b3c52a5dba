"""The public names of numclip_export are a decision, and importing them is cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest

import numclip_export

HEAVY = {"torch", "onnx", "onnxscript", "onnxruntime", "open_clip", "jinja2", "numclip"}
HEAVY |= {"tensorrt", "tensorrt_rtx"}


def test_public_names() -> None:
    assert numclip_export.__all__ == [
        "BuiltEngine",
        "EngineOptions",
        "ExportOptions",
        "ExportResult",
        "ExportedFile",
        "FoldedModel",
        "Parity",
        "ParityError",
        "ResolvedTarget",
        "engine_from_onnx",
        "onnx_from_folded",
        "resolve_target",
        "run_export",
    ]
    for name in numclip_export.__all__:
        assert getattr(numclip_export, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        numclip_export.nothing  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import numclip_export",
        "from numclip_export import EngineOptions, engine_from_onnx, resolve_target",
        "import numclip_export.cli",
    ],
)
def test_import_is_light(code: str) -> None:
    """An engine is built from an ONNX file on a device without torch and onnx."""
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
