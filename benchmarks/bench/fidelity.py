"""Agreement of a system with the checkpoint in PyTorch float32, and its error on labelled images.

Image features show how faithful the tower is, before the head hides it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.bench.results import Fidelity, LabelError
from benchmarks.bench.systems import SystemUnderTest
from numclip_runtime import Task, UsageError
from numclip_runtime.backends import Backend
from numclip_runtime.metadata import INPUT_NAME
from numclip_runtime.preprocess import FloatArray, InputArray

PHOTOS = 32


@dataclass(frozen=True)
class Outputs:
    """Outputs of a system for N images; plain data, as its process answers."""

    values: list[float]  # (N,) label units
    features: list[list[float]] | None  # (N, D)

    def compare(self, reference: Outputs) -> Fidelity:
        """Compare with the reference's outputs for the same images."""
        errors = np.abs(np.subtract(self.values, reference.values))
        low = mean = None
        if self.features is not None and reference.features is not None:
            from numclip_export.cosine import centred_cosines  # numpy only

            ours, theirs = (np.array(each.features, np.float32) for each in (self, reference))
            cosines = centred_cosines(ours, theirs)
            low, mean = float(cosines.min()), float(cosines.mean())
        return Fidelity(float(errors.max()), float(errors.mean()), low, mean, len(errors))


@dataclass(frozen=True)
class Labelled:
    """Labelled images, as for numclip-eval."""

    paths: list[str]
    labels: list[float]  # label units

    @classmethod
    def read(cls, source: Path, task: Task) -> Labelled:
        """Read a CSV file, or another source that numclip-eval reads.

        Raises:
            UsageError: naming file and line, if a label or an image file is missing.
        """
        from numclip.data.readers import read_samples

        samples = read_samples(source, task)
        if any(sample.member is not None for sample in samples):
            raise UsageError(f"{source}: images in tars are not measured here; unpack them.")
        return cls([str(sample.path) for sample in samples], [s.label for s in samples])

    def mae(self, values: Sequence[float | None], unit: str) -> LabelError | None:
        """Return the mean absolute error; a value is None where the image could not be read."""
        pairs = zip(values, self.labels, strict=True)
        errors = [abs(value - label) for value, label in pairs if value is not None]
        if not errors:
            return None
        return LabelError(fmean(errors), unit, len(errors), len(values) - len(errors))


def features_of(
    system: SystemUnderTest, backend: Backend, inputs: InputArray, batch: int
) -> FloatArray | None:
    """Return the image features (N, D) of N network inputs; None where they cannot be had.

    A backend gives them itself where it has a method `features`; else they are a tensor of the ONNX
    file. The last batch is filled up with the first images.
    """
    own = getattr(backend, "features", None)
    if own is None:
        if system.features is None or system.file is None:
            return None
        if backend.name == "onnxruntime":
            own = _onnxruntime(system.file, system.features)
        elif backend.name == "openvino":
            own = _openvino(system.file, system.features, bf16="bf16" in backend.precision)
        else:
            return None
    count, parts = len(inputs), []
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch) % count
        parts.append(np.asarray(own(inputs[rows]), np.float32)[: count - start])
    return np.concatenate(parts)


def _onnxruntime(file: str, features: str) -> Callable[[InputArray], Any]:
    """Open the file in onnxruntime, with its kernels and one output more."""
    import onnx
    import onnxruntime as ort

    from numclip_export.graph.types import tensor_types

    model = onnx.load(file)
    if features not in {value.name for value in model.graph.output}:
        # float16 in some files; a graph with onnxruntime's own operators has no types
        kind = tensor_types(model).get(features, onnx.TensorProto.FLOAT)
        model.graph.output.append(onnx.helper.make_tensor_value_info(features, kind, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:  # from memory it would hold the weights thrice
        path = Path(folder) / "watched.onnx"
        onnx.save(model, path)
        del model
        session = ort.InferenceSession(
            path,
            options,
            providers=["CPUExecutionProvider"],
            # crashes with float16, see the runtime's backend
            disabled_optimizers=["NchwcTransformer"],
        )
    return lambda images: session.run([features], {INPUT_NAME: images})[0]


def _openvino(file: str, features: str, *, bf16: bool) -> Callable[[InputArray], Any]:
    """Open the file in OpenVINO, as the runtime's backend does, with one output more."""
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    if features not in {name for output in model.outputs for name in output.get_names()}:
        model.add_outputs([features])
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}
    compiled = core.compile_model(model, "CPU", hint)
    output = compiled.output(features)
    return lambda images: compiled({INPUT_NAME: images})[output]


def model_facts(path: str) -> dict[str, Any]:
    """Return {"macs": per image or None, "features": tensor name or None} of an ONNX file.

    Raises:
        ImportError: if onnx or torch, which numclip_export needs, is not installed.
    """
    import onnx

    from numclip_export.graph.costs import graph_macs
    from numclip_export.graph.types import features_name

    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    # INT8 operators are not counted: such a file takes the number of its float32 sibling
    int8 = any("Integer" in kind or kind.startswith("Q") for kind in kinds)
    features: str | None
    try:
        features = features_name(model)
    except AssertionError:  # not by numclip-export's names
        outputs = {value.name for value in model.graph.output}
        features = "features" if "features" in outputs else None
    return {"macs": None if int8 else graph_macs(model), "features": features}
