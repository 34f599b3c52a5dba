"""How a backbone's images are prepared: its image size and pixel statistics; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from numclip.model.model_config import ClipConfig
from numclip_runtime import Preprocessing, UsageError
from numclip_runtime.metadata import Interpolation, ResizeMode

Statistics = Literal["clip", "imagenet", "half"]
_Rgb = tuple[float, float, float]
STATISTICS: dict[Statistics, tuple[_Rgb, _Rgb]] = {  # mean and standard deviation of pixels
    "imagenet": (Preprocessing.mean, Preprocessing.std),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # SigLIP and many towers of timm
}


@dataclass(frozen=True)
class PreprocessingConfig:
    """Choices that a backbone leaves open. The defaults are the paper's."""

    resize: int | None = None  # pixels before the crop; None: 8/7 of it, 256 for 224
    resize_mode: ResizeMode = Preprocessing.resize_mode
    interpolation: Interpolation = Preprocessing.interpolation
    fragments: int = Preprocessing.fragments  # along a side, of resize_mode "fragments"
    normalize: Statistics = "imagenet"  # pixel statistics: those the tower was trained with

    def of(self, clip: ClipConfig) -> Preprocessing:
        """Return the preprocessing for a backbone.

        Raises:
            UsageError: if its image size is rectangular, or the crop exceeds `resize`.
        """
        crop = image_size(clip)
        fitting = crop if self.resize_mode == "fragments" else round(crop * 8 / 7)
        resize = fitting if self.resize is None else self.resize
        statistics = STATISTICS[self.normalize]
        return Preprocessing(
            crop, resize, self.resize_mode, self.interpolation, *statistics, self.fragments
        )


PAPER_PREPROCESSING = PreprocessingConfig()


def image_size(clip: ClipConfig) -> int:
    """Return the side of a backbone's square input images, pixels.

    Raises:
        UsageError: if they are rectangular.
    """
    size = clip["vision_cfg"].get("image_size", 224)
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise UsageError(f"backbones with a rectangular image size {size} are not supported.")
    return int(size[0])
