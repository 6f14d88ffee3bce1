"""Small pictures of image files, or the reason why there is none."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from .. import photos
from ..errors import ImageError

# Up to this width and height a PNG is smaller than a JPEG, or about as small.
PIXELS = 32


def thumbnail(path: Path, size: int) -> Image.Image | str:
    """The image of a file, RGB, within size × size pixels; or why it cannot be shown."""
    if not photos.exists(path):
        return "file not found"
    try:
        image = photos.decode(photos.content(path), path)
    except ImageError:
        return "not readable"
    image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3)
    return image


def enlarged(image: Image.Image, size: int) -> Image.Image:
    """The image as large as size × size pixels allow."""
    scale = size / max(image.size)
    fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(fitted, Image.Resampling.LANCZOS)


def data_uri(image: Image.Image) -> str:
    """The image within a URI: PNG if it is tiny, else JPEG."""
    buffer = io.BytesIO()
    tiny = image.width <= PIXELS and image.height <= PIXELS
    kind = "png" if tiny else "jpeg"
    image.save(buffer, kind, **({} if tiny else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
