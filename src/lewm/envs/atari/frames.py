"""From the emulator's palette screens to RGB frames.

Axes: K emulator frame (one, or two to pool), H W the emulator's screen, Y X the drawn frame.

Resizing a 210 x 160 screen is a third of the cost of an env step, so ``area`` works on whole pixels: a palette entry is one 64-bit number with a
lane of 21 bits per colour channel, and the weighted sums of rows and columns are integers. The mean is therefore exact for every size.
"""

import functools
import importlib.resources
import json
import math

import numpy as np
from PIL import Image

LANE_BITS = 21
LANE_MASK = np.uint64((1 << LANE_BITS) - 1)
LUMINANCE = (0.299, 0.587, 0.114)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


class FrameMaker:
    """Draws frames of one size from palette screens of one size; ``resampler`` is ``area``, ``bilinear`` or ``nearest``."""

    def __init__(self, palette: np.ndarray, screen_size_px: tuple[int, int], size_px: int | None, resampler: str) -> None:
        self.height_px, self.width_px = screen_size_px if size_px is None else (size_px, size_px)
        self._palette = palette
        self._channels = palette.astype(np.int64)
        self._filter = None if size_px is None else FILTERS.get(resampler)
        self._is_area = size_px is not None and resampler == "area"
        self._indices = np.empty(screen_size_px, np.intp)
        if self._is_area:
            self._rows, self._row_weights, row_total = area_taps(screen_size_px[0], size_px or 0)
            self._columns, self._column_weights, column_total = area_taps(screen_size_px[1], size_px or 0)
            self._total = row_total * column_total
            self._is_exact = 255 * self._total + self._total // 2 <= int(LANE_MASK)
        self._packed = pack_lanes(palette)
        self._pixels = np.empty(screen_size_px, np.uint64)

    def draw(self, screens: np.ndarray, out: np.ndarray) -> None:
        """Write the frame [Y, X, 3] of palette screens uint8 [K, H, W], pooled pixel by pixel and channel by channel, into ``out``."""
        if self._is_area and self._is_exact:
            self._draw_area(screens, out)
            return
        rgb = self.pooled_rgb(screens)
        if self._is_area:
            out[:] = area_mean(rgb, self.height_px, self.width_px)
        elif self._filter is None:
            out[:] = rgb
        else:
            out[:] = np.asarray(Image.fromarray(rgb).resize((self.width_px, self.height_px), self._filter))

    def pooled_rgb(self, screens: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3]: the screens in colour, the brighter one of each pixel and channel."""
        rgb: np.ndarray = self._palette[screens[-1]]
        return rgb if len(screens) == 1 else np.maximum(rgb, self._palette[screens[0]])

    def _draw_area(self, screens: np.ndarray, out: np.ndarray) -> None:
        np.copyto(self._indices, screens[-1])
        # Unlike "raise", "clip" writes into ``out`` without a buffer; an index of uint8 is never out of range.
        pixels = np.take(self._packed, self._indices, out=self._pixels, mode="clip")
        if len(screens) == 2:
            self._pool(screens, pixels)
        lines = _weighted(pixels, self._rows, self._row_weights, axis=0)
        sums = _weighted(lines, self._columns, self._column_weights, axis=1)
        for channel in range(3):
            lane = (sums >> np.uint64(channel * LANE_BITS)) & LANE_MASK
            lane += np.uint64(self._total // 2)
            out[..., channel] = lane // np.uint64(self._total)

    def _pool(self, screens: np.ndarray, pixels: np.ndarray) -> None:
        """Two frames in a row differ in few pixels: only those need a maximum."""
        changed = np.flatnonzero(screens[0] != screens[1])
        if len(changed):
            brighter = np.maximum(self._channels[screens[0].ravel()[changed]], self._channels[screens[1].ravel()[changed]])
            pixels.reshape(-1)[changed] = pack_lanes(brighter)


@functools.cache
def palette(name: str) -> np.ndarray:
    """uint8 [256, 3]: the colours of ale-py's ``ntsc`` or ``pal`` palette. Odd entries are the greys that a PAL console shows on colour loss."""
    text = importlib.resources.files("lewm.envs").joinpath("atari_palettes.json").read_text(encoding="utf-8")
    colors = np.array(json.loads(text)["palettes"][name], np.uint8)
    greys = np.rint(colors @ np.array(LUMINANCE)).astype(np.uint8)
    table = np.stack([colors, np.repeat(greys[:, None], 3, 1)], 1).reshape(256, 3)
    table.setflags(write=False)
    return table


def pack_lanes(colors: np.ndarray) -> np.ndarray:
    """uint64 [n] of whole numbers [n, 3]: one lane per channel."""
    lanes = colors.astype(np.uint64)
    packed: np.ndarray = lanes[:, 0] | (lanes[:, 1] << np.uint64(LANE_BITS)) | (lanes[:, 2] << np.uint64(2 * LANE_BITS))
    return packed


def area_taps(size_in: int, size_out: int) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Which inputs an output covers, and how much of each, as whole numbers: per tap k the inputs [size_out] and weights [size_out].

    Third: what the weights of an output add up to. Inputs of weight 0 are in range, too.
    """
    divisor = math.gcd(size_in, size_out)
    # On a grid of size_in * size_out / divisor cells an input has width_in of them and an output width_out.
    width_in, width_out = size_out // divisor, size_in // divisor
    starts = np.arange(size_out) * width_out
    first = starts // width_in
    inputs, weights = [], []
    for tap in range(-(-width_out // width_in) + 1):
        low, high = (first + tap) * width_in, (first + tap + 1) * width_in
        covered = np.clip(np.minimum(high, starts + width_out) - np.maximum(low, starts), 0, None)
        if covered.any():
            inputs.append(np.minimum(first + tap, size_in - 1))
            weights.append(covered.astype(np.uint64))
    return inputs, weights, width_out


def area_mean(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """uint8 [Y, X, 3]: the mean of ``image`` [H, W, 3] over the area of each pixel, for sizes whose sums do not fit the lanes."""
    mean = image.astype(np.float64)
    for axis, size_px in enumerate((height_px, width_px)):
        taps, weights, total = area_taps(image.shape[axis], size_px)
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        mean = sum(mean.take(tap, axis=axis) * weight.reshape(shape) for tap, weight in zip(taps, weights, strict=True)) / total
    return np.floor(mean + 0.5).astype(np.uint8)


def _weighted(values: np.ndarray, taps: list[np.ndarray], weights: list[np.ndarray], *, axis: int) -> np.ndarray:
    """The weighted sum over the taps of each output along ``axis``, uint64 [Y, X]."""
    total: np.ndarray | None = None
    for tap, weight in zip(taps, weights, strict=True):
        part = values.take(tap, axis=axis)
        part *= weight[:, None] if axis == 0 else weight
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total
