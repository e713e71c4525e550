"""What worlds share that draw their own frames: where to, patches of many frames at once, and noise on top.

Axes: E episode, Y X image, P side of a patch.
"""

import numpy as np

from lewm.errors import EnvError


def checked_out(out: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """``out``, or a new array of this shape if there is none; ``EnvError`` for one that frames cannot be drawn into."""
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous or not out.flags.writeable:
        raise EnvError(
            f"out must be a writeable, C-contiguous uint8 array of shape {shape}, got {out.dtype} {out.shape}; leave it out to get a new one"
        )
    return out


def patches_of(frames: np.ndarray, side: int) -> np.ndarray:
    """A view [E, Y', X', P, 3P] of frames [E, Y, X, 3]: the patch whose corner is (y, x), for every y and x."""
    episodes, size_px = frames.shape[:2]
    per_frame, per_row, per_pixel, per_value = frames.strides
    shape = (episodes, size_px - side + 1, size_px - side + 1, side, 3 * side)
    return np.lib.stride_tricks.as_strided(frames, shape, (per_frame, per_row, per_pixel, per_row, per_value))


def add_noise(frame: np.ndarray, moment: np.void) -> None:
    """Gaussian noise of a counter-based generator: a function of the episode's seed and its env step only."""
    key = np.array([moment["seed"], moment["env_step"]], np.uint64)
    noise = np.random.Generator(np.random.Philox(key=key)).standard_normal(frame.shape, dtype=np.float32)
    noise *= np.float32(255 * moment["pixel_noise_std"])
    noise += frame
    frame[...] = np.clip(np.rint(noise), 0, 255)
