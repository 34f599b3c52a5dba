"""Widen the float32 part of a float16 graph, step by step, until it passes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import onnx
from onnx import TensorProto

from numclip_export.graph.names import collapse, in_image_encoder, module_of
from numclip_export.graph.run import largest_magnitudes
from numclip_export.graph.types import node_precisions, tensor_types
from numclip_export.parity import Parity
from numclip_export.precision.fp16 import FP16_MAX, fp16_from_fp32, head_nodes, nodes_beyond_fp16
from numclip_runtime.preprocess import InputArray

NORMS = re.compile(r"(Layer|Group|Instance|Batch)Normalization|Softmax|Reduce(Mean|Sum|L2)")
BLOCK = re.compile(r"image_encoder\.(?:.+\.)?(?:resblocks|blocks|layers|layer\d+)\.\d+(?=\.|$)")
HEADROOM = 2  # other images may reach twice as far


@dataclass(frozen=True)
class Network:
    """A float32 graph, and images to measure it on."""

    model: onnx.ModelProto
    images: InputArray  # (N, ...) in the form of the graph's input

    @cached_property
    def activations(self) -> dict[str, float]:
        """Largest magnitude of each float tensor that a node computes, on the images."""
        types = tensor_types(self.model)
        computed = (name for node in self.model.graph.node for name in node.output)
        floats = dict.fromkeys(name for name in computed if types.get(name) == TensorProto.FLOAT)
        largest = largest_magnitudes(self.model, floats, self.images)
        return {name: float(size) for name, size in largest.items()}

    @cached_property
    def blocks(self) -> dict[str, int]:
        """Module path of each block -> index of its first node, in graph order."""
        found: dict[str, int] = {}
        for i, node in enumerate(self.model.graph.node):
            if match := BLOCK.match(module_of(node.name)):
                found.setdefault(match.group(), i)
        return found


def norms(network: Network) -> set[str]:
    """Return the sums over many numbers and the exponentials, which float16 rounds worst."""
    return {node.name for node in network.model.graph.node if NORMS.fullmatch(node.op_type)}


def overflowing(network: Network) -> set[str]:
    """Return the nodes that make or read a tensor beyond half the float16 range, measured."""
    large = {name for name, size in network.activations.items() if not size * HEADROOM <= FP16_MAX}
    return {
        node.name
        for node in network.model.graph.node
        if large.intersection(node.output) or large.intersection(node.input)
    }


def last_blocks(count: int) -> Callable[[Network], set[str]]:
    """Return a choice of everything from the last `count` blocks on, if there are more blocks."""

    def nodes(network: Network) -> set[str]:
        starts = sorted(network.blocks.values())
        return _from(network, starts[-count]) if count < len(starts) else set()

    return nodes


def all_blocks(network: Network) -> set[str]:
    """Return everything from the first block on: the first convolutions stay in float16."""
    return _from(network, min(network.blocks.values(), default=len(network.model.graph.node)))


def _from(network: Network, first: int) -> set[str]:
    nodes = network.model.graph.node[first:]
    return {node.name for node in nodes if in_image_encoder(node.name)}


class Step(NamedTuple):
    """One widening: the nodes it names join those of all steps before."""

    name: str
    nodes: Callable[[Network], set[str]]


STEPS = (
    Step("head", lambda network: head_nodes(network.model)),
    Step("normalisation layers and softmax", norms),
    Step("activations beyond float16", overflowing),
    Step("last block", last_blocks(1)),
    *(Step(f"last {n} blocks", last_blocks(n)) for n in (2, 4, 8, 16, 32)),
    Step("all blocks, not the stem", all_blocks),
)


@dataclass(frozen=True)
class Attempt:
    """A float16 graph, and its distance from the checkpoint."""

    step: str
    model: onnx.ModelProto
    added: tuple[str, ...]  # modules or nodes that this step took to float32
    parity: Parity

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return {"step": self.step, "added": list(self.added), **self.parity.to_dict()}


def attempts(network: Network, judge: Callable[[onnx.ModelProto], Parity]) -> Iterator[Attempt]:
    """Yield float16 graphs of growing float32 parts, up to the first that passes.

    A step that adds nothing is left out. If the last one yielded did not pass, none does.

    Args:
        network: float32 graph, and the images on which the steps measure it.
        judge: Compares a float16 graph with the checkpoint.
    """
    everything = node_precisions(network.model)
    kept = nodes_beyond_fp16(network.model)
    for step in STEPS:
        new = (step.nodes(network) & everything.keys()) - kept
        if not new:
            continue
        kept |= new
        model = fp16_from_fp32(network.model, kept)
        attempt = Attempt(step.name, model, collapse(new, everything), judge(model))
        yield attempt
        if attempt.parity.passed:
            return


def fp32_parts(model: onnx.ModelProto) -> tuple[str, ...]:
    """Name the parts of a graph that compute in float32: modules, or nodes of mixed modules."""
    precisions = node_precisions(model)
    return collapse({n for n, kind in precisions.items() if kind == "fp32"}, precisions)
