"""What others would run in place of numclip's files: the same weights, other ways.

Each is a small class with the methods of `numclip_runtime.backends.Backend`, so that decoding and
preprocessing are the same for all, and only the network differs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """Where a peer's code is, and what it needs."""

    title: str  # for the table
    module: str
    factory: str  # called with the Competitor, returns a Backend
    precision: str  # of the multiplications: "fp32", "bf16", "fp16" or "int8"
    plain: bool = False  # runs the plain ONNX export of the checkpoint
    gpu: bool = False  # runs on a GPU, and nowhere else


_TORCH = "benchmarks.bench.baselines.torch_baselines"
_ONNX = "benchmarks.bench.baselines.onnx_backends"
REFERENCE = "torch-eager"  # the baseline of speed, and what fidelity is measured against
PEERS: dict[str, Peer] = {
    REFERENCE: Peer("torch eager", _TORCH, "eager", "fp32"),
    "torch-compile": Peer("torch.compile", _TORCH, "compiled", "fp32"),
    "torch-bf16": Peer("torch bf16", _TORCH, "bf16", "bf16"),
    "zero-shot": Peer("open_clip, text each time", _TORCH, "zero_shot", "fp32"),
    "plain-onnx": Peer("plain ONNX, onnxruntime", _ONNX, "PlainOnnx", "fp32", plain=True),
    "plain-openvino": Peer("plain ONNX, OpenVINO", _ONNX, "PlainOpenVino", "fp32", plain=True),
    "nncf-int8": Peer("NNCF INT8, OpenVINO", _ONNX, "NncfInt8", "int8", plain=True),
    "cuda-eager": Peer("torch eager, CUDA", _TORCH, "cuda_eager", "fp32", gpu=True),
    "cuda-fp16": Peer("torch fp16, CUDA", _TORCH, "cuda_fp16", "fp16", gpu=True),
    "cuda-compile": Peer("torch.compile fp16, CUDA", _TORCH, "cuda_compiled", "fp16", gpu=True),
    "cuda-graphs": Peer("torch fp16, CUDA graphs", _TORCH, "cuda_graphs", "fp16", gpu=True),
    "cuda-onnx": Peer(
        "plain ONNX, CUDA provider", _ONNX, "PlainOnnxCuda", "fp32", plain=True, gpu=True
    ),
}
