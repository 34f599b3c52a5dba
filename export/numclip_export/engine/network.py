"""From an ONNX file to TensorRT's network."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numclip_export.engine.bindings import Binding
from numclip_export.engine.build_options import EngineOptions
from numclip_export.engine.log import reason_of
from numclip_runtime import ModelError
from numclip_runtime.metadata import BIN_PROBS_NAME, INPUT_NAME, VALUES_NAME

TURING = 75


@dataclass(frozen=True)
class ParsedNetwork:
    """An ONNX graph as TensorRT sees it."""

    network: Any
    parser: Any  # owns the weights, so it must live until the engine is built
    replaced: int  # FP32 matrix products of the head that are now products and sums


def parse_onnx(
    binding: Binding, builder: Any, logger: Any, path: Path, options: EngineOptions
) -> ParsedNetwork:
    """Parse an ONNX file into a strongly typed network.

    For compute capability 7.5 the head's FP32 matrix products are replaced, where the onnx package
    is there to do it.

    Raises:
        ModelError: if TensorRT cannot parse the file, or it lacks the names that numclip gives.
        UsageError: if the model cannot run on a GPU that the options name.
    """
    trt = binding.module
    # TensorRT 11 has no other kind of network; TensorRT 10 needs to be told.
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    replaced = 0
    if TURING in options.compute_capabilities and find_spec("onnx") is not None:
        from numclip_export.engine.turing import model_for_turing

        model, replaced = model_for_turing(path)
        parsed = parser.parse(model)
    else:
        parsed = parser.parse_from_file(str(path))
    if not parsed:
        reasons = [_reason(parser.get_error(i)) for i in range(parser.num_errors)]
        raise ModelError(
            f"{path}: {binding.builder} {binding.version} cannot parse it "
            f"({reason_of(reasons)}); another `numclip-export --opset` may help."
        )
    inputs = {network.get_input(i).name for i in range(network.num_inputs)}
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    missing = ({INPUT_NAME} - inputs) | ({VALUES_NAME, BIN_PROBS_NAME} - outputs)
    if missing or inputs != {INPUT_NAME}:
        raise ModelError(
            f"{path}: the graph has inputs {sorted(inputs)} and outputs {sorted(outputs)}; it was "
            "changed after export."
        )
    return ParsedNetwork(network, parser, replaced)


def _reason(parser_error: Any) -> str:
    """Return a parser error as text: which node, and what is wrong."""
    description = " ".join(parser_error.desc().split())
    if not parser_error.node_operator():
        return description
    return (
        f"node {parser_error.node_name()!r}, operator {parser_error.node_operator()}: {description}"
    )
