"""The models and photos of the proof, made from a seed on the machine itself: nothing to carry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench.gpu.checks import Check, Settings, expect, loaded_packages, tried
from benchmarks.bench.images import write_synthetic

FULL_NETWORK = "ViT-B-32"
CHECKPOINT, FP32 = "proof.pt", "proof.onnx"
PROOF_FILES = {"fp32": FP32, "fp16": "proof.fp16.onnx", "int8": "proof.int8.onnx"}
_PHOTOS = 64
PHOTO_SIZE = (320, 256)  # width, height; small, so that decoding does not take the proof's time
_SMALL = {"layers": 2, "width": 64}
REHEARSAL_CLIP: dict[str, Any] = {  # an open_clip configuration that a CPU runs in milliseconds
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "head_width": 32, **_SMALL},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **_SMALL},
    "quick_gelu": True,
}


def prepare_models(settings: dict[str, Any]) -> Iterator[Check]:
    """Yield a check for photos, checkpoint and each file; `settings` are those of `Settings`."""
    given = Settings(**settings)
    folder = Path(given.models)
    yield tried("photos", partial(_photos, folder))
    yield tried("checkpoint", partial(_checkpoint, folder, small=given.rehearse))
    for precision in ("fp16", "int8"):
        yield tried(f"{precision} file", partial(_file, folder, precision))
    yield loaded_packages()


def photos_of(folder: Path) -> list[str]:
    """Return the photos in a folder of models."""
    return sorted(map(str, (folder / "photos").glob("*.jpg")))


def _photos(folder: Path) -> dict[str, Any]:
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    return {"count": len(write_synthetic(photos, count=_PHOTOS, size=PHOTO_SIZE))}


def _checkpoint(folder: Path, *, small: bool) -> dict[str, Any]:
    import torch

    from numclip.checkpoint import Checkpoint, save_checkpoint
    from numclip.model.backbone import clip_config
    from numclip.model.model_config import ModelConfig
    from numclip.model.numclip import NumClip
    from numclip.tasks import load_task
    from numclip_runtime import Preprocessing

    torch.manual_seed(0)
    config = REHEARSAL_CLIP if small else {**clip_config(FULL_NETWORK), "quick_gelu": True}
    model = NumClip(ModelConfig(config), load_task("age")).eval()
    with torch.no_grad():  # a fresh regressor gives one number for every image
        for layer in model.regressor.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.normal_(std=0.1)
                layer.bias.normal_(std=0.1)
    spec = Preprocessing(crop=32, resize=36) if small else Preprocessing()
    save_checkpoint(folder / CHECKPOINT, Checkpoint(model, spec))
    return {
        "network": "small" if small else FULL_NETWORK,
        "bytes": (folder / CHECKPOINT).stat().st_size,
    }


def _file(folder: Path, precision: str) -> dict[str, Any]:
    """Write the file of a precision, and the float32 one; part b judges them by the checkpoint."""
    from numclip_export import ExportOptions, run_export

    options = ExportOptions(folder / CHECKPOINT, folder / FP32, verify=False)
    calibration = folder / "photos" if precision == "int8" else None
    run_export(replace(options, precision=precision, calib_data=calibration))  # type: ignore[arg-type]
    size = (folder / PROOF_FILES[precision]).stat().st_size
    expect(size > 0, f"{PROOF_FILES[precision]} is empty")
    return {"bytes": size}
