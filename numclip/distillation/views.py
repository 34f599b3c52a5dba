"""Views of a training image for two networks: the same part of it, each at its own resolution.

Why the teacher sees the view that the student sees: Beyer et al., "Knowledge distillation: A good
teacher is patient and consistent" (arXiv 2106.05237), section 3.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from numclip.data.dataset import Step, resizing, to_tensor_after
from numclip_runtime import Preprocessing
from numclip_runtime.preprocess import mosaic


class PairedView:
    """RGB image -> the student's view (3, h, w), and the teacher's (3, H, W), float32.

    Both show the same part, mirrored or not; fragments come from the same places of their cells.
    Where both networks are prepared for alike, there is one tensor for both.

    Args:
        student: Its preprocessing.
        teacher: Its preprocessing.
        flip: Mirror half of the images.
    """

    def __init__(self, student: Preprocessing, teacher: Preprocessing, *, flip: bool) -> None:
        self.student, self.teacher, self.flip = student, teacher, flip

    def __call__(self, image: Image.Image) -> Tensor | tuple[Tensor, Tensor]:
        """Draw a view (torch's global generator)."""
        most = max(self.student.fragments, self.teacher.fragments)
        places = torch.rand(most, most, 2, dtype=torch.float64)
        mirrored = self.flip and bool(torch.rand(()) < 0.5)
        seen = view_of(image, self.student, places, mirrored=mirrored)
        if self.student == self.teacher:
            return seen
        return seen, view_of(image, self.teacher, places, mirrored=mirrored)


def view_of(image: Image.Image, spec: Preprocessing, places: Tensor, *, mirrored: bool) -> Tensor:
    """Return one network's view, (3, H, W) float32.

    Args:
        image: RGB.
        spec: The network's.
        places: (n, n, 2) from 0 to 1, down and across; the first is the place of a crop, and the
            first `spec.fragments` rows and columns are those of fragments in their cells.
        mirrored: Left and right are exchanged.
    """

    def part(image: Image.Image) -> Image.Image:
        if spec.resize_mode == "fragments":
            count = spec.fragments
            return mosaic(image, spec, places[:count, :count].numpy())
        down, across = places[0, 0].tolist()
        left = round(across * (image.width - spec.crop))
        top = round(down * (image.height - spec.crop))
        return image.crop((left, top, left + spec.crop, top + spec.crop))

    def mirror(image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image

    before: list[Step] = [] if spec.resize_mode == "fragments" else resizing(spec)
    return to_tensor_after(spec, *before, part, mirror)(image)
