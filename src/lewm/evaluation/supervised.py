"""The supervised reference: how well labels can be read off frames by the very same networks, trained for nothing else.

Axes: n frame, B batch, D latent, s label, K class.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lewm.config import Config
from lewm.evaluation.classification import LabelClasses, cross_entropies
from lewm.evaluation.labelled_frames import LabelledFrames
from lewm.models.world_model import WorldModel
from lewm.schema import Observation

BATCH_SIZE = 64
FRAMES_PER_BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-3
GRADIENT_CLIP = 1.0
SAY_EVERY_STEPS = 500


@dataclass(frozen=True, kw_only=True)
class SupervisedReference:
    """A fresh encoder and projector with one softmax head per label, trained end to end."""

    model: WorldModel
    heads: nn.Linear
    classes: LabelClasses

    @torch.inference_mode()
    def read(self, frames: LabelledFrames, numbers: np.ndarray) -> np.ndarray:
        """The likeliest value of each label, int64 [n, s], of the frames with these numbers."""
        parts = np.split(numbers, range(FRAMES_PER_BATCH, len(numbers), FRAMES_PER_BATCH))
        return np.concatenate([self.classes.decode(self.heads(self.model.encode(observations_of(frames, part, self.model)))) for part in parts])


def fresh_model(model: WorldModel, config: Config, seed: int) -> WorldModel:
    """The same networks with new random weights, on the same device; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WorldModel(config, model.observation_spec, model.action_spec).to(device_of(model))


def train_supervised(
    model: WorldModel,
    frames: LabelledFrames,
    numbers: np.ndarray,
    labels: np.ndarray,
    classes: LabelClasses,
    *,
    config: Config,
    num_steps: int,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> SupervisedReference:
    """Train networks like those of ``model`` (whose weights are not used) to name the labels int [n, s] of the frames ``numbers`` [n].

    Cross-entropy, averaged over the labels; AdamW with a cosine schedule to 0; shuffled passes over the frames, which are streamed from the dataset.
    """
    fresh = fresh_model(model, config, seed).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        heads = nn.Linear(fresh.latent_dimension, sum(classes.sizes)).to(device_of(model))
    parameters = [*fresh.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    codes, order = classes.encode(labels), _shuffled_passes(len(numbers), num_steps * BATCH_SIZE, seed)
    for step in range(num_steps):
        batch = np.sort(order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE])  # in the order of the dataset
        logits = heads(fresh.encode(observations_of(frames, numbers[batch], fresh)))
        loss = cross_entropies(logits, torch.from_numpy(codes[batch]).to(logits.device), classes.sizes).mean()
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimiser.step()
        if progress is not None and (step + 1) % SAY_EVERY_STEPS == 0:
            progress(f"supervised reference: step {step + 1:,} of {num_steps:,}, cross-entropy {float(loss):.3f}")
    return SupervisedReference(model=fresh.eval(), heads=heads.eval(), classes=classes)


def observations_of(frames: LabelledFrames, numbers: np.ndarray, model: WorldModel) -> Observation[Tensor]:
    """Observations on the model's device."""
    return frames.observations(numbers).map(lambda array: torch.from_numpy(array).to(device_of(model)))


def device_of(model: WorldModel) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def _shuffled_passes(size: int, num_samples: int, seed: int) -> np.ndarray:
    """int64 [num_samples] in 0 .. size - 1: each number once per pass, every pass in a new order."""
    generator = np.random.default_rng(seed)
    passes = [generator.permutation(size) for _ in range(-(-num_samples // size))]
    return np.concatenate(passes)[:num_samples]
