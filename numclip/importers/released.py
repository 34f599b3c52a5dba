"""Trained models of the authors' code (NumCLIP, OrdinalCLIP, CoOp) as numclip checkpoints.

Their Lightning files hold weights only. The user supplies the task with its phrases, the base CLIP
weights, and how rank prompts are interpolated. The rest is fixed: image statistics are ImageNet's,
and the phrase follows the context (position "tail"; weights do not reveal "front" or "middle").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from numclip.checkpoint import Checkpoint, checkpoint_from_content
from numclip.importers.architecture import Shapes, config_from_shapes, template_from_base
from numclip.model.model_config import (
    PLAIN,
    ClipConfig,
    ModelConfig,
    PromptConfig,
    PromptKind,
    RankInterpolation,
)
from numclip.model.numclip import NumClip
from numclip.model.preprocessing import PAPER_PREPROCESSING
from numclip.model.text_encoder import token_ids
from numclip.tasks import load_task
from numclip.weights.reading import (
    check_fit,
    is_checkpoint,
    read_content,
    state_of,
    without_prefix,
)
from numclip_runtime import ModelError, Task, UsageError

CONTEXT, RANKS = "prompt_learner.context_embeds", "prompt_learner.rank_embeds"
PADDING = 0.999  # cosine to PAD's vector, from which no training moves the unused slots
NUMCLIP_OFFSET = 1.0  # NumCLIP's code trains on label - 1, for every task
_Kind = Literal["numclip", "ordinalclip"]  # ordinalclip: CoOp's too, without adapter and regressor
_ROOTS = ("image_encoder.", "text_encoder.", "prompt_learner.", "last_project.")
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


def convert(
    source: Path,
    *,
    task: str | None = None,
    base: str | None = None,
    quick_gelu: bool = True,
    label_offset: float | None = None,
    prompt: PromptKind | None = None,
    rank_interpolation: RankInterpolation | None = None,
) -> Checkpoint:
    """Read a trained model of NumCLIP, OrdinalCLIP or CoOp, or a numclip checkpoint.

    NumCLIP's models keep their regressor. The others predict the expectation over the bins'
    midpoints; bins of one whole label each (edges 0, 1, 2, ...) are first centred on their labels.

    Args:
        source: Lightning `.ckpt` of the authors' code; or a numclip checkpoint, for which all but
            `quick_gelu` is refused. Nothing in it is executed.
        task: Preset or task file with the bins, phrases and context of the training.
        base: Weights of the CLIP model that training started from: open_clip tag or local file.
        quick_gelu: Activation, which is in no file. OpenAI's weights and all that were trained
            from them have QuickGELU.
        label_offset: Label in files = model's number + offset. None: the task's own; where that
            is 0, NumCLIP's models get the 1 that their code subtracts.
        prompt: Whether each bin has words of its own or is interpolated from base ranks; None: see
            `prompts_of`.
        rank_interpolation: Of prompt "rank", which it implies; in no file. None: "linear".

    Raises:
        ModelError: if the file cannot be read, is of no known kind, or its parts do not fit.
        UsageError: if the task or the base weights are missing, or are not those of the file.
    """
    content = read_content(source)
    if is_checkpoint(content):
        if {task, base, label_offset, prompt, rank_interpolation} != {None}:
            raise UsageError(
                f"{source}: a numclip checkpoint, which holds its task and prompts; leave out "
                "--task, --base, --label-offset, --prompt and --rank-interpolation."
            )
        return checkpoint_from_content(content, source)
    if task is None or base is None:
        raise UsageError(
            f"{source}: not a numclip checkpoint; to convert one of others, give --task (its bins "
            "and phrases) and --base (the CLIP weights it was trained from, such as openai)."
        )
    given = load_task(task)
    kind, state = own_names(state_of(content, source), source)
    shapes = Shapes(state, "", source)
    config = config_from_shapes(
        Shapes(state, "image_encoder.", source),
        Shapes(state, "text_encoder.", source),
        quick_gelu=quick_gelu,
    )
    prompts = prompts_of(shapes, kind, given, prompt, rank_interpolation)
    check_lengths(shapes, given, prompts)
    positions = state["text_encoder.positional_embedding"]
    template = template_from_base(base, config, positions, source)
    state["prompt_learner.template"] = template
    form = replace(model_config(shapes, kind, config), prompts=prompts)
    model = NumClip(form, with_labels(given, kind, label_offset))
    check_fit(model.state_dict(), state, source, "the architecture of its shapes")
    if prompts.kind == "plain":  # base ranks have no padding: all their slots are learned and read
        check_padding(state[RANKS], template[-1], given, source)
    model.load_state_dict(state)
    return Checkpoint(model.eval(), PAPER_PREPROCESSING.of(config))


def own_names(state: Mapping[str, Tensor], path: Path) -> tuple[_Kind, dict[str, Tensor]]:
    """Return which code wrote a state dict, and its live weights named as in `NumClip`.

    Args:
        state: As in the file, any prefix included.
        path: File named in errors.

    Raises:
        ModelError: if it cannot be converted; names what it is.
    """
    state = without_prefix(state, _ROOTS)
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
    kind: _Kind = "numclip" if any(key.startswith(parts) for key in state) else "ordinalclip"
    return kind, {_own(k): v for k, v in state.items() if not DEAD.fullmatch(k)}


def _own(key: str) -> str:
    for theirs, ours in RENAMED.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def model_config(shapes: Shapes, kind: _Kind, config: ClipConfig) -> ModelConfig:
    """Return the architecture around the CLIP model."""
    if kind == "ordinalclip":
        return ModelConfig(config, adapter_ratio=0.0, regressor="expected")
    hidden, width = shapes.of("image_adapter.fc.0.weight", 2)
    return ModelConfig(config, adapter_reduction=max(1, width // hidden))


def with_labels(task: Task, kind: _Kind, label_offset: float | None) -> Task:
    """Return the task with the labels that the authors' code trains on, see `convert`."""
    edges = task.bin_edges
    if kind == "numclip":
        offset = (task.label_offset or NUMCLIP_OFFSET) if label_offset is None else label_offset
        return replace(task, label_offset=offset)
    if edges == tuple(edges[0] + k for k in range(len(edges))) and edges[0].is_integer():
        task = replace(task, bin_edges=tuple(edge - 0.5 for edge in edges))
    return task if label_offset is None else replace(task, label_offset=label_offset)


def prompts_of(
    shapes: Shapes,
    kind: _Kind,
    task: Task,
    prompt: PromptKind | None,
    interpolation: RankInterpolation | None,
) -> PromptConfig:
    """Return how the file's prompts are made, from its shapes and the user's options.

    NumCLIP's regressor has the number of bins, so fewer ranks than bins are base ranks. Nothing in
    OrdinalCLIP's files has it: fewer ranks may mean a wrong task, so the user must give "rank". As
    many ranks as bins are words of the bins' own, unless the user gives "rank".

    Raises:
        UsageError: if the task is another, or an option does not fit the file.
    """
    path, bins = shapes.path, task.num_bins
    ranks, tokens, _ = shapes.of(RANKS, 3)
    its_bins = shapes.of("regressor.fc.weight", 2)[1] if kind == "numclip" else None
    if its_bins not in (None, bins):
        raise UsageError(
            f"{path}: has {its_bins} bins, task {task.name!r} has {bins}; give the task that it "
            "was trained with."
        )
    if prompt is None and (interpolation or (its_bins and ranks != bins)):
        prompt = "rank"
    if prompt == "plain" and interpolation:
        raise UsageError("--rank-interpolation belongs to --prompt rank; leave out one of the two.")
    if prompt == "rank" and ranks <= bins:
        return PromptConfig(
            "rank",
            num_base_ranks=ranks,
            random_rank_tokens=tokens,  # the words are in the file, whatever they began as
            rank_interpolation=interpolation or "linear",
        )
    if ranks != bins:
        maybe = (
            ", or --prompt rank if these are base ranks of interpolated prompts"
            if ranks < bins
            else ""
        )
        raise UsageError(
            f"{path}: has {ranks} {'base ranks' if prompt == 'rank' else 'ranks'}, task "
            f"{task.name!r} has {bins} bins; give the task that it was trained with{maybe}."
        )
    return PLAIN


def check_lengths(shapes: Shapes, task: Task, prompts: PromptConfig) -> None:
    """Check that the file's words are as many tokens as the task's; base ranks have no names in it.

    Raises:
        ModelError: if each bin has its own context.
        UsageError: if the task's words are others.
    """
    if shapes.dims(CONTEXT) == 3:
        raise ModelError(f"{shapes.path}: has one context per bin, which numclip cannot read yet.")
    context, longest = shapes.of(CONTEXT, 2)[0], shapes.of(RANKS, 3)[1]
    if context != (given := len(token_ids(task.context))):
        raise UsageError(
            f"{shapes.path}: its context has {context} tokens, {task.context!r} of task "
            f"{task.name!r} has {given}; give the words it was trained from (if it started from "
            f"noise, any {context} tokens)."
        )
    if prompts.kind == "rank":
        return
    counts = {phrase: len(token_ids(phrase)) for phrase in task.phrases}
    if longest != max(counts.values()):
        raise UsageError(
            f"{shapes.path}: its longest phrase has {longest} tokens, that of task {task.name!r} "
            f"{max(counts.values())} ({max(counts, key=counts.__getitem__)!r}); give the phrases "
            "it was trained with."
        )


def check_padding(ranks: Tensor, pad: Tensor, task: Task, path: Path) -> None:
    """Check that each phrase ends where the file's padding starts.

    Args:
        ranks: (K, r_max, Wt); slots behind a shorter phrase hold the embedding of PAD.
        pad: (Wt,).
        task: Phrases to tokenise.
        path: Named in the error.

    Raises:
        UsageError: if the phrases are not those that the model was trained with.
    """
    unused = F.cosine_similarity(ranks, pad, dim=-1) > PADDING  # (K, r_max)
    for phrase, slots in zip(task.phrases, unused.tolist(), strict=True):
        used = max((i + 1 for i, free in enumerate(slots) if not free), default=0)
        if used != (given := len(token_ids(phrase))):
            raise UsageError(
                f"{path}: has {used} tokens where {phrase!r} of task {task.name!r} has {given}; "
                "give the phrases it was trained with, in their order."
            )
