"""Which files OpenVINO runs by default, and which of them in bfloat16."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from numclip_runtime.backends import OpenOptions
from numclip_runtime.cuda.probe import probe_cuda
from numclip_runtime.errors import UsageError
from numclip_runtime.metadata import ModelMetadata
from numclip_runtime.model_files.onnx_file import read_onnx_metadata
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.system import has_bf16


def why_no_bf16() -> str | None:
    """Return what this machine lacks for bfloat16; None: nothing."""
    if not has_bf16():
        return "this CPU is not known to have instructions for it (AVX512_BF16 or AMX)"
    if find_spec("openvino") is None:
        return "openvino, which computes in it, is not installed: pip install 'numclip[openvino]'"
    return None


def is_for_openvino(model: OpenModel, options: OpenOptions) -> bool:
    """Return whether OpenVINO opens a file, where no backend was named.

    It does if the file was made for it, or computes in bfloat16 here.
    """
    if options.bf16 or options.device == "cuda" or options.require_gpu:
        return options.bf16 is True
    if find_spec("openvino") is None:
        return False
    metadata = read_onnx_metadata(model)
    if metadata.backend is not None:
        return True
    if options.bf16 is False or metadata.bf16 is None or not has_bf16():
        return False
    return options.device == "cpu" or probe_cuda().problem is not None  # a GPU comes first


def require_proof(source: Path, metadata: ModelMetadata) -> None:
    """Refuse bfloat16 that was asked for, where nothing proves it; see `bf16_features`."""
    if metadata.bf16 is None:
        raise UsageError(
            f"{source}: bf16 was asked for, and is not proved of this file; export it again with "
            "`numclip-export --bf16 --target cpu`, or leave bf16 out."
        )


def bf16_features(source: Path, metadata: ModelMetadata, asked: bool | None) -> str | None:
    """Return the tensor up to which OpenVINO computes in bfloat16; None: it does not.

    Args:
        source: Named in errors.
        metadata: Of the file.
        asked: See `OpenOptions.bf16`.

    Raises:
        UsageError: if it is asked for, and not proved of the file or not to be had here.
    """
    proof = None if asked is False else metadata.bf16
    if asked:
        require_proof(source, metadata)
    problem = why_no_bf16()
    if asked and problem is not None:
        raise UsageError(f"{source}: bf16 was asked for, and {problem}; or leave bf16 out.")
    return None if proof is None or problem is not None else proof.features
