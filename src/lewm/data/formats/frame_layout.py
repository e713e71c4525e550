"""How a file lays out its images, and how they become uint8 RGB.

Axes: n row, Y X image.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lewm.errors import DataError

CHANNELS = {1: "grey", 3: "rgb", 4: "rgba"}


@dataclass(frozen=True)
class FrameLayout:
    """What [n, ...] of a file's images is.

    uint8 only: floats may mean 0..1 or 0..255. Grey is repeated in three channels, an alpha channel is left out, channels may come first or last.
    """

    height_px: int
    width_px: int
    kind: Literal["rgb", "grey", "rgba", "plain"]
    """``plain``: grey without a channel axis."""
    is_channel_first: bool = False

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> "FrameLayout":
        """The layout of an array [n, ...]; ``DataError`` if it cannot be one of images. ``where`` names it."""
        if dtype != np.uint8:
            raise DataError(f"{where}: images must be uint8, 0 to 255, got {dtype}; convert them and write the file anew")
        if any(side < 1 for side in shape[1:]):
            raise DataError(f"{where}: images must have at least one pixel, got {list(shape)}")
        if len(shape) == 3:
            return cls(shape[1], shape[2], "plain")
        if len(shape) == 4 and shape[3] in CHANNELS:
            return cls(shape[1], shape[2], CHANNELS[shape[3]])  # type: ignore[arg-type]
        if len(shape) == 4 and shape[1] in CHANNELS:
            return cls(shape[2], shape[3], CHANNELS[shape[1]], is_channel_first=True)  # type: ignore[arg-type]
        raise DataError(f"{where}: images must be [rows, height, width, 3], or grey, RGBA or channel-first, got {list(shape)}")

    def as_rgb(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, Y, X, 3], contiguous, of rows in the file's layout."""
        if self.kind == "plain":
            frames = frames[..., None]
        if self.is_channel_first:
            frames = np.moveaxis(frames, 1, -1)
        if frames.shape[-1] == 1:
            frames = np.repeat(frames, 3, axis=-1)
        return np.ascontiguousarray(frames[..., :3])


def same_size(layouts: dict[str, FrameLayout], where: str) -> tuple[int, int]:
    """Height and width of the frames of all cameras; ``DataError`` if they differ."""
    sizes = {(layout.height_px, layout.width_px) for layout in layouts.values()}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {layout.height_px} x {layout.width_px}" for name, layout in layouts.items())
        raise DataError(f"{where}: all cameras must have frames of one size, got {listed}; choose some with --option frames=NAME,NAME")
    return sizes.pop()
