"""Image features of a competitor: how faithful the tower is, before the head hides it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.competitor import Competitor
from numclip_runtime.backends import Backend
from numclip_runtime.metadata import INPUT_NAME
from numclip_runtime.preprocess import FloatArray, InputArray


def features_of(
    competitor: Competitor, backend: Backend, inputs: InputArray, batch: int
) -> FloatArray | None:
    """Return the image features (N, D) of N network inputs; None where they cannot be had.

    Args:
        competitor: Names the tensor of its ONNX file.
        backend: Opened; gives them itself where it has a method `features`.
        inputs: (N, ...) as the network takes them.
        batch: Images per run; the last run is filled up with the first images.
    """
    own = getattr(backend, "features", None)
    if own is None and (competitor.features is None or competitor.file is None):
        return None
    if own is None:
        if backend.name not in ("onnxruntime", "openvino"):
            return None
        own = (_openvino if backend.name == "openvino" else _onnxruntime)(competitor)
    count, parts = len(inputs), []
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch) % count
        parts.append(np.asarray(own(inputs[rows]), np.float32)[: count - start])
    return np.concatenate(parts)


def _onnxruntime(competitor: Competitor) -> Any:
    """Run the file with its kernels and one output more."""
    import onnx
    import onnxruntime as ort

    from numclip_export.graph.types import tensor_types

    assert competitor.file is not None
    assert competitor.features is not None
    model = onnx.load(competitor.file)
    if competitor.features not in {value.name for value in model.graph.output}:
        # float16 in some files; a graph with onnxruntime's own operators tells no types
        kind = tensor_types(model).get(competitor.features, onnx.TensorProto.FLOAT)
        value = onnx.helper.make_tensor_value_info(competitor.features, kind, None)
        model.graph.output.append(value)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["NchwcTransformer"],  # crashes with float16, see the runtime's backend
    )
    return lambda images: session.run([competitor.features], {INPUT_NAME: images})[0]


def _openvino(competitor: Competitor) -> Any:
    """Run the file in OpenVINO, as the runtime's backend does, with one output more."""
    import openvino

    core = openvino.Core()
    model = core.read_model(competitor.file)
    names = {name for output in model.outputs for name in output.get_names()}
    if competitor.features not in names:
        model.add_outputs([competitor.features])
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    output = compiled.output(competitor.features)
    return lambda images: compiled({INPUT_NAME: images})[output]
