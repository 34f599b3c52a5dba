"""Cost of one prediction in multiply-accumulate operations (MACs; 1 MAC = 2 FLOPs)."""

from __future__ import annotations

import math

import onnx
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

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
    # The fused attention and the inference fast path are invisible to torch's counter.
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.text_features()
    return counter.get_total_flops() // 2
