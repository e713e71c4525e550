"""Frames of another size, by a named resampler.

Axes: n frame, V view, Y X image.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lewm.errors import ConfigError
from lewm.registry import did_you_mean

RESAMPLERS = {
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters, which look at all pixels that a smaller one covers (but for ``nearest``); ``area`` averages them."""


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """How frames become smaller or larger; ``ConfigError`` for sizes below 1 and resamplers that do not exist."""

    height_px: int
    width_px: int
    resampler: str = "area"
    is_cropped: bool = False
    """Cut the largest part with the new proportions out of the middle first; otherwise other proportions are refused."""

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px) < 1:
            raise ConfigError(f"frames must be at least 1 x 1 px, got {self.height_px} x {self.width_px}")
        if self.resampler not in RESAMPLERS:
            raise ConfigError(f"unknown resampler {self.resampler!r}.{did_you_mean(self.resampler, RESAMPLERS)}")

    def box(self, height_px: int, width_px: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of what is kept of frames of this size; ``ConfigError`` if they would be distorted."""
        if height_px * self.width_px == width_px * self.height_px:
            return (0, 0, width_px, height_px)
        if not self.is_cropped:
            raise ConfigError(
                f"frames of {height_px} x {width_px} px would be distorted at {self.height_px} x {self.width_px}: "
                "choose a size of the same proportions, or cut out the middle with --crop"
            )
        scale = min(height_px / self.height_px, width_px / self.width_px)
        height, width = round(scale * self.height_px), round(scale * self.width_px)
        left, top = (width_px - width) // 2, (height_px - height) // 2
        return (left, top, left + width, top + height)

    def apply(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, V, Y, X, 3] -> [n, V, height, width, 3]."""
        left, top, right, bottom = self.box(*frames.shape[2:4])
        frames = frames[:, :, top:bottom, left:right]
        resized = np.empty((*frames.shape[:2], self.height_px, self.width_px, 3), np.uint8)
        for place in np.ndindex(frames.shape[:2]):
            image = Image.fromarray(frames[place])
            resized[place] = np.asarray(image.resize((self.width_px, self.height_px), RESAMPLERS[self.resampler]))
        return resized


def parse_size(text: str) -> tuple[int, int]:
    """``64`` or ``48x64`` (height x width) in px."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"a size is a number of px, or height x width such as 48x64; got {text!r}")
    return int(parts[0]), int(parts[-1])
