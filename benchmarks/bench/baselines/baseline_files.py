"""Model files of the baselines, made once: the plain ONNX export, and INT8 by NNCF of it."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench.models import cached
from benchmarks.bench.processes.worker import call_apart
from numclip_runtime import UsageError, read_metadata
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME
from numclip_runtime.preprocess import load_rgb, network_input

FEATURES = "features"  # a third output, (B, D), that onnxruntime computes only when asked
CALIBRATION = 32  # images that NNCF quantises with
MANY_CONVOLUTIONS = 5  # more are a convolutional network; a ViT has one


def plain_file(checkpoint: Path, digest: str, cache: Path | None = None) -> Path:
    """Return the plain export of a checkpoint with this SHA-256, made if it is not in the cache."""

    def make(folder: Path) -> None:
        output = str(folder / "model.plain.onnx")
        call_apart(f"{__name__}:export_plainly", checkpoint=str(checkpoint), output=output)

    try:
        made_by = f"torch{version('torch')}"
    except PackageNotFoundError as error:
        raise UsageError(f"the plain export needs PyTorch ({error}).") from None
    return cached(f"plain-{digest[:16]}-{made_by}", make, cache=cache) / "model.plain.onnx"


def nncf_file(plain: Path, digest: str, images: Sequence[str], cache: Path | None = None) -> Path:
    """Return NNCF's form of the plain file, made with these images if it is not in the cache."""
    try:
        made_by = f"nncf{version('nncf')}"
    except PackageNotFoundError:
        raise UsageError("it needs the package nncf: pip install nncf") from None
    chosen = list(images[:CALIBRATION])
    seen = hashlib.sha256(b"".join(Path(path).read_bytes() for path in chosen)).hexdigest()

    def make(folder: Path) -> None:
        output = str(folder / "model.xml")
        call_apart(f"{__name__}:quantise", plain=str(plain), output=output, images=chosen)

    name = f"nncf-{digest[:16]}-{seen[:16]}-{made_by}"
    return cached(name, make, cache=cache) / "model.xml"


def export_plainly(checkpoint: str, output: str) -> None:
    """Export a checkpoint as one would without numclip-export: torch.onnx.export, as it is.

    The text features are constants, for no deployment ships the text tower; nothing else is
    rewritten. Our metadata go into the file, so that the runtime can open it.

    Raises:
        ModelError: if the checkpoint cannot be read.
        ImportError: if torch, onnx or onnxscript is not installed.
    """
    import torch

    from numclip.checkpoint import load_checkpoint
    from numclip_export.graph.onnx_model import save_with_metadata
    from numclip_runtime.files import sha256

    loaded = load_checkpoint(Path(checkpoint))

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.model = loaded.model.image_encoder, loaded.model
            self.model.image_encoder = torch.nn.Identity()  # called here: features are an output
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
    metadata = replace(loaded.metadata, checkpoint_sha256=sha256(Path(checkpoint)))
    save_with_metadata(program.model_proto, metadata, Path(output))


def quantise(plain: str, output: str, images: list[str]) -> None:
    """Quantise with NNCF, OpenVINO's own compressor: the strongest baseline on an x86 CPU.

    `output`.xml is for OpenVINO; its .bin goes beside it, and our metadata as .json.

    Raises:
        ImportError: if nncf or openvino is not installed.
        ImageError: if an image cannot be read.
    """
    import nncf
    import openvino

    metadata = read_metadata(Path(plain))
    inputs = [network_input(load_rgb(path), metadata)[np.newaxis] for path in images]
    model = openvino.Core().read_model(plain)
    convolutions = sum(op.get_type_name() == "Convolution" for op in model.get_ops())
    kind = None if convolutions > MANY_CONVOLUTIONS else nncf.ModelType.TRANSFORMER
    quantised = nncf.quantize(
        model,
        nncf.Dataset(inputs, lambda array: {INPUT_NAME: array}),
        model_type=kind,
        subset_size=len(inputs),
    )
    openvino.save_model(quantised, output, compress_to_fp16=False)
    Path(output).with_suffix(".json").write_text(metadata.to_json(), "utf-8")
