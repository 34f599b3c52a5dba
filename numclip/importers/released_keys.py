"""Names in the state dicts that the code of NumCLIP, OrdinalCLIP and CoOp writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from numclip.weights.reading import without_prefix
from numclip_runtime import ModelError

Kind = Literal["numclip", "ordinalclip"]  # ordinalclip: CoOp's too, without adapter and regressor
ROOTS = ("image_encoder.", "text_encoder.", "prompt_learner.", "last_project.")
RENAMED = {
    "regressor.stage1_FC_after_PB.0.": "regressor.fc.",
    "regressor.stage1_delta_k.0.": "regressor.delta.",
}
# 24 keys of SSR-Net's stages that NumCLIP's forward pass never reaches; "funsion" is theirs.
DEAD = re.compile(
    r"regressor\.("
    r"stage1_(prob|index_offsets)\.0\.(weight|bias)"
    r"|stage2_(FC_after_PB|prob|index_offsets|delta_k)\.0\.(weight|bias)"
    r"|stream[12]_stage2\.fc\.[02]\.weight"
    r"|funsion_block_stream[12]_stage_[12]_prediction_block\.(weight|bias)"
    r")"
)


def own_names(state: Mapping[str, Tensor], path: Path) -> tuple[Kind, dict[str, Tensor]]:
    """Tell what wrote a state dict, and name its live weights as `NumClip` does.

    Args:
        state: As in the file, any prefix included.
        path: File named in errors.

    Raises:
        ModelError: if it is nothing that can be converted; says what it is instead.
    """
    state = without_prefix(state, ROOTS)
    if any(key.startswith("image_encoder.features.") for key in state):
        raise ModelError(f"{path}: its image tower is a VGG16; only CLIP's image towers are read.")
    if "image_encoder.fc.weight" in state:
        raise ModelError(
            f"{path}: its image tower is a plain ResNet; only CLIP's image towers are read."
        )
    if "last_project.weight" in state:
        raise ModelError(
            f"{path}: the plain classifier (baseline), which has no text tower to convert."
        )
    if not any(key.startswith("prompt_learner.") for key in state):
        if any("visual." in key for key in state):
            raise ModelError(
                f"{path}: weights of a plain CLIP model; give them to `numclip-train --pretrained`."
            )
        raise ModelError(
            f"{path}: not a trained model of NumCLIP, OrdinalCLIP or CoOp: no key starts with "
            "prompt_learner., with or without module. before it."
        )
    parts = ("regressor.", "image_adapter.")
    kind: Kind = "numclip" if any(key.startswith(parts) for key in state) else "ordinalclip"
    return kind, {_own(k): v for k, v in state.items() if not DEAD.fullmatch(k)}


def _own(key: str) -> str:
    for theirs, ours in RENAMED.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key
