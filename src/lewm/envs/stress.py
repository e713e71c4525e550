"""Nuisances that a world model should not care about, drawn over the frames of any world: ``stress/<kind>/<env>``.

SIGReg is content with latents that hold nothing but such a thing, and prediction likes it, for it is easy to predict. Each kind names what it adds as
labels ``nuisance_*``, so that ``lewm eval collapse`` can say when an encoder was captured. All is a function of (episode seed, env step).

Axes: E episode, V view, Y X image, a action, s label.
"""

import functools
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from lewm.registry import unknown_member

FAMILY = "stress/"
STREAM = 11
"""Keeps these numbers apart from those that a world draws from the same seed."""


class Stress(ABC):
    """One kind of nuisance."""

    label_names: ClassVar[tuple[str, ...]] = ()

    def values(self, seed: int, env_step: int) -> np.ndarray:
        """float32: ``label_names`` at an env step."""
        return np.zeros(0, np.float32)

    @abstractmethod
    def draw(self, frames: np.ndarray, seed: int, env_step: int) -> None:
        """Change frames uint8 [V, Y, X, 3] in place."""

    def acted(self, actions: np.ndarray) -> np.ndarray:
        """What reaches the world of actions [E, a] or [E]."""
        return actions


class CornerTag(Stress):
    """A square of 5/64 of the side in the first corner, of a colour that an episode keeps."""

    label_names = ("nuisance_red", "nuisance_green", "nuisance_blue")

    def values(self, seed: int, env_step: int) -> np.ndarray:
        """The colour, 0 to 1."""
        return (_colour(seed) / 255).astype(np.float32)

    def draw(self, frames: np.ndarray, seed: int, env_step: int) -> None:
        """Paint the tag."""
        height, width = (max(2, round(side * 5 / 64)) for side in frames.shape[1:3])
        frames[:, :height, :width] = _colour(seed)


class Distractor(Stress):
    """A magenta disc of 6/64 of the side across that goes round the middle, at a speed and from a place that an episode keeps."""

    label_names = ("nuisance_x", "nuisance_y")

    def values(self, seed: int, env_step: int) -> np.ndarray:
        """Its centre, in sides of the frame."""
        phase, speed = _orbit(seed)
        angle = phase + speed * env_step
        return np.array([0.5 + 0.35 * np.cos(angle), 0.5 + 0.35 * np.sin(angle)], np.float32)

    def draw(self, frames: np.ndarray, seed: int, env_step: int) -> None:
        """Paint the disc."""
        height, width = frames.shape[1:3]
        x, y = self.values(seed, env_step)
        rows, columns = np.ogrid[:height, :width]
        is_inside = ((columns + 0.5) / width - x) ** 2 + ((rows + 0.5) / height - y) ** 2 < (3 / 64) ** 2
        frames[:, is_inside] = (255, 0, 255)


class VideoBackground(Stress):
    """Half of every pixel is a moving pattern: three plane waves of random colours, directions and speeds that an episode keeps."""

    label_names = tuple(f"nuisance_wave_{wave}_{part}" for wave in range(3) for part in ("cos", "sin"))

    def values(self, seed: int, env_step: int) -> np.ndarray:
        """Cosine and sine of each wave's phase."""
        phases = _phases(seed, env_step)
        return np.stack([np.cos(phases), np.sin(phases)], axis=1).ravel().astype(np.float32)

    def draw(self, frames: np.ndarray, seed: int, env_step: int) -> None:
        """Mix the pattern in."""
        height, width = frames.shape[1:3]
        _, _, directions, colours = _waves(seed)
        place = np.stack(np.meshgrid(np.arange(width) / width, np.arange(height) / height), axis=-1)  # Y X 2
        heights = np.cos(2 * np.pi * place @ directions.T + _phases(seed, env_step))  # Y X wave
        pattern = 127.5 + 127.5 * np.tanh(heights @ colours)
        frames[:] = ((frames.astype(np.float32) + pattern.astype(np.float32)) / 2).astype(np.uint8)


class PixelNoise(Stress):
    """Gaussian noise of std 0.1 on every value of every frame, anew each env step: it can be told from nothing and predicts nothing."""

    def draw(self, frames: np.ndarray, seed: int, env_step: int) -> None:
        """Add the noise."""
        noise = np.random.default_rng([seed, STREAM, env_step]).standard_normal(frames.shape, np.float32)
        frames[:] = np.clip(frames + 25.5 * noise, 0, 255).astype(np.uint8)


class LowDimension(Stress):
    """Only the first number of a continuous action reaches the world; the others become 0."""

    def draw(self, frames: np.ndarray, seed: int, env_step: int) -> None:
        """Frames stay as they are."""

    def acted(self, actions: np.ndarray) -> np.ndarray:
        """The first column."""
        if actions.ndim < 2 or actions.dtype.kind != "f":
            return actions
        masked = actions.copy()
        masked[:, 1:] = np.where(np.isfinite(actions[:, 1:]), 0, actions[:, 1:])  # what is no number is the world's to refuse
        return masked


STRESSES: dict[str, type[Stress]] = {
    "corner-tag": CornerTag,
    "distractor": Distractor,
    "video": VideoBackground,
    "pixel-noise": PixelNoise,
    "low-dimension": LowDimension,
}


def make_stress(kind: str) -> Stress:
    """The nuisance called ``kind``; ``UnknownNameError`` with a suggestion if there is none."""
    if kind not in STRESSES:
        raise unknown_member("stress", "", kind, STRESSES)
    return STRESSES[kind]()


def stress_names() -> list[str]:
    """Every kind, on the world where it is measured; any other may stand in its place."""
    return [f"{kind}/two-room" for kind in sorted(STRESSES)]


@functools.lru_cache(maxsize=4096)
def _colour(seed: int) -> np.ndarray:
    return np.random.default_rng([seed, STREAM]).integers(0, 256, 3)


@functools.lru_cache(maxsize=4096)
def _orbit(seed: int) -> tuple[float, float]:
    generator = np.random.default_rng([seed, STREAM])
    return float(generator.uniform(0, 2 * np.pi)), float(generator.choice([-1, 1]) * generator.uniform(0.03, 0.12))


@functools.lru_cache(maxsize=4096)
def _waves(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Phases [3], speeds [3], directions [3, 2] in waves per side and colours [3, 3]."""
    generator = np.random.default_rng([seed, STREAM])
    signs = generator.choice([-1.0, 1.0], 3)
    return (
        generator.uniform(0, 2 * np.pi, 3),
        signs * generator.uniform(0.03, 0.12, 3),
        generator.uniform(-2, 2, (3, 2)),
        generator.uniform(-1, 1, (3, 3)),
    )


def _phases(seed: int, env_step: int) -> np.ndarray:
    phases, speeds, _, _ = _waves(seed)
    return np.asarray(phases + speeds * env_step)
