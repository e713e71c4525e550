"""Encoded and raw pictures as the frames of the store.

Axes: n row, Y X image. Frames are uint8 RGB [n, Y, X, 3].
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from lewm.errors import DataError

CODECS = ("JPEG", "PNG")
"""What world models' datasets hold; decoders of rarer formats stay away from other people's bytes."""
MODES = ("RGB", "L", "1", "P", "LA", "RGBA", "YCbCr", "CMYK")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC, JPEG_END = b"\xff\xd8", b"\xff\xd9"
ORIENTATION_TAG, UPRIGHT = 0x0112, 1
REFUSALS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    AttributeError,
    struct.error,
    zlib.error,
)
"""All that Pillow has been seen to raise over bytes that are no picture."""


def encoded(frame: np.ndarray) -> bytes:
    """A frame, uint8 [Y, X, 3], as PNG: lossless."""
    content = io.BytesIO()
    Image.fromarray(frame).save(content, format="PNG")
    return content.getvalue()


def decoded(content: bytes, where: str, *, size_px: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [Y, X, 3] of a JPEG or PNG; grey is repeated, transparency dropped. ``size_px``, (Y, X), is what it must be if it is given.

    ``DataError`` if it is damaged (a PNG's checksums are compared, a JPEG has none), or to be shown rotated.
    """
    try:
        if content.startswith(PNG_MAGIC):
            _check_png(content)
        if content.startswith(JPEG_MAGIC) and JPEG_END not in content:
            raise ValueError("it is cut off")
        with Image.open(io.BytesIO(content), formats=CODECS) as picture:
            if picture.getexif().get(ORIENTATION_TAG, UPRIGHT) != UPRIGHT:
                raise DataError(f"{where}: the frame is to be shown rotated, as its EXIF orientation says; store it upright")
            found_px = (picture.height, picture.width)
            if size_px is not None and found_px != size_px:
                raise DataError(f"{where}: the frame has {found_px[0]} x {found_px[1]} px, others {size_px[0]} x {size_px[1]}; make them one size")
            if picture.mode not in MODES:
                raise DataError(f"{where}: the frame has Pillow's mode {picture.mode!r}, not 8 bits per colour; convert it to RGB")
            return np.asarray(picture.convert("RGB"))
    except (*REFUSALS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{where}: the frame cannot be decoded ({error or type(error).__name__}); the file is damaged, restore it") from None


def size_of(path: Path) -> tuple[int, int]:
    """(Y, X) of a JPEG or PNG file, from its head."""
    try:
        with Image.open(path, formats=CODECS) as picture:
            return picture.height, picture.width
    except (*REFUSALS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{str(path)!r} cannot be decoded ({error or type(error).__name__}); the file is damaged, restore it") from None


def _check_png(content: bytes) -> None:
    """``ValueError`` unless every chunk has its checksum; Pillow looks at some of them only."""
    start = len(PNG_MAGIC)
    name = b""
    while name != b"IEND":
        (length,), name = struct.unpack(">I", content[start : start + 4]), content[start + 4 : start + 8]
        end = start + 8 + length
        (checksum,) = struct.unpack(">I", content[end : end + 4])
        if zlib.crc32(content[start + 4 : end]) != checksum:
            raise ValueError("a checksum does not match")
        start = end + 4


def rgb_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(Y, X) of raw pictures of a shape that says where its colours are: [Y, X], [Y, X, 1 or 3] or [1 or 3, Y, X]; else None."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) != 3:
        return None
    if shape[2] in (1, 3):
        return shape[0], shape[1]
    return (shape[1], shape[2]) if shape[0] in (1, 3) else None


def as_rgb(pictures: np.ndarray) -> np.ndarray:
    """uint8 [n, Y, X, 3] of raw uint8 pictures [n, *shape] for which ``rgb_shape`` has an answer."""
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    elif pictures.shape[3] not in (1, 3):
        pictures = np.moveaxis(pictures, 1, -1)
    return np.ascontiguousarray(np.repeat(pictures, 3, -1) if pictures.shape[3] == 1 else pictures)
