from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.bench.realsets.npm_tower import (
    BLOCKS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    KERAS_EPS,
    Arrays,
    block_names,
    read_weights,
    timm_state,
)
from numclip.torchvision_compat import import_torchvision
from numclip_runtime.errors import UsageError

# MobileNetV2 (arXiv 1801.04381, table 2): channels of each stage, stride of its first block
CHANNELS, STRIDES = (16, 24, 32, 64, 96, 160, 320), (1, 2, 2, 2, 1, 2, 1)


def keras_blocks() -> list[tuple[str, int, int, int]]:
    """Return (name, channels in, channels out, stride) of each block."""
    names, channels = [keras for keras, _ in block_names()], 32
    found: list[tuple[str, int, int, int]] = []
    for count, width, stride in zip(BLOCKS, CHANNELS, STRIDES, strict=True):
        for block in range(count):
            found.append((names[len(found)], channels, width, 1 if block else stride))
            channels = width
    return found


def random_weights() -> Arrays:
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {}

    def put(name: str, kind: str, *shape: int) -> None:
        fan = shape[0] * shape[1] * (1 if kind == "depthwise_kernel" else shape[2])
        weights[f"{name}/{kind}"] = rng.normal(0, fan**-0.5, shape).astype(np.float32)

    def norm(name: str, channels: int) -> None:
        for part, low in (("gamma", 0.5), ("beta", -0.3), ("moving_mean", -0.1)):
            values = rng.uniform(low, low + 0.8, channels).astype(np.float32)
            weights[f"{name}/{part}"] = values
        weights[f"{name}/moving_variance"] = rng.uniform(0.1, 0.5, channels).astype(np.float32)

    put("Conv1", "kernel", 3, 3, 3, 32)
    norm("bn_Conv1", 32)
    for name, channels, width, _ in keras_blocks():
        inner = channels
        if name != "expanded_conv":
            inner = 6 * channels
            put(f"{name}_expand", "kernel", 1, 1, channels, inner)
            norm(f"{name}_expand_BN", inner)
        put(f"{name}_depthwise", "depthwise_kernel", 3, 3, inner, 1)
        norm(f"{name}_depthwise_BN", inner)
        put(f"{name}_project", "kernel", 1, 1, inner, width)
        norm(f"{name}_project_BN", width)
    put("Conv_1", "kernel", 1, 1, 320, 1280)
    norm("Conv_1_bn", 1280)
    return weights


def keras_features(weights: Arrays, x: torch.Tensor) -> torch.Tensor:
    """Compute Keras's MobileNetV2 layer by layer from its own weights; (B, 3, H, W) in [0, 1]."""

    def conv(name: str, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
        kind = "depthwise_kernel" if groups > 1 else "kernel"
        kernel = torch.tensor(weights[f"{name}/{kind}"]).double()
        kernel = kernel.permute(2, 3, 0, 1) if groups > 1 else kernel.permute(3, 2, 0, 1)
        if kernel.shape[-1] == 3:  # even sides: TensorFlow pads a stride of 2 right and below only
            x = F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        return F.conv2d(x, kernel, stride=stride, groups=groups)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        mean, variance, gamma, beta = (
            torch.tensor(weights[f"{name}/{part}"])[:, None, None] for part in parts
        )
        return (x - mean) / (variance + KERAS_EPS).sqrt() * gamma + beta

    x = norm("bn_Conv1", conv("Conv1", x, 2)).clamp(0, 6)
    for name, channels, width, stride in keras_blocks():
        y = x
        if name != "expanded_conv":
            y = norm(f"{name}_expand_BN", conv(f"{name}_expand", y)).clamp(0, 6)
        y = conv(f"{name}_depthwise", y, stride, groups=y.shape[1])
        y = norm(f"{name}_depthwise_BN", y).clamp(0, 6)
        y = norm(f"{name}_project_BN", conv(f"{name}_project", y))
        x = x + y if stride == 1 and channels == width else y
    return norm("Conv_1_bn", conv("Conv_1", x)).clamp(0, 6).mean((2, 3))


def timm_model(state: dict[str, Any]) -> Any:
    import_torchvision()
    import timm

    model = timm.create_model("mobilenetv2_100", num_classes=0, pad_type="same").eval()
    model.load_state_dict(state)
    return model


def test_the_converted_tower_computes_what_keras_does() -> None:
    weights = random_weights()
    mean, std = (torch.tensor(c)[:, None, None] for c in (IMAGENET_MEAN, IMAGENET_STD))
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        expected = keras_features(weights, images)
        features = _with_black_border(
            timm_model(timm_state(weights)).double(), (images - mean) / std
        )
    assert expected.std() > 0.5
    assert torch.allclose(features, expected, atol=1e-3)


def _with_black_border(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Pad with black, as Keras does; zeros in place of normalised pixels would be grey."""
    black = (-torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD))[:, None, None]
    wide = F.pad(images, (0, 1, 0, 1))
    wide[:, :, -1] = black[:, :, 0]
    wide[:, :, :, -1] = black[:, :, 0]
    x = model.bn1(F.conv2d(wide, model.conv_stem.weight, stride=2))
    return model.global_pool(model.bn2(model.conv_head(model.blocks(x))))  # type: ignore[no-any-return]


def test_bytes_become_numbers_by_minimum_and_scale() -> None:
    model = (
        '...weightsManifest:[{paths:["a"],weights:[{name:"a/kernel",shape:[2,1],dtype:"float32",'
        'quantization:{min:-1.5,scale:.5,dtype:"uint8"}},{name:"b/beta",shape:[1],dtype:"float32",'
        'quantization:{min:0,scale:1e-3,dtype:"uint8"}}]}]'
    )
    weights = read_weights(model, bytes([0, 4, 255]))
    assert weights["a/kernel"].tolist() == [[-1.5], [0.5]]
    assert weights["b/beta"].tolist() == [pytest.approx(0.255)]
    for data in (bytes(2), bytes(4)):
        with pytest.raises(UsageError, match="bytes"):
            read_weights(model, data)
