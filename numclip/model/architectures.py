"""Names of backbones: a wrong one is refused without the seconds that importing torch takes."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from numclip_runtime import UsageError
from numclip_runtime.console import visible
from numclip_runtime.model_files.given import kind_of

TIMM = "timm/"  # before the name of an image tower of timm
# Families of timm's convolutional towers with batch normalisation, by the start of their names
_CONVOLUTIONAL = (
    *("resnet", "resnext", "wide_resnet", "seresn", "legacy_", "res2n", "resnest", "ecaresnet"),
    *("gluon_", "skresn", "cspr", "cspdarknet", "darknet", "regnet", "densenet", "vgg", "dla"),
    *("mobilenet", "tf_mobilenet", "mobileone", "mnasnet", "semnasnet", "spnasnet", "fbnet"),
    *("efficientnet", "tf_efficientnet", "mixnet", "tf_mixnet", "tinynet", "lcnet", "ghostnet"),
    *("rexnet", "repvgg", "hrnet", "hgnet", "inception", "xception", "gernet", "hardcorenas"),
)


def is_convolutional(name: str) -> bool:
    """Return whether a backbone is a tower of timm that convolutes and normalises batches."""
    return name.startswith(TIMM) and name.removeprefix(TIMM).startswith(_CONVOLUTIONAL)


def architectures() -> list[str]:
    """Return the names of open_clip's architectures; empty where it is not installed."""
    return sorted(file.stem for f in _folders() for file in (f / "model_configs").glob("*.json"))


def _folders() -> list[Path]:
    spec = find_spec("open_clip")
    return list(map(Path, (spec.submodule_search_locations or ()) if spec is not None else ()))


def _possible_tags() -> set[str]:
    """Return the words in open_clip's list of weights, its tags among them; it is not imported."""
    words: set[str] = set()
    for file in (folder / "pretrained.py" for folder in _folders()):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))) if file.is_file() else ():
            if isinstance(node, ast.keyword) and node.arg:
                words.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
    return words


def check_pretrained(pretrained: str | None) -> None:
    """Refuse weights that are neither a file nor a tag of open_clip for any architecture.

    Raises:
        UsageError: naming the most similar tag.
    """
    if not pretrained:
        return
    if Path(pretrained).is_file():
        kind = kind_of(pretrained)
        if kind not in (None, "a checkpoint"):
            raise UsageError(
                f"{visible(pretrained)}: is {kind}, not weights; give --pretrained a .pt or "
                ".safetensors file, or a tag such as openai."
            )
        return
    tags = _possible_tags()
    if tags and pretrained.lower().replace("-", "_") not in tags:  # as open_clip reads them
        similar = get_close_matches(pretrained, tags, 1, 0.6)
        hint = f" (similar: {similar[0]})" if similar else ""
        raise UsageError(
            f"{pretrained!r} is neither a file nor a tag of open_clip{hint}; give --pretrained a "
            "file of weights, or a tag such as openai."
        )


def check_backbone(name: str) -> None:
    """Refuse a backbone that is neither an architecture of open_clip nor a file.

    Raises:
        UsageError: naming the most similar architecture.
    """
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise UsageError(f"{visible(name)}: cannot read this configuration (no such file).")
        return
    elsewhere = ":" in name or "/" in name  # such as "hf-hub:owner/name", known to open_clip
    names = architectures()
    if names and name not in names and not elsewhere:
        raise unknown_backbone(name)


def unknown_backbone(name: str) -> UsageError:
    """Return the error about a name that open_clip does not know; the example is a similar one."""
    example = (*get_close_matches(name, architectures(), 1, 0.5), "ViT-B-32")[0]
    return UsageError(
        f"unknown backbone {name!r}: give an open_clip architecture such as {example}, an image "
        "tower of timm such as timm/mobilenetv2_100, or the path of an open_clip configuration "
        "(.json)."
    )
