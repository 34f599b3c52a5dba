"""Fold a NumCLIP checkpoint and write it as verified ONNX models and TensorRT engines.

    from numclip_export import ExportOptions, run_export

    run_export(ExportOptions(Path("checkpoint.pt"), Path("model.onnx"), precision="fp16"))

Names are loaded on first use: `numclip-export --onnx` works on a device without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numclip_export.engine.build import BuiltEngine, engine_from_onnx
    from numclip_export.engine.build_options import EngineOptions
    from numclip_export.export import ExportResult, run_export
    from numclip_export.exported_file import ExportedFile
    from numclip_export.fold import FoldedModel
    from numclip_export.graph.onnx_model import onnx_from_folded
    from numclip_export.options import ExportOptions, ResolvedTarget, resolve_target
    from numclip_export.parity import Parity, ParityError

_MODULES = {
    "BuiltEngine": "engine.build",
    "EngineOptions": "engine.build_options",
    "ExportOptions": "options",
    "ExportResult": "export",
    "ExportedFile": "exported_file",
    "FoldedModel": "fold",
    "Parity": "parity",
    "ParityError": "parity",
    "ResolvedTarget": "options",
    "engine_from_onnx": "engine.build",
    "onnx_from_folded": "graph.onnx_model",
    "resolve_target": "options",
    "run_export": "export",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
