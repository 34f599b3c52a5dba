"""INT8 by NNCF, OpenVINO's own compressor: the strongest peer on an x86 CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from numclip_runtime.metadata import INPUT_NAME
from numclip_runtime.onnx_file import read_onnx_metadata
from numclip_runtime.preprocess import load_rgb, network_input

MANY_CONVOLUTIONS = 5  # more are a convolutional network; a ViT has one


def quantise(plain: str, output: str, images: list[str]) -> None:
    """Quantise a plain ONNX file as NNCF's documentation says for its kind of network.

    Args:
        plain: ONNX file, float32.
        output: OpenVINO file to write, .xml; its .bin goes beside it, and our
            metadata as .json.
        images: To calibrate with.

    Raises:
        ImportError: if nncf or openvino is not installed.
        ImageError: if an image cannot be read.
    """
    import nncf
    import openvino

    metadata = read_onnx_metadata(Path(plain))
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
