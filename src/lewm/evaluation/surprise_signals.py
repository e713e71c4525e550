"""What could tell a step that the world does not make: the prediction error, and floors that predict nothing; and what is normal.

Axes: B clip, T model step, D latent, h context, A action block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.models.world_model import WorldModel
from lewm.schema import Clip

FALSE_ALARM_RATE = 0.01
"""Of normal steps: the threshold of an alarm is their quantile."""
WINDOWS_PER_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What could tell each step of some clips: float64 [B, T] each."""

    prediction: np.ndarray
    """log of the mean squared error of the predicted latent."""
    persistence: np.ndarray
    """log of the mean squared change of the latent."""
    frame_difference: np.ndarray
    """log of the mean absolute change of the frame."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is normal: mean and standard deviation of a signal at normal steps, and the alarm's threshold."""

    mean: float
    std: float
    threshold: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Calibration":
        """From a signal of normal clips."""
        values = values.ravel()
        return cls(mean=float(values.mean()), std=float(max(values.std(), 1e-9)), threshold=float(np.quantile(values, 1 - FALSE_ALARM_RATE)))

    def standard(self, values: np.ndarray) -> np.ndarray:
        """A signal in standard deviations of normal steps, 0 being their mean."""
        return np.asarray((values - self.mean) / self.std)

    @property
    def standard_threshold(self) -> float:
        """The threshold in the same unit."""
        return (self.threshold - self.mean) / self.std


@torch.no_grad()
def measure(model: WorldModel, clip: Clip[np.ndarray]) -> Signals:
    """The signals of every step of some clips; each step is predicted from as many steps before it as the model attends to and the clip has."""
    device = next(model.parameters()).device
    moved = replace(clip, blocks=known_blocks(model, clip.blocks)).map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device))
    latents = model.encode(moved.observations).float()
    errors = [_error(model, latents, moved.blocks, step) for step in range(clip.blocks.shape[1])]
    return Signals(
        prediction=log_of(torch.stack(errors, dim=1).cpu().numpy()),
        persistence=log_of(latents.diff(dim=1).square().mean(-1).cpu().numpy()),
        frame_difference=log_of(frame_changes(clip.observations.frames)),
    )


@torch.no_grad()
def errors_of_recording(model: WorldModel, latents: Float[Tensor, "T+1 D"], blocks: Float[Tensor, "T A"]) -> np.ndarray:
    """float64 [T]: what ``measure`` gives as ``prediction`` for one clip of any length, in windows."""
    size, num_steps = model.history_model_steps, len(blocks)
    errors = [_error(model, latents[None], blocks[None], step) for step in range(min(size - 1, num_steps))]
    for first in range(size - 1, num_steps, WINDOWS_PER_BATCH):
        last_steps = torch.arange(first, min(first + WINDOWS_PER_BATCH, num_steps))
        rows = last_steps[:, None] + torch.arange(1 - size, 1)  # [windows, h]
        predicted = model.predict(latents[rows], blocks[rows])[:, -1]
        errors.append((predicted.float() - latents[last_steps + 1]).square().mean(-1))
    return log_of(torch.cat(errors).cpu().numpy())


def joined(parts: Sequence[Signals]) -> Signals:
    """The signals of all clips."""
    return Signals(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Signals.__dataclass_fields__})


def frame_changes(frames: np.ndarray) -> np.ndarray:
    """Mean absolute change of each frame uint8 [B, T+1, V, Y, X, 3] to the next: float64 [B, T]."""
    change: np.ndarray = np.abs(np.diff(frames.astype(np.int16), axis=1)).mean(axis=tuple(range(2, frames.ndim)))
    return change


def log_of(values: np.ndarray) -> np.ndarray:
    """Natural logarithm, float64; nothing at all counts as 1e-12."""
    return np.log(np.maximum(values.astype(np.float64), 1e-12))


def known_blocks(model: WorldModel, blocks: np.ndarray) -> np.ndarray:
    """Action blocks [..., A] of the size that the model takes.

    Recordings without actions get missing values, which a model reads as its mean action; a model of video takes no actions.
    """
    size = model.action_spec.block_dimension(model.action_block)
    if blocks.shape[-1] == size or 0 not in (blocks.shape[-1], size):
        return blocks
    return np.full((*blocks.shape[:-1], size), 0.0 if model.action_spec.kind == "discrete" else np.nan, np.float32)


def _error(model: WorldModel, latents: Float[Tensor, "B T D"], blocks: Tensor, step: int) -> Float[Tensor, " B"]:
    """Mean squared error of the latent after ``step``, predicted from as many steps before it as the model attends to."""
    first = max(0, step + 1 - model.history_model_steps)
    predicted = model.predict(latents[:, first : step + 1], blocks[:, first : step + 1])[:, -1]
    return (predicted.float() - latents[:, step + 1]).square().mean(-1)
