"""The PyTorch model of a checkpoint as a backend: eager, compiled, half precision, CUDA graphs."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from benchmarks.bench.baselines.registry import TorchForm
from numclip_runtime.errors import GpuRequiredError, MissingDependencyError
from numclip_runtime.metadata import Arithmetic
from numclip_runtime.preprocess import FloatArray

TORCH_PRECISIONS: dict[str, Arithmetic] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class TorchBackend:
    """Run a training checkpoint with PyTorch; implements `Backend`.

    The phrases are encoded once, at opening, unless asked otherwise: a baseline that ran the text
    tower again for every batch would flatter the exported model. On a GPU ("cuda") the copies are
    timed apart. PyTorch keeps the number of threads per process: `close`
    restores it.

    Raises:
        MissingDependencyError: if PyTorch is not installed.
        ModelError: if the file is not a checkpoint.
    """

    name = "torch"
    notes = ()
    lanes = 1
    max_batch: int | None = None

    def __init__(
        self,
        checkpoint: Path,
        form: TorchForm = TorchForm(),  # noqa: B008 (frozen)
        *,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        try:
            import torch

            from numclip.checkpoint import load_checkpoint
        except ImportError as error:
            raise MissingDependencyError(
                f"--ckpt needs PyTorch ({error}); install it with: pip install 'numclip[train]'"
            ) from None
        loaded = load_checkpoint(checkpoint)
        self.metadata = loaded.metadata
        self.provider = "torch.compile" if form.compiled else "eager"
        self.device = "cpu" if device == "cpu" else torch.cuda.get_device_name()
        self.threads = threads
        self.precision: Arithmetic = TORCH_PRECISIONS[form.dtype]
        self._device, self._dtype = device, getattr(torch, form.dtype)
        self._threads_before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        self._model: Any = loaded.model.to(device)
        self._temperature = loaded.temperature
        with torch.inference_mode():
            text = self._model.text_features()  # (K, D)
        self._text_features = None if form.text_each_time else text
        if self._dtype != torch.float32:
            self._model.image_encoder.to(self._dtype)
            encoder = self._model.image_encoder.forward
            self._model.image_encoder.forward = lambda images: encoder(
                images.to(self._dtype)
            ).float()
        if device != "cpu":
            self.run_apart = self._run  # copies are timed apart
        self._forward: Any = self._model
        if form.compiled:
            # Else its pool of compilers lives on beside the others' turns, 6 % of a core
            os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
            self._forward = torch.compile(self._model, dynamic=False)

    def forward(self, images: Any) -> tuple[Any, Any]:
        """Run the network on a tensor (B, 3, H, W) that lies on the device."""
        out = self._forward(images, self._text_features)
        return out.values, (out.logits / self._temperature).softmax(-1)

    def run(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`."""
        values, bin_probs, *_ = self._run(images)
        return values, bin_probs

    def features(self, images: FloatArray) -> FloatArray:
        """Return the image features (B, D) float32."""
        import torch

        with torch.inference_mode():
            found = self._model.image_encoder(torch.from_numpy(images).to(self._device))
        features: FloatArray = found.float().cpu().numpy()
        return features

    def _run(self, images: FloatArray) -> tuple[FloatArray, FloatArray, int, int]:
        import torch

        with torch.inference_mode():
            start = perf_counter_ns()
            there = torch.from_numpy(images).to(self._device)
            self._wait()
            uploaded = perf_counter_ns()
            out = self.forward(there)
            self._wait()
            computed = perf_counter_ns()
            values: FloatArray = np.asarray(out[0].cpu(), np.float32)  # (B,)
            bin_probs: FloatArray = np.asarray(out[1].cpu(), np.float32)  # (B, K)
        return values, bin_probs, uploaded - start, perf_counter_ns() - computed

    def _wait(self) -> None:
        if self._device != "cpu":
            import torch

            torch.cuda.synchronize()

    def close(self) -> None:
        """Free the model."""
        import torch

        torch.set_num_threads(self._threads_before)
        del self._model, self._forward


class GraphBackend(TorchBackend):
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


def open_torch(checkpoint: Path, form: TorchForm, threads: int | None, *, gpu: bool) -> Any:
    """Open a checkpoint on the CPU or a GPU, see `TorchBackend`.

    Raises:
        GpuRequiredError: if a GPU is asked for and PyTorch has none.
    """
    if not gpu:
        return TorchBackend(checkpoint, form, threads=threads)
    try:
        import torch
    except ImportError:
        pass  # TorchBackend names the extra to install
    else:
        if not torch.cuda.is_available():
            raise GpuRequiredError("PyTorch sees no CUDA GPU here.")
    kind = GraphBackend if form.graphs else TorchBackend
    return kind(checkpoint, form, threads=threads, device="cuda")
