"""Other ways to run the same weights, in place of numclip's files.

Each opens as a class with the methods of `numclip_runtime.backends.Backend`, so that decoding and
preprocessing are the same for all, and only the network differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TorchForm:
    """A way to run the checkpoint in PyTorch."""

    # Of the image tower's weights and features. The head stays float32 as in the exported files:
    # it multiplies rounding by about 100.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    compiled: bool = False  # the network goes through torch.compile
    text_each_time: bool = False  # every batch encodes the phrases again, as research code does
    graphs: bool = False  # each batch size is captured as a CUDA graph


@dataclass(frozen=True)
class Baseline:
    """A system to compare with: the checkpoint in PyTorch, or its plain ONNX export."""

    title: str  # for the table
    precision: str  # of the multiplications: "fp32", "bf16", "fp16" or "int8"
    torch: TorchForm | None = None
    onnx: str | None = None  # class in `onnx_baselines` that runs the plain export
    gpu: bool = False  # runs on a GPU, and nowhere else


REFERENCE = "torch-eager"  # the baseline of speed, and the reference of fidelity
GPU_REFERENCE = "cuda-eager"  # the baseline of speed where no CPU is measured
NNCF = "nncf-int8"
_EAGER, _COMPILED = TorchForm(), TorchForm(compiled=True)
_HALF, _GRAPHS = TorchForm("float16"), TorchForm("float16", graphs=True)
BASELINES: dict[str, Baseline] = {
    REFERENCE: Baseline("torch eager", "fp32", _EAGER),
    "torch-compile": Baseline("torch.compile", "fp32", _COMPILED),
    "torch-bf16": Baseline("torch bf16", "bf16", TorchForm("bfloat16")),
    "torch-compile-bf16": Baseline(
        "torch.compile bf16", "bf16", TorchForm("bfloat16", compiled=True)
    ),
    "zero-shot": Baseline("open_clip, text each time", "fp32", TorchForm(text_each_time=True)),
    "plain-onnx": Baseline("plain ONNX, onnxruntime", "fp32", onnx="PlainOnnx"),
    "plain-openvino": Baseline("plain ONNX, OpenVINO", "fp32", onnx="PlainOpenVino"),
    "plain-openvino-bf16": Baseline("plain ONNX, OpenVINO bf16", "bf16", onnx="PlainOpenVinoBf16"),
    NNCF: Baseline("NNCF INT8, OpenVINO", "int8", onnx="NncfInt8"),
    GPU_REFERENCE: Baseline("torch eager, CUDA", "fp32", _EAGER, gpu=True),
    "cuda-fp16": Baseline("torch fp16, CUDA", "fp16", _HALF, gpu=True),
    "cuda-compile": Baseline(
        "torch.compile fp16, CUDA", "fp16", TorchForm("float16", compiled=True), gpu=True
    ),
    "cuda-graphs": Baseline("torch fp16, CUDA graphs", "fp16", _GRAPHS, gpu=True),
    "cuda-onnx": Baseline("plain ONNX, CUDA provider", "fp32", onnx="PlainOnnxCuda", gpu=True),
}
