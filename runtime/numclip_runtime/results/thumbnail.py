"""Small pictures inside HTML, for the gallery and for notebooks."""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path

from PIL import Image

from numclip_runtime.console import visible
from numclip_runtime.errors import ImageError
from numclip_runtime.images.decode import ImageLike, decode, load_rgb

SIDE = 144  # CSS pixels of a thumbnail's longest side; larger images are stored at twice that


def escape(value: object) -> str:
    """Escape for HTML text and attributes; control and bidi characters become visible escapes."""
    return html.escape(visible(str(value)), quote=True)


def thumbnail(path: str | os.PathLike[str], image: ImageLike | None = None) -> str:
    """Return an <img> that contains the upright image; a remark if it can no longer be read.

    Args:
        path: Names the image; read if `image` is None.
        image: Decoded image, such as a frame of a video; copied.
    """
    try:
        shown = _load_small(path) if image is None else load_rgb(image)
    except ImageError:
        return "no preview"
    buffer = io.BytesIO()
    longest = max(shown.size)
    if longest <= SIDE:  # every pixel of a small image counts: lossless, and a whole factor
        zoom: float = SIDE // longest
        width, height = shown.width, shown.height
        shown.save(buffer, "PNG")
        kind, style = "png", "small"
    else:
        zoom = SIDE / longest
        width, height = shown.width, shown.height
        shown.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
        shown.save(buffer, "JPEG", quality=82)
        kind, style = "jpeg", "large"
    data = base64.b64encode(buffer.getvalue()).decode()
    width, height = max(1, round(width * zoom)), max(1, round(height * zoom))
    return (
        f'<img class="{style}" width="{width}" height="{height}" '
        f'alt="{escape(Path(path).name)}" src="data:image/{kind};base64,{data}">'
    )


def _load_small(path: str | os.PathLike[str]) -> Image.Image:
    """Decode a file; a JPEG at down to an eighth of its size, which is several times faster.

    Raises:
        ImageError: if it cannot be read.
    """
    return decode(path, least=4 * SIDE).image  # twice the stored size: not less sharp
