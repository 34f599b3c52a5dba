"""What only the onnx package can tell about a file: its arithmetic, and where features leave."""

from __future__ import annotations

from typing import Any


def of_file(path: str) -> dict[str, Any]:
    """Return {"macs": per image or None, "features": tensor name or None} of an ONNX file.

    Raises:
        ImportError: if onnx or torch, which numclip_export needs, is not installed.
    """
    import onnx

    from numclip_export.graph.costs import graph_macs
    from numclip_export.graph.types import features_name
    from numclip_runtime.metadata import METADATA_KEY

    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    # INT8 operators are not counted: such a file takes the number of its float32 sibling
    macs = (
        None
        if any("Integer" in kind or kind.startswith("Q") for kind in kinds)
        else graph_macs(model)
    )
    assert any(entry.key == METADATA_KEY for entry in model.metadata_props)
    features: str | None
    try:
        features = features_name(model)
    except AssertionError:  # not by numclip-export's names
        outputs = {value.name for value in model.graph.output}
        features = "features" if "features" in outputs else None
    return {"macs": macs, "features": features}
