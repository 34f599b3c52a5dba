"""Cost of one prediction in multiply-accumulate operations (MACs; 1 MAC = 2 FLOPs)."""

from __future__ import annotations

import math

import onnx

from numclip.evaluation.costs import macs_of
from numclip.model.numclip import NumClip
from numclip_export.graph.types import tensor_shapes


def graph_macs(model: onnx.ModelProto) -> int:
    """Count the MACs of MatMul, Gemm and Conv for one image; the rest is under 1 %."""
    shapes = tensor_shapes(model, batch=1)
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            per_output = math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            per_output = shapes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            per_output = shapes[node.input[0]][0 if transposed else 1]
        else:
            continue
        total += math.prod(shapes[node.output[0]]) * per_output
    return total


def text_macs(model: NumClip) -> int:
    """Count the MACs of encoding the bins' sentences, which the fold does once and for all."""
    return macs_of(model.text_features)
