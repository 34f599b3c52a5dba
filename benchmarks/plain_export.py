"""What one writes without numclip-export: torch.onnx.export of the trained module, as it is.

The text features are constants, for no one ships the text tower; nothing else is rewritten.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME

FEATURES = "features"  # a third output, (B, D), that onnxruntime computes only when asked


def write(checkpoint: str, output: str) -> None:
    """Export a checkpoint; our metadata go into the file, so that the runtime can open it.

    Args:
        checkpoint: Path of the checkpoint.
        output: Path of the ONNX file.

    Raises:
        ModelError: if the checkpoint cannot be read.
        ImportError: if torch, onnx or onnxscript is not installed.
    """
    import onnx
    import torch

    from numclip.checkpoint import load_checkpoint
    from numclip_export.graph.onnx_model import save_with_metadata
    from numclip_runtime.files import sha256

    loaded = load_checkpoint(Path(checkpoint))

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.model = loaded.model.image_encoder, loaded.model
            self.model.image_encoder = torch.nn.Identity()  # called here: its features go out, too
            with torch.no_grad():
                self.register_buffer("text", loaded.model.text_features())

        def forward(self, images: Any) -> Any:
            features = self.encoder(images)
            out = self.model(features, self.text)
            return out.values, (out.logits / loaded.temperature).softmax(-1), features

    crop = loaded.preprocessing.crop
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Plain().eval(),
            (torch.zeros(2, 3, crop, crop),),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[VALUES_NAME, BIN_PROBS_NAME, FEATURES],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    metadata = replace(loaded.metadata, checkpoint_sha256=sha256(Path(checkpoint)))
    save_with_metadata(model, metadata, Path(output))
