"""Node names that people recognise: the part of the model, a slash, the operator.

`image_encoder.transformer.resblocks.3.ln_1/LayerNormalization` instead of `node_layer_norm_7`, so
that reports and precision rules speak of parts. Nodes after the image encoder belong to `head`,
`adapter.…` or `regressor.…`.
"""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from collections.abc import Collection, Iterable

import onnx

IMAGE_ENCODER = "image_encoder"
HEAD = "head"  # FoldedModel.forward outside its submodules: norm, logits, softmax
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note, such as "['', 'image_encoder', 'cat']"
ADAPTER_LAYERS = ("down", "up")  # of FoldedModel


def name_nodes(model: onnx.ModelProto) -> None:
    """Rename every node to "<module path>/<OpType>", in graph order "_1", "_2", … where repeated.

    Reads the exporter's notes, so it must run before they are deleted. The same model always gets
    the same names.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    modules = [_module(node, weights) for node in model.graph.node]
    readers: dict[str, int] = {}  # tensor -> first node that reads it
    for i, node in enumerate(model.graph.node):
        for name in node.input:
            readers.setdefault(name, i)
    for i in reversed(range(len(modules))):  # a node without a note belongs to its first reader
        if modules[i] is None:
            found = [readers[name] for name in model.graph.node[i].output if name in readers]
            modules[i] = modules[min(found)] if found else HEAD
    seen: Counter[str] = Counter()
    for node, module in zip(model.graph.node, modules, strict=True):
        name = f"{module}/{node.op_type}"
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1


def _module(node: onnx.NodeProto, weights: Collection[str]) -> str | None:
    if node.op_type == "Conv":  # its note names the batch normalisation that was fused into it
        for name in map(str, node.input):
            if name in weights and name.endswith(".weight"):
                return name.removesuffix(".weight")
    notes = {note.key: note.value for note in node.metadata_props}
    if SCOPES not in notes:
        return None
    scopes: list[str] = ast.literal_eval(notes[SCOPES])  # from the whole model to the operation
    if len(scopes) < 2 or scopes[0] != "":  # made by the exporter, such as Shape of the input
        return None
    path = scopes[-2]
    if path in ADAPTER_LAYERS:
        return f"adapter.{path}"
    return path or HEAD


def new_name(module: str, op_type: str, taken: set[str]) -> str:
    """Return an unused name for a node of a module, and add it to `taken`."""
    path = f"{module}/{op_type}"
    candidates = itertools.chain([path], (f"{path}_{n}" for n in itertools.count(1)))
    name = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(name)
    return name


def module_of(node_name: str) -> str:
    """Return the module path of a node's name."""
    return node_name.rpartition("/")[0]


def in_image_encoder(node_name: str) -> bool:
    """Return whether a node belongs to the image encoder."""
    return node_name.split("/")[0].split(".")[0] == IMAGE_ENCODER


def collapse(chosen: Collection[str], everything: Iterable[str]) -> tuple[str, ...]:
    """Name a set of nodes by as few words as possible.

    Args:
        chosen: Names of nodes.
        everything: Names of all nodes that could have been chosen.

    Returns:
        Sorted module paths where all nodes of a module and its submodules are chosen, else names.
    """
    chosen = set(chosen)
    mixed: set[str] = set()  # modules with a node that is not chosen
    for name in everything:
        if name not in chosen:
            mixed.update(_ancestors(name))
    short = set()
    for name in chosen:
        whole = [path for path in _ancestors(name) if path not in mixed]
        short.add(min(whole, key=len) if whole else name)
    return tuple(sorted(short))


def _ancestors(node_name: str) -> list[str]:
    parts = module_of(node_name).split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
