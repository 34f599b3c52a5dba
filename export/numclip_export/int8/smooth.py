"""SmoothQuant's scales, folded into the graph: outlier channels move from activations to weights.

A trained vision transformer has a few LayerNorm channels that are tens of times larger than the
rest; one INT8 scale for all channels then leaves 2 or 3 bits for the others. Dividing a channel of
LayerNorm's gain and bias by s and multiplying that row of the next weight by s changes nothing but
the balance between the two.

Chains of convolutions have the same problem and the same cure. ReLU, sums and pools commute with a
positive factor per channel, so a channel can be divided by s where a convolution writes it, and
multiplied by s in the weights that read it. At run time one product is left, at the end of the
chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper

from numclip_export.graph.edit import Array, Constants, readers, replace_input, through_slices
from numclip_export.graph.names import module_of, new_name
from numclip_export.graph.run import largest_magnitudes
from numclip_export.int8.layers import Linear
from numclip_runtime.preprocess import FloatArray

STRENGTH = 0.5  # 0 leaves the activations as they are, 1 makes all their channels equal
SMALLEST = 1e-5  # of a channel's range; dead channels keep their scale


def smooth_layer_norms(
    model: onnx.ModelProto, layers: list[Linear], ranges: Mapping[str, Array]
) -> dict[str, Array]:
    """Balance each LayerNormalization that feeds nothing but linear layers; in place.

    Args:
        model: float32 graph.
        layers: Linear layers that will be quantised.
        ranges: Largest magnitude of each channel, (C,), by tensor; see `layer_ranges`.

    Returns:
        (C,) by which the channels of each balanced tensor were divided, by tensor; so its ranges
        are now `ranges[tensor] / scale`.

    Source:
        SmoothQuant (arXiv 2211.10438), equation 4.
    """
    by_node = {layer.node: layer for layer in layers}
    constants, read_by = Constants(model), readers(model)
    scales: dict[str, Array] = {}
    for norm in model.graph.node:
        if norm.op_type != "LayerNormalization" or len(norm.input) != 3:
            continue
        following = list(through_slices(norm.output[0], read_by))
        if not following or any(node.name not in by_node for node in following):
            continue  # something else reads it, such as a residual
        targets = [by_node[node.name] for node in following]
        if any(layer.op == "Conv" or layer.activation not in ranges for layer in targets):
            continue
        weights = [constants.get(layer.weight) for layer in targets]
        # (C,) largest weight that meets each channel
        heaviest = np.max(
            [np.abs(w).max(layer.output_axis) for w, layer in zip(weights, targets, strict=True)], 0
        )
        largest = np.max([ranges[layer.activation] for layer in targets], 0)
        scale = balance(largest, heaviest)
        for index in (1, 2):
            numbers = constants.get(norm.input[index]) / scale
            norm.input[index] = constants.put(f"{norm.name}/balanced_{index}", numbers)
        for node, layer, weight in zip(following, targets, weights, strict=True):
            along = scale[:, None] if layer.output_axis == 1 else scale
            node.input[1] = constants.put(f"{node.name}/balanced", weight * along)
            scales[layer.activation] = scale
    constants.drop_unused()
    return scales


def balance(activation: Array, weight: Array, strength: float = STRENGTH) -> Array:
    """Return SmoothQuant's scale of each channel, (C,) float32.

    Args:
        activation: (C,) largest magnitudes of the activation's channels.
        weight: (C,) largest magnitudes of the weight's rows.
        strength: How much of the activation's unevenness moves.
    """
    alive = (activation > SMALLEST) & (weight > SMALLEST)
    raw = np.where(alive, activation, 1) ** strength / np.where(alive, weight, 1) ** (1 - strength)
    return np.where(alive, raw, 1).astype(np.float32)


def smooth_chain(model: onnx.ModelProto, names: Iterable[str], images: FloatArray) -> None:
    """Balance the channels between convolutions; in place.

    Tensors that ReLU, sums and pools connect share their scales, such as a stage's residual stream.
    They stay as they are where a node outside the chain writes or reads one of them; only the last
    tensor may have other readers, for which it is multiplied back.

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
    quantised = dict.fromkeys(_quantised(model, groups), 1)
    largest = largest_magnitudes(model, quantised, images, fused=True)
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
    """Restore the last tensor for its readers outside the chain."""
    outside = [n for n in readers(model)[last.output[0]] if n.name not in chosen]
    factor = constants.put(f"{last.name}/scale", scale[:, None, None])
    before, after = last.output[0], f"{last.output[0]}/multiplied_back"
    name = new_name(module_of(last.name), "Mul", {node.name for node in model.graph.node})
    replace_input(outside, before, after)
    place = [node.name for node in model.graph.node].index(last.name) + 1
    model.graph.node.insert(place, helper.make_node("Mul", [before, factor], [after], name))


def _is_plain(node: onnx.NodeProto, constants: Constants) -> bool:
    """Return whether a node is a convolution without groups, with constant weights."""
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
    """Return the tensors that get a range: a tensor that only ReLU reads is never stored."""
    read_by = readers(model)
    return [
        name
        for group in groups
        for name in sorted(group)
        if any(node.op_type != "Relu" for node in read_by.get(name, []))
    ]
