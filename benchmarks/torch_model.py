"""The PyTorch model of a checkpoint, as one more backend to measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from numclip_runtime.errors import MissingDependencyError
from numclip_runtime.preprocess import FloatArray


class TorchBackend:
    """Run a training checkpoint with PyTorch on the CPU; implements `Backend`.

    The phrases are encoded once, at opening: a baseline that ran the text tower again for every
    batch would flatter the exported model.

    Args:
        checkpoint: Path of a `checkpoint.pt` that numclip-train wrote.
        threads: Threads inside one inference; None leaves PyTorch's choice. PyTorch keeps this
            per process: `close` puts the former number back.

    Raises:
        MissingDependencyError: if PyTorch is not installed.
        ModelError: if the file is no checkpoint.
    """

    name = "torch"
    provider = "cpu"
    device = "cpu"
    notes = ()
    lanes = 1
    max_batch: int | None = None

    def __init__(self, checkpoint: Path, *, threads: int | None = None) -> None:
        try:
            import torch

            from numclip.checkpoint import load_checkpoint
        except ImportError as error:
            raise MissingDependencyError(
                f"--ckpt needs PyTorch ({error}); install it with: pip install 'numclip[train]'"
            ) from None
        loaded = load_checkpoint(checkpoint)
        self.metadata = loaded.metadata
        self._checkpoint = loaded
        self.threads = threads
        self._threads_before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            self._text_features = loaded.model.text_features()  # (K, D)

    def run(self, images: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Run the network; see `Backend.run`."""
        import torch

        with torch.inference_mode():
            out = self._checkpoint.outputs(torch.from_numpy(images), self._text_features)
        values: FloatArray = np.asarray(out[0], np.float32)  # (B,)
        bin_probs: FloatArray = np.asarray(out[1], np.float32)  # (B, K)
        return values, bin_probs

    def close(self) -> None:
        """Free the model."""
        import torch

        torch.set_num_threads(self._threads_before)
        del self._checkpoint
