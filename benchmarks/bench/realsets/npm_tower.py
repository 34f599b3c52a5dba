"""A really pretrained image tower that a package registry carries, as weights of timm.

`nsfwjs` (MIT) on npm contains Keras's MobileNetV2 of width 1.0, trained on ImageNet and then, in
its upper half, on photos and drawings; its weights have 8 bits (2.6 MB). It is timm's
`mobilenetv2_100` but for three things:

- Keras's batch norm has eps 1e-3, timm's 1e-5: the difference is added to the variances. Exact.
- Its inputs are RGB in [0, 1]; ImageNet's statistics are taken into the first convolution and its
  batch norm, so that the file is used like timm's own. Exact where no padding is met.
- TensorFlow pads strided convolutions on the right and below, `mobilenetv2_100` on all sides. With
  timm's `pad_type="same"` the class probabilities are nsfwjs's own (`EXPECTED`); without it the
  features are about those of a picture shifted by a pixel.

Nothing of the package is kept in the repository: it is fetched when a benchmark runs.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from numclip_runtime import Preprocessing
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_path
from numclip_runtime.preprocess import load_rgb

PACKAGE, VERSION = "nsfwjs", "4.3.0"
SHA512 = (
    "593283b5ed2fa755fdecdd61df83fbf46fe11beb154f7f939c3cfd762d56b1e2"
    "0947ddefd75138be2357ed583d5ac3ba1d8a11efbd8dceada233c8e8dd7059fa"
)  # of the package's archive
FOLDER = "package/dist/models/mobilenet_v2/"  # in the archive
TIMM_NAME = "mobilenetv2_100"
IMAGENET_MEAN, IMAGENET_STD = Preprocessing.mean, Preprocessing.std
KERAS_EPS, TIMM_EPS = 1e-3, 1e-5
BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # in each stage of MobileNetV2
# Probabilities of drawing, hentai, neutral, porn, sexy from nsfwjs's own file in TensorFlow.js 4.22
# (backend cpu); photos of scikit-image, squashed to 224 x 224 by Pillow's bilinear filter
EXPECTED = {
    "chelsea.png": (0.000933, 0.000472, 0.960501, 0.036140, 0.001954),
    "astronaut.png": (0.004327, 0.000144, 0.995381, 0.000127, 0.000021),
    "coffee.png": (0.001588, 0.000591, 0.995382, 0.002295, 0.000143),
}
CHECK_SIDE = 224

Arrays: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
_WEIGHT = re.compile(
    r'\{name:"([^"]+)",shape:\[([\d,]*)\],dtype:"float32",'
    r'quantization:\{min:(-?[\d.e-]+),scale:(-?[\d.e-]+),dtype:"uint8"\}\}'
)
_BASE64 = re.compile(rb'"([A-Za-z0-9+/=]{1000,})"')


def fetch_archive(folder: Path) -> Path:
    """Return the package's archive in `folder`; npm fetches it where it is missing.

    Raises:
        UsageError: if npm is missing or fails, or the archive is another one.
    """
    archive = folder / f"{PACKAGE}-{VERSION}.tgz"
    if not archive.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise UsageError(f"{archive}: npm, which would fetch it, is not installed.")
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not archive.is_file():
            raise UsageError(f"{archive}: npm could not fetch it ({done.stderr.strip()[-200:]}).")
    if hashlib.sha512(archive.read_bytes()).hexdigest() != SHA512:
        raise UsageError(f"{archive}: is not the file that the checksum is of; delete it.")
    return archive


def read_archive(archive: Path) -> Arrays:
    """Return the weights by Keras's names, float32, from the package's minified scripts."""
    with tarfile.open(archive) as files:
        model, shard = (
            _member(files, FOLDER + name) for name in ("model.min.js", "group1-shard1of1.min.js")
        )
    found = _BASE64.search(shard)
    assert found is not None  # the checksum has vouched for the content
    return read_weights(model.decode(), base64.b64decode(found[1]))


def _member(files: tarfile.TarFile, name: str) -> bytes:
    member = files.extractfile(name)
    assert member is not None
    return member.read()


def read_weights(model: str, data: bytes) -> Arrays:
    """Undo the quantisation: value = min + scale * byte.

    Args:
        model: TensorFlow.js's description of the model, as a minified script.
        data: The weights' bytes, one after another in the order of the description.

    Raises:
        UsageError: if bytes are left over or missing.
    """
    described = [
        (name, tuple(int(size) for size in sizes.split(",") if size), float(low), float(scale))
        for name, sizes, low, scale in _WEIGHT.findall(model)
    ]
    covered = sum(math.prod(shape) for _, shape, _, _ in described)
    if covered != len(data):
        raise UsageError(f"the weights' description covers {covered} of {len(data)} bytes.")
    weights, start = {}, 0
    for name, shape, low, scale in described:
        raw = np.frombuffer(data, np.uint8, math.prod(shape), start)
        value = raw.astype(np.float32) * np.float32(scale) + np.float32(low)
        weights[name], start = value.reshape(shape), start + raw.size
    return weights


def block_names() -> Iterator[tuple[str, str]]:
    """Yield the names of each inverted residual block, Keras's and timm's."""
    places = [(stage, block) for stage, count in enumerate(BLOCKS) for block in range(count)]
    for number, (stage, block) in enumerate(places):
        yield f"block_{number}" if number else "expanded_conv", f"blocks.{stage}.{block}"


def timm_state(weights: Arrays) -> dict[str, Any]:
    """Return timm's `mobilenetv2_100` without its classifier, for ImageNet's pixel statistics."""
    state: dict[str, npt.NDArray[np.float32]] = {}

    def norm(keras: str, timm: str) -> None:
        state[f"{timm}.weight"] = weights[f"{keras}/gamma"]
        state[f"{timm}.bias"] = weights[f"{keras}/beta"]
        state[f"{timm}.running_mean"] = weights[f"{keras}/moving_mean"]
        variance = weights[f"{keras}/moving_variance"] + np.float32(KERAS_EPS - TIMM_EPS)
        state[f"{timm}.running_var"] = variance

    def convolution(keras: str, timm: str, kind: str = "kernel") -> None:
        # Keras: (h, w, in, out), of a depthwise one (h, w, channels, 1); torch: (out, in, h, w)
        axes = (2, 3, 0, 1) if kind == "depthwise_kernel" else (3, 2, 0, 1)
        state[f"{timm}.weight"] = weights[f"{keras}/{kind}"].transpose(axes)

    convolution("Conv1", "conv_stem")
    norm("bn_Conv1", "bn1")
    for keras, timm in block_names():
        first = keras == "expanded_conv"  # the only block that does not expand
        names = ("conv_dw", "conv_pw") if first else ("conv_pw", "conv_dw", "conv_pwl")
        if not first:
            convolution(f"{keras}_expand", f"{timm}.{names[0]}")
        convolution(f"{keras}_depthwise", f"{timm}.conv_dw", "depthwise_kernel")
        convolution(f"{keras}_project", f"{timm}.{names[-1]}")
        parts = ("expand_BN", "depthwise_BN", "project_BN")[first:]
        for number, part in enumerate(parts, start=1):
            norm(f"{keras}_{part}", f"{timm}.bn{number}")
    convolution("Conv_1", "conv_head")
    norm("Conv_1_bn", "bn2")
    _take_in_statistics(state)
    return _tensors(state)


def _take_in_statistics(state: dict[str, npt.NDArray[np.float32]]) -> None:
    """Let the first convolution see (x - mean) / std where it saw x: x = std * input + mean."""
    kernel = state["conv_stem.weight"]  # (out, 3, h, w)
    mean, std = (np.array(c, np.float32)[:, None, None] for c in (IMAGENET_MEAN, IMAGENET_STD))
    constant = (kernel * mean).sum((1, 2, 3))
    state["conv_stem.weight"] = kernel * std
    state["bn1.running_mean"] = state["bn1.running_mean"] - constant


def _tensors(arrays: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, Any]:
    import torch

    counts = [name for name in arrays if name.endswith(".running_mean")]
    return {
        name: torch.from_numpy(np.ascontiguousarray(array, np.float32))
        for name, array in arrays.items()
    } | {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in counts}


def classify(features: npt.NDArray[np.float32], weights: Arrays) -> npt.NDArray[np.float32]:
    """Return nsfwjs's class probabilities, (B, 5), of pooled features (B, 1280)."""
    out = features
    for layer in (1, 2, 3):
        out = out @ weights[f"dense_{layer}/kernel"]
        out = out + weights.get(f"dense_{layer}/bias", np.float32(0))
        out = np.maximum(out, 0) if layer < 3 else out
    exponentials = np.exp(out - out.max(1, keepdims=True))
    result: npt.NDArray[np.float32] = exponentials / exponentials.sum(1, keepdims=True)
    return result


def largest_deviation(weights: Arrays) -> float:
    """Return the largest difference of class probabilities from `EXPECTED`.

    The padding is TensorFlow's, and the inputs are in [0, 1] as there (see the module).
    """
    import skimage
    import torch
    from PIL import Image

    from numclip.torchvision_compat import import_torchvision

    import_torchvision()
    import timm

    model: Any = timm.create_model(TIMM_NAME, num_classes=0, pad_type="same").eval()
    model.load_state_dict(timm_state(weights), strict=False)
    std, mean = (torch.tensor(numbers) for numbers in (IMAGENET_STD, IMAGENET_MEAN))
    stem = model.conv_stem.weight.data
    model.bn1.running_mean += torch.einsum("oihw,i->o", stem, mean / std)
    stem /= std[:, None, None]
    folder = Path(skimage.__file__).parent / "data"
    pictures = []
    for name in EXPECTED:
        small = load_rgb(folder / name).resize((CHECK_SIDE,) * 2, Image.Resampling.BILINEAR)
        pictures.append(np.asarray(small, np.float32).transpose(2, 0, 1) / 255)
    with torch.inference_mode():
        features = model(torch.from_numpy(np.stack(pictures))).numpy()
    found = classify(features, weights)
    return float(np.abs(found - np.array(list(EXPECTED.values()))).max())


def tower_file(folder: Path) -> Path:
    """Return the tower's weights for timm, made in `folder` where they are missing.

    Raises:
        UsageError: if the package cannot be had, or its weights do not act as in nsfwjs.
    """
    path = folder / f"{TIMM_NAME}-{PACKAGE}-{VERSION}.safetensors"
    if not path.is_file():
        from safetensors.torch import save_file

        weights = read_archive(fetch_archive(folder))
        if (deviation := largest_deviation(weights)) > 1e-4:
            raise UsageError(f"{path}: its class probabilities deviate by {deviation:.2g}.")
        with atomic_path(path) as temporary:
            save_file(timm_state(weights), temporary)
    return path
