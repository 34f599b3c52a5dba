"""SmoothQuant's scales, folded into the graph: outlier channels move from activations to weights.

A trained vision transformer has a few LayerNorm channels that are tens of times larger than the
rest; one INT8 scale for all channels then leaves 2 or 3 bits for the others. Dividing a channel of
LayerNorm's gain and bias by s and multiplying that row of the next weight by s changes nothing but
the balance between the two.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from numclip_export.int8.layers import Array, Constants, Linear, readers, through_slices

STRENGTH = 0.5  # 0 leaves the activations as they are, 1 makes all their channels equal
SMALLEST = 1e-5  # of a channel's range; dead channels keep their scale


def smooth_layer_norms(
    model: onnx.ModelProto, layers: list[Linear], ranges: Mapping[str, Array]
) -> dict[str, Array]:
    """Balance each LayerNormalization that feeds nothing but linear layers; in place.

    Args:
        model: float32 graph.
        layers: Linear layers that will be quantised.
        ranges: Largest magnitude of each channel, (C,), by tensor; see `channel_ranges`.

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
