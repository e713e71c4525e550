"""An image file as a frame: whatever is plainly a picture in 8 bits becomes RGB, everything else is refused.

Axes: Y X image.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lewm.errors import DataError

PLAIN_MODES = ("RGB", "L", "1", "P")
MODES_WITH_ALPHA = ("RGBA", "LA", "PA")
STARTS_AND_ENDS = ((b"\x89PNG", b"IEND"), (b"\xff\xd8", b"\xff\xd9"))
"""Pillow decodes a file that breaks off right behind the pixels; another copy of it may break off earlier."""
ORIENTATION_TAG, UPRIGHT = 0x0112, 1


def decode_image(source: Path | bytes, where: str) -> np.ndarray:
    """An image as uint8 RGB [Y, X, 3]: grey and palette images are converted, opaque alpha is dropped.

    ``DataError`` for damaged files, transparency, 16 bits, CMYK and images that are to be shown rotated; ``where`` names the image in it.
    """
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        if any(content.startswith(start) and end not in content for start, end in STARTS_AND_ENDS):
            raise ValueError("it is cut off")
        with Image.open(io.BytesIO(content)) as image:
            _check_upright(image, where)
            image.load()
            return _as_rgb(image, where)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} cannot be read as an image ({error}); restore it") from None


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, from its head."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{str(path)!r} cannot be read as an image ({error}); restore it") from None


def _check_upright(image: Image.Image, where: str) -> None:
    if image.getexif().get(ORIENTATION_TAG, UPRIGHT) != UPRIGHT:
        raise DataError(f"{where} is to be shown rotated, as its EXIF orientation says; store it upright")


def _as_rgb(image: Image.Image, where: str) -> np.ndarray:
    has_alpha = image.mode in MODES_WITH_ALPHA or "transparency" in image.info
    if has_alpha:
        opaque = image.convert("RGBA")
        if np.array(opaque.getchannel("A")).min() < 255:
            raise DataError(f"{where} is partly transparent, and what lies behind is unknown; store it without an alpha channel")
        image = opaque
    elif image.mode not in PLAIN_MODES:
        raise DataError(f"{where} has pixels of kind {image.mode!r}; store it as 8-bit grey or RGB")
    return np.array(image.convert("RGB"))
