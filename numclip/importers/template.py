"""The sentence template's vectors, which trained files of the authors' code lack."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from numclip.importers.architecture import architectures_like
from numclip.model.backbone import VOCABULARY, ClipConfig, weights_file
from numclip.model.prompts import TEMPLATE_IDS
from numclip.weights.clip import read_clip_weights, with_text_prefix
from numclip_runtime import UsageError

RELATED = 0.9  # cosine; every recipe freezes the text tower (1.0), and 1e-5 steps move it little


def template_from_base(base: str, config: ClipConfig, positions: Tensor, path: Path) -> Tensor:
    """Return the embeddings of SOT, EOT, ".", PAD from the weights that training started from.

    Args:
        base: open_clip tag, or path of a CLIP weights file.
        config: Architecture of the trained model.
        positions: The trained model's text position embeddings (L, Wt), to tell whether `base` is
            what it was trained from.
        path: The trained model's file, named in errors.

    Returns:
        (4, Wt) float32.

    Raises:
        UsageError: if there are no such weights, or the model was not trained from them.
        ModelError: if the file of weights cannot be read.
    """
    file = base_file(base, config, path)
    state = with_text_prefix(read_clip_weights(file), custom_text=False)
    table, ours = state.get("token_embedding.weight"), state.get("positional_embedding")
    if table is None or ours is None:
        raise UsageError(f"{file}: lacks the token or position embeddings of a CLIP text tower.")
    width = positions.shape[1]
    if table.shape != (VOCABULARY, width) or ours.shape != positions.shape:
        raise UsageError(
            f"{file}: embeds {list(table.shape)} tokens at {list(ours.shape)} positions, {path} "
            f"{[VOCABULARY, width]} at {list(positions.shape)}; --base must be the CLIP model that "
            "training started from."
        )
    related = F.cosine_similarity(ours.flatten(), positions.flatten(), dim=0).item()
    if not related > RELATED:
        raise UsageError(
            f"{file}: {path} was not trained from these weights (cosine of their text position "
            f"embeddings {related:.2f}); --base must be the CLIP model that training started from."
        )
    return table[list(TEMPLATE_IDS)].clone()


def base_file(base: str, config: ClipConfig, path: Path) -> Path:
    """Return the local file of the base weights, downloading those of a tag.

    Raises:
        UsageError: if there is neither such a file nor such weights for this architecture.
    """
    if Path(base).is_file():
        return Path(base)
    names = architectures_like(config, base)
    if not names:
        raise UsageError(
            f"--base {base!r} is neither a file nor a tag under which open_clip has weights of "
            f"{path}'s architecture; give openai, or a local file of the CLIP model that training "
            "started from."
        )
    return weights_file(names[0], base)
