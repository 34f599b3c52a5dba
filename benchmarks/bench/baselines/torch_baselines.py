"""The checkpoint itself in PyTorch: as it is, compiled, in half precision, with CUDA graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.bench.baselines.torch_backends import CudaTorchBackend, TorchBackend
from benchmarks.competitor import Competitor
from numclip_runtime.errors import GpuRequiredError


def eager(competitor: Competitor) -> TorchBackend:
    """Return the model as training leaves it; the text tower runs once, at opening."""
    return _torch(competitor)


def compiled(competitor: Competitor) -> TorchBackend:
    """Return the model behind torch.compile; each batch size is compiled when it first comes."""
    return _torch(competitor, compiled=True)


def bf16(competitor: Competitor) -> TorchBackend:
    """Return the model with weights and features in bfloat16; the head stays float32."""
    return _torch(competitor, dtype="bfloat16")


def zero_shot(competitor: Competitor) -> TorchBackend:
    """Return the model that encodes its sentences for every batch, as research code does."""
    return _torch(competitor, text_each_time=True)


def cuda_eager(competitor: Competitor) -> TorchBackend:
    """Return the model on a GPU."""
    return _torch(competitor, device=_gpu())


def cuda_fp16(competitor: Competitor) -> TorchBackend:
    """Return the model on a GPU with weights and features in float16."""
    return _torch(competitor, device=_gpu(), dtype="float16")


def cuda_compiled(competitor: Competitor) -> TorchBackend:
    """Return the float16 model on a GPU, behind torch.compile."""
    return _torch(competitor, device=_gpu(), dtype="float16", compiled=True)


def cuda_graphs(competitor: Competitor) -> TorchBackend:
    """Return the float16 model on a GPU, each batch size captured as a CUDA graph."""
    return GraphBackend(_path(competitor), device=_gpu(), dtype="float16")


class GraphBackend(CudaTorchBackend):
    """Replay a CUDA graph per batch size: no launch of single kernels. Not verified on hardware."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._graphs: dict[int, tuple[Any, Any, Any]] = {}  # batch -> graph, input, outputs

    def forward(self, images: Any) -> tuple[Any, Any]:
        """Copy into the graph's input, replay it, and return its outputs."""
        import torch

        size = len(images)
        if size not in self._graphs:
            fixed = images.clone()
            side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # what is lazy must have happened before the capture
                for _ in range(3):
                    super().forward(fixed)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = super().forward(fixed)
            self._graphs[size] = graph, fixed, outputs
        graph, fixed, outputs = self._graphs[size]
        fixed.copy_(images)
        graph.replay()
        values, bin_probs = outputs
        return values, bin_probs


def _path(competitor: Competitor) -> Path:
    assert competitor.checkpoint is not None
    return Path(competitor.checkpoint)


def _torch(competitor: Competitor, **options: Any) -> TorchBackend:
    kind = CudaTorchBackend if options.get("device") == "cuda" else TorchBackend
    return kind(_path(competitor), threads=competitor.threads, **options)


def _gpu() -> str:
    try:
        import torch
    except ImportError:
        return "cuda"  # TorchBackend says what to install
    if not torch.cuda.is_available():
        raise GpuRequiredError("PyTorch sees no CUDA GPU here.")
    return "cuda"
