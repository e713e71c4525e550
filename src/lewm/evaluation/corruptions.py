"""Damage to frames that no world made: noise, blur, brightness, occlusion, JPEG and crop, each at a severity from 0 to 1.

Severity 0 leaves every frame as it is, and damage grows with severity. A corrupted frame is a function of (frame, severity, seed, frame index); what
a camera keeps for a while (where the occlusion is, whether it is too bright or too dark, what was cropped) follows from the seed alone.

Axes: V view, Y X image.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from lewm.errors import ConfigError
from lewm.registry import did_you_mean

STREAM = 13
"""Keeps these numbers apart from those that a world or a nuisance draws from the same seed."""
GOAL_FRAME = 2**32 - 1
"""The frame index of a goal, which belongs to no env step."""
NOISE_STD, BRIGHTNESS_SHIFT = 51.0, 128.0
"""At severity 1, in grey levels."""
BLUR_SHARE, OCCLUSION_SHARE, CROP_SHARE = 1 / 16, 1 / 2, 1 / 2
"""At severity 1, of the frame's side: std of the blur, side of the occlusion, what a crop takes away."""
OCCLUSION_GREY = 127
BEST_QUALITY, WORST_QUALITY = 90, 2


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One kind of damage."""

    change: Callable[[np.ndarray, float, int, int], np.ndarray]
    """(one view uint8 [Y, X, 3], severity, seed, frame index) -> uint8 [Y, X, 3]."""
    summary: str


def corrupt(name: str, frames: np.ndarray, severity: float, *, seed: int, frame_index: int) -> np.ndarray:
    """Frames uint8 [V, Y, X, 3] with the damage ``name``, as a copy; all views of one camera system share what follows from the seed.

    ``ConfigError`` for an unknown name or a severity outside [0, 1].
    """
    corruption = CORRUPTIONS[check_corruption(name)]
    if not (math.isfinite(severity) and 0 <= severity <= 1):
        raise ConfigError(f"the severity of a corruption must be in [0, 1], got {severity!r}")
    if severity == 0:
        return frames.copy()
    # A view's noise is its own: two cameras do not share a sensor.
    return np.stack([corruption.change(view, severity, seed, frame_index * len(frames) + number) for number, view in enumerate(frames)])


def check_corruption(name: str) -> str:
    """The name itself; ``ConfigError`` with a suggestion if there is no such corruption."""
    if name not in CORRUPTIONS:
        raise ConfigError(f"unknown corruption {name!r}.{did_you_mean(name, CORRUPTIONS)}")
    return name


def add_noise(frame: np.ndarray, severity: float, seed: int, frame_index: int) -> np.ndarray:
    """Gaussian noise on every value, anew in every frame; the same field at every severity."""
    field = np.random.default_rng([seed, STREAM, frame_index]).standard_normal(frame.shape, np.float32)
    return _as_bytes(frame + severity * NOISE_STD * field)


def blur(frame: np.ndarray, severity: float, seed: int, frame_index: int) -> np.ndarray:
    """Out of focus: a Gaussian blur."""
    radius = severity * BLUR_SHARE * max(frame.shape[:2])
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)))


def shift_brightness(frame: np.ndarray, severity: float, seed: int, frame_index: int) -> np.ndarray:
    """Too bright for one half of the seeds, too dark for the other."""
    sign = 1 if _kept(seed, 3)[2] < 0.5 else -1
    return _as_bytes(frame + np.float32(sign * severity * BRIGHTNESS_SHIFT))


def occlude(frame: np.ndarray, severity: float, seed: int, frame_index: int) -> np.ndarray:
    """A grey square that stays where it is; it grows around its centre."""
    sides, places = np.array(frame.shape[:2]), _kept(seed, 2)
    half = severity * OCCLUSION_SHARE * sides / 2
    centre = OCCLUSION_SHARE * sides / 2 + places * (1 - OCCLUSION_SHARE) * sides
    (top, left), (bottom, right) = np.rint(centre - half).astype(int), np.rint(centre + half).astype(int)
    occluded = frame.copy()
    occluded[top:bottom, left:right] = OCCLUSION_GREY
    return occluded


def compress(frame: np.ndarray, severity: float, seed: int, frame_index: int) -> np.ndarray:
    """What JPEG leaves, from quality 90 down to 2."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=round(BEST_QUALITY + severity * (WORST_QUALITY - BEST_QUALITY)))
    return np.asarray(Image.open(buffer).convert("RGB"))


def crop(frame: np.ndarray, severity: float, seed: int, frame_index: int) -> np.ndarray:
    """A part of the frame, scaled up to the frame's size; the parts of lower severities hold those of higher ones."""
    height, width = frame.shape[:2]
    kept = 1 - severity * CROP_SHARE
    (top, left) = _kept(seed, 2) * (1 - kept) * (height, width)
    box = (float(left), float(top), float(left + kept * width), float(top + kept * height))
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR, box=box))


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(change=add_noise, summary="Gaussian noise of std 0.2, new in every frame"),
    "blur": Corruption(change=blur, summary="Gaussian blur, std 1/16 of the side"),
    "brightness": Corruption(change=shift_brightness, summary="half of the range brighter, or darker, as the episode's seed says"),
    "occlusion": Corruption(change=occlude, summary="a grey square of half the side, in one place throughout an episode"),
    "jpeg": Corruption(change=compress, summary="JPEG of quality 2"),
    "crop": Corruption(change=crop, summary="half of each side, scaled up; the same part throughout an episode"),
}
"""Summaries are of severity 1."""


def _kept(seed: int, count: int) -> np.ndarray:
    """float64 [count] in [0, 1): what follows from the seed alone."""
    return np.random.default_rng([seed, STREAM]).random(count)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    frame: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return frame
