"""SmoothQuant's scales for chains of convolutions: channels of a tensor become more alike.

An activation has one INT8 step for all its channels, and the largest decides it. What lies between
convolutions (ReLU, sums, pools) commutes with a positive factor per channel, so a channel can be
divided by s where convolutions write it, and multiplied by s in the weights that read it. At run
time one product is left, at the end of the chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import helper

from numclip_export.graph.names import module_of, new_name
from numclip_export.int8.layers import Array, Constants, readers, replace_input
from numclip_export.int8.smooth import balance
from numclip_export.precision.fp16_emulation import cpu_session
from numclip_runtime.metadata import INPUT_NAME
from numclip_runtime.preprocess import FloatArray

BATCH = 8  # images per run


def smooth_chain(model: onnx.ModelProto, names: Iterable[str], images: FloatArray) -> None:
    """Balance the channels between convolutions; in place.

    Tensors that ReLU, sums and pools connect share their scales, such as a stage's residual stream.
    They stay as they are where something else writes or reads one of them; only the last tensor may
    be read by others, which get it multiplied back.

    Args:
        model: float32 graph.
        names: Nodes that will be quantised: convolutions, ReLUs, sums, pools.
        images: (N, 3, H, W) float32, to measure the channels with.

    Source:
        SmoothQuant (arXiv 2211.10438), equation 4; scaling through ReLU: Data-Free Quantization
        (arXiv 1906.04721), section 4.1.
    """
    constants, chosen = Constants(model), set(names)
    chain = [node for node in model.graph.node if node.name in chosen]
    convs = [node for node in chain if _is_plain(node, constants)]
    last = chain[-1]
    groups = list(_groups(model, chain, convs))
    if not groups:
        return
    largest = _largest(model, _quantised(model, groups), images)
    scales: dict[str, Array] = {}  # (C,) by tensor
    for group in groups:
        peaks = [largest[name] for name in group if name in largest]
        if len({len(peak) for peak in peaks}) != 1:
            continue  # a sum that repeats a channel
        found = np.max(peaks, 0)  # (C,)
        reading = [constants.get(node.input[1]) for node in convs if node.input[0] in group]
        weights = [np.abs(weight).max((0, 2, 3)) for weight in reading] or [np.ones_like(found)]
        heaviest = np.max(weights, 0)  # (C,)
        scales |= dict.fromkeys(group, balance(found, heaviest))
    for node in convs:
        inner, outer = scales.get(node.input[0]), scales.get(node.output[0])
        weight = constants.get(node.input[1])  # (out, in, kh, kw)
        weight *= 1 if inner is None else inner[:, None, None]
        weight /= 1 if outer is None else outer[:, None, None, None]
        node.input[1] = constants.put(f"{node.name}/balanced", weight)
        if outer is not None and len(node.input) > 2:
            bias = constants.get(node.input[2]) / outer
            node.input[2] = constants.put(f"{node.name}/balanced_bias", bias)
    if last.output[0] in scales:
        _multiply_back(model, last, chosen, scales[last.output[0]], constants)
    constants.drop_unused()


def _multiply_back(
    model: onnx.ModelProto,
    last: onnx.NodeProto,
    chosen: set[str],
    scale: Array,
    constants: Constants,
) -> None:
    """Give the last tensor's readers outside the chain what it was before."""
    outside = [n for n in readers(model)[last.output[0]] if n.name not in chosen]
    factor = constants.put(f"{last.name}/scale", scale[:, None, None])
    before, after = last.output[0], f"{last.output[0]}/multiplied_back"
    name = new_name(module_of(last.name), "Mul", {node.name for node in model.graph.node})
    replace_input(outside, before, after)
    place = [node.name for node in model.graph.node].index(last.name) + 1
    model.graph.node.insert(place, helper.make_node("Mul", [before, factor], [after], name))


def _is_plain(node: onnx.NodeProto, constants: Constants) -> bool:
    """Tell whether a node is a convolution without groups, with constant weights."""
    groups = {helper.get_attribute_value(a) for a in node.attribute if a.name == "group"}
    return (
        node.op_type == "Conv"
        and groups <= {1}
        and all(name in constants for name in node.input[1:])
    )


def _groups(
    model: onnx.ModelProto, chain: list[onnx.NodeProto], convs: list[onnx.NodeProto]
) -> Iterator[set[str]]:
    """Yield the sets of tensors that share scales, where only the chain writes and reads them."""
    ends = {node.name for node in convs}
    between = [node for node in chain if node.op_type != "Conv"]
    group_of: dict[str, set[str]] = {node.output[0]: {node.output[0]} for node in convs}
    for node in between:
        tensors = [*node.input, node.output[0]]
        merged = set[str]().union(*(group_of.get(name, {name}) for name in tensors))
        group_of |= dict.fromkeys(merged, merged)
    allowed = ends | {node.name for node in between}
    written = {node.output[0] for node in chain if node.name in allowed}
    read_by = readers(model)
    results = {value.name for value in model.graph.output}
    for group in {id(group): group for group in group_of.values()}.values():
        inner = group - {chain[-1].output[0]}
        following = [node for name in inner for node in read_by.get(name, [])]
        if group <= written - results and all(node.name in allowed for node in following):
            yield group


def _quantised(model: onnx.ModelProto, groups: list[set[str]]) -> list[str]:
    """Return the tensors that get a range: what only ReLU reads is never stored."""
    read_by = readers(model)
    return [
        name
        for group in groups
        for name in sorted(group)
        if any(node.op_type != "Relu" for node in read_by.get(name, []))
    ]


def _largest(model: onnx.ModelProto, names: list[str], images: FloatArray) -> dict[str, Array]:
    """Return each channel's largest magnitude over the images, (C,), by tensor (B, C, H, W)."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    axes = Constants(watched).put("axes_of_images", np.array([0, 2, 3]))
    peaks = [f"{name}/peak" for name in names]
    for name, peak in zip(names, peaks, strict=True):  # whole tensors of RN50x64 are gigabytes
        watched.graph.node.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        watched.graph.node.append(
            helper.make_node("ReduceMax", [f"{name}/abs", axes], [peak], keepdims=0)
        )
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=peak) for peak in peaks)
    session = cpu_session(watched, fused=True)
    runs = [
        session.run(peaks, {INPUT_NAME: images[start : start + BATCH]})
        for start in range(0, len(images), BATCH)
    ]
    columns = [np.max(rows, 0) for rows in zip(*runs, strict=True)]
    return dict(zip(names, columns, strict=True))
