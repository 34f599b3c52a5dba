"""From a trained file of others, or a numclip checkpoint, to a numclip checkpoint."""

from __future__ import annotations

from pathlib import Path

from numclip.checkpoint import Checkpoint, checkpoint_from_content
from numclip.importers.released import released_checkpoint
from numclip.model.model_config import PromptKind, RankInterpolation
from numclip.tasks import load_task
from numclip.weights.reading import is_checkpoint, read_content
from numclip_runtime import UsageError


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
    """Read a trained model as a numclip checkpoint; executes nothing in it.

    Args:
        source: Lightning `.ckpt` of the authors' code, or a numclip checkpoint.
        task: Preset or task file; needed for the authors' files, refused for numclip's.
        base: open_clip tag or weights file; needed for the authors' files, refused for numclip's.
        quick_gelu: See `released_checkpoint`.
        label_offset: See `released_checkpoint`.
        prompt: See `released_checkpoint`.
        rank_interpolation: See `released_checkpoint`.

    Raises:
        ModelError: if `source` cannot be read or converted.
        UsageError: if an argument is missing or does not fit.
    """
    content = read_content(source)
    if is_checkpoint(content):
        for given in (task, base, label_offset, prompt, rank_interpolation):
            if given is not None:
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
    return released_checkpoint(
        content,
        source,
        load_task(task),
        base,
        quick_gelu=quick_gelu,
        label_offset=label_offset,
        prompt=prompt,
        rank_interpolation=rank_interpolation,
    )
