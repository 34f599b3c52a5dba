"""Names of backbones: a wrong one is refused without the seconds that importing torch takes."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from numclip_runtime import UsageError
from numclip_runtime.console import visible


def architectures() -> list[str]:
    """Return the names of open_clip's architectures; empty where it is not installed."""
    spec = find_spec("open_clip")
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    return sorted(file.stem for f in folders for file in Path(f, "model_configs").glob("*.json"))


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
    """Return the error about a name that open_clip does not know."""
    similar = get_close_matches(name, architectures(), 1, 0.5)
    hint = f" (similar: {similar[0]})" if similar else ""
    return UsageError(
        f"unknown backbone {name!r}{hint}: give an open_clip architecture such as ViT-B-32, "
        "an image tower of timm such as timm/mobilenetv2_100, or the path of an open_clip "
        "configuration (.json)."
    )
