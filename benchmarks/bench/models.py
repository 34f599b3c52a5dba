"""Model files made once and kept: full-size models with random weights, as fast as trained ones."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.bench.processes.worker import call_apart
from numclip_runtime import __version__
from numclip_runtime.errors import MissingDependencyError, UsageError
from numclip_runtime.system import cache_folder

# Trained transformers have a few channels much larger than the others, which INT8 resolves badly;
# random ones do not. So one model gets them: the same function, stressed.
STRESSED = "+outliers"
OUTLIERS, CHANNELS = 30, 6  # times the others, and how many of each LayerNorm's
TIMM_TOWERS = {"MobileNetV2": "timm/mobilenetv2_100"}  # with the text tower of a ViT-B-32
SIZES = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "RN50", *TIMM_TOWERS, f"ViT-B-32{STRESSED}")
FOR_BATCHES = ".openvino.int8.onnx"  # suffix of the INT8 file for OpenVINO
RANDOM = "random weights: its speed is that of a trained model, its values mean nothing"


def model_cache() -> Path:
    """Return the folder of this user's models for benchmarks."""
    return cache_folder() / "benchmarks"


def cached(name: str, make: Callable[[Path], None], *, cache: Path | None = None) -> Path:
    """Return a folder of the cache, filled by `make` if it is not there.

    It appears under its name only when complete, so an interrupted run leaves nothing behind. Of
    two runs that make it at once, the first to finish wins. `name` holds all that its content
    depends on; the parent folder is the user's cache by default.

    Raises:
        UsageError: if the cache cannot be written.
    """
    parent = model_cache() if cache is None else cache
    folder = parent / name
    if folder.is_dir():
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    except OSError as error:
        raise UsageError(
            f"{parent}: cannot keep models there ({error.strerror}); set XDG_CACHE_HOME to a "
            "folder that can be written."
        ) from None
    try:
        make(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class FullSize:
    """Files of a full-size model."""

    checkpoint: Path
    models: tuple[Path, ...]  # fp32 ONNX, and INT8 where there is one; of ViTs also for OpenVINO
    note: str | None  # why there is no INT8


def full_size(name: str) -> FullSize:
    """Return one of SIZES from the cache, made and exported if it is not there.

    Raises:
        MissingDependencyError: if a package that makes it is not installed.
    """
    try:
        made_by = f"torch{version('torch')}-onnx{version('onnx')}"
    except PackageNotFoundError as error:
        raise _missing(str(error)) from None

    def make(folder: Path) -> None:
        try:
            call_apart(f"{__name__}:write_model", name=name, folder=str(folder))
        except MissingDependencyError as error:
            raise _missing(str(error)) from None

    folder = cached(f"{name}-numclip{__version__}-{made_by}-{_exporter()}", make)
    refused = folder / "int8-refused.txt"
    models = [folder / f"{name}{kind}" for kind in (".onnx", ".int8.onnx", FOR_BATCHES)]
    return FullSize(
        folder / f"{name}.pt",
        tuple(path for path in models if path.exists()),
        f"{name}: no INT8 file: {refused.read_text('utf-8')}" if refused.exists() else None,
    )


def _exporter() -> str:
    """Return a hash of the exporter's code: models of another version are not measured."""
    spec = find_spec("numclip_export")
    assert spec is not None
    assert spec.origin is not None
    digest = sha256()
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _missing(what: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"no model was given, and making one needs PyTorch and the exporter ({what}); give an "
        "exported model, or: pip install 'numclip[export,cpu]'"
    )


def write_model(name: str, folder: str) -> None:
    """Write the checkpoint, its float32 ONNX file and, where the export allows it, INT8.

    Not verified at export: the run itself measures how far each file is from the checkpoint.
    """
    import torch

    from benchmarks.bench.images import CALIBRATION_SEED, open_images
    from numclip.checkpoint import Checkpoint, save_checkpoint
    from numclip.model.backbone import clip_config
    from numclip.model.model_config import ModelConfig
    from numclip.model.numclip import NumClip
    from numclip.tasks import load_task
    from numclip_export import ExportOptions, run_export
    from numclip_export.options import FOR_CPU, FOR_OPENVINO
    from numclip_runtime import NumclipError, Preprocessing

    torch.manual_seed(0)
    if name in TIMM_TOWERS:
        config = clip_config(TIMM_TOWERS[name]) | {"text_cfg": clip_config("ViT-B-32")["text_cfg"]}
    else:
        config = clip_config(name.removesuffix(STRESSED))
        config["quick_gelu"] = True  # as OpenAI's weights, which most models start from
    model = NumClip(ModelConfig(config), load_task("age")).eval()
    if name.endswith(STRESSED):
        _stress(model.image_encoder)
    checkpoint, onnx = Path(folder) / f"{name}.pt", Path(folder) / f"{name}.onnx"
    fp32 = ExportOptions(checkpoint, onnx, target=FOR_CPU, verify=False)
    with open_images(None, seed=CALIBRATION_SEED) as images:
        if name.startswith("RN") or name in TIMM_TOWERS:
            _enliven(model.image_encoder, images.paths)
        save_checkpoint(checkpoint, Checkpoint(model, Preprocessing()))
        calibration = Path(images.paths[0]).parent
        int8 = replace(fp32, precision="int8", input="uint8", calib_data=calibration)
        try:
            run_export(int8)
        except NumclipError as error:
            run_export(fp32)
            (Path(folder) / "int8-refused.txt").write_text(str(error), "utf-8")
        else:
            if name.startswith("ViT") and find_spec("openvino") is not None:
                beside = onnx.with_suffix(".openvino.onnx")
                run_export(replace(int8, onnx_path=beside, target=FOR_OPENVINO))
                beside.unlink()  # the float32 file again


def _enliven(tower: Any, photos: list[str]) -> None:
    """Let a convolutional tower's residual branches count: their last norms may start at zero.

    All norms then get the statistics of photos, as training would give them.
    """
    import torch
    from torch.optim.swa_utils import update_bn

    from numclip_runtime import Preprocessing
    from numclip_runtime.preprocess import preprocess

    for name, norm in tower.named_modules():
        if name.endswith("bn3"):
            torch.nn.init.ones_(norm.weight)
    batch = torch.stack([torch.from_numpy(preprocess(path, Preprocessing())) for path in photos])
    update_bn([batch], tower)
    tower.eval()


def _stress(tower: Any) -> None:
    """Make some channels of each LayerNorm larger, and the weights that read them smaller."""
    import torch

    with torch.no_grad():
        for block in tower.transformer.resblocks:
            for norm, weight in (
                (block.ln_1, block.attn.in_proj_weight),
                (block.ln_2, block.mlp.c_fc.weight),
            ):
                chosen = torch.randperm(len(norm.weight))[:CHANNELS]
                norm.weight[chosen] *= OUTLIERS
                norm.bias[chosen] *= OUTLIERS
                weight[:, chosen] /= OUTLIERS
