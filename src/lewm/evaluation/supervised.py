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
from lewm.evaluation.classification import LabelClasses, cross_entropies, find_classes
from lewm.evaluation.labelled_frames import LabelledFrames
from lewm.models.world_model import WorldModel
from lewm.schema import Observation

BATCH_SIZE = 64
FRAMES_PER_BATCH = 128
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-3
GRADIENT_CLIP = 1.0
SAY_EVERY_STEPS = 500
NUM_LOOKS = 10
"""How often, at equal intervals, the validation loss is measured; the weights with the lowest one are kept."""
MAX_VALIDATION_FRAMES = 2048
STILL_FALLING = 0.01
"""A last look that is lower than the one before by more than this share: more steps would have helped."""


@dataclass(frozen=True, kw_only=True)
class TrainedNetworks:
    """A fresh encoder and projector with heads on their latents, trained end to end."""

    model: WorldModel
    heads: nn.Linear
    validation_curve: tuple[tuple[int, float], ...]
    """(optimiser step, loss on validation frames, averaged over the labels) of each look."""

    @property
    def kept_step(self) -> int:
        """The step whose weights these are: the first one with the lowest validation loss."""
        return min(self.validation_curve, key=lambda look: look[1])[0]

    @property
    def is_still_falling(self) -> bool:
        """Whether the validation loss still fell at the last look, so that the reference is weaker than it could be."""
        losses = [loss for _, loss in self.validation_curve]
        return len(losses) < 2 or losses[-1] < (1 - STILL_FALLING) * min(losses[:-1])


@dataclass(frozen=True, kw_only=True)
class SupervisedReference(TrainedNetworks):
    """With one softmax head per label; the losses are cross-entropies in nats."""

    classes: LabelClasses

    @torch.inference_mode()
    def read(self, frames: LabelledFrames, numbers: np.ndarray) -> np.ndarray:
        """The likeliest value of each label, int64 [n, s], of the frames with these numbers."""
        parts = np.split(numbers, range(FRAMES_PER_BATCH, len(numbers), FRAMES_PER_BATCH))
        return np.concatenate([self.classes.decode(self.heads(self.model.encode(observations_of(frames, part, self.model)))) for part in parts])


@dataclass(frozen=True, kw_only=True)
class SupervisedRegression(TrainedNetworks):
    """With one number per label; the losses are mean squared errors of standardised labels."""

    label_mean: np.ndarray
    label_std: np.ndarray

    @torch.inference_mode()
    def read(self, latents: np.ndarray) -> np.ndarray:
        """Labels float64 [..., s] of the latents [..., D] of its own ``model``, in the labels' units."""
        read = self.heads(torch.from_numpy(latents).to(device_of(self.model))).double().cpu().numpy()
        return np.asarray(read * self.label_std + self.label_mean)


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
    validation_numbers: np.ndarray,
    validation_labels: np.ndarray,
    *,
    config: Config,
    num_steps: int,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> SupervisedReference:
    """Train networks like those of ``model`` (whose weights are not used) to name the labels int [n, s] of the frames ``numbers`` [n].

    Cross-entropy, averaged over the labels; AdamW with a cosine schedule to 0; shuffled passes over the frames, which are streamed from the dataset.
    Every tenth of the steps looks at the same validation frames [m] with their labels int [m, s]; the weights with the lowest loss there are kept.
    """
    classes = find_classes(labels)
    task = _Task(
        frames=frames,
        numbers=numbers,
        targets=classes.encode(labels),
        validation_numbers=validation_numbers,
        validation_targets=classes.encode(validation_labels),
        num_outputs=sum(classes.sizes),
        losses=lambda outputs, targets: cross_entropies(outputs, targets, classes.sizes),
    )
    fresh, heads, curve = _train(model, task, config, num_steps, seed, progress)
    return SupervisedReference(model=fresh, heads=heads, validation_curve=curve, classes=classes)


def train_regression(
    model: WorldModel,
    frames: LabelledFrames,
    numbers: np.ndarray,
    labels: np.ndarray,
    validation_numbers: np.ndarray,
    validation_labels: np.ndarray,
    *,
    config: Config,
    num_steps: int,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> SupervisedRegression:
    """The same for labels that are quantities, float [n, s] and [m, s]: mean squared errors of labels standardised over the training frames."""
    mean, std = labels.mean(0, dtype=np.float64), labels.std(0, dtype=np.float64)
    safe_std = np.where(std > 1e-6 * np.maximum(1.0, np.abs(labels).max(0)), std, np.inf)  # what never varies is read as its mean
    task = _Task(
        frames=frames,
        numbers=numbers,
        targets=((labels - mean) / safe_std).astype(np.float32),
        validation_numbers=validation_numbers,
        validation_targets=((validation_labels - mean) / safe_std).astype(np.float32),
        num_outputs=labels.shape[1],
        losses=lambda outputs, targets: (outputs - targets).square().mean(0),
    )
    fresh, heads, curve = _train(model, task, config, num_steps, seed, progress)
    return SupervisedRegression(
        model=fresh, heads=heads, validation_curve=curve, label_mean=mean, label_std=np.where(np.isfinite(safe_std), safe_std, 0.0)
    )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What networks are trained to tell of some frames, and how far off they are."""

    frames: LabelledFrames
    numbers: np.ndarray
    targets: np.ndarray
    """[n, s]."""
    validation_numbers: np.ndarray
    validation_targets: np.ndarray
    num_outputs: int
    losses: Callable[[Tensor, Tensor], Tensor]
    """Of outputs [B, K] for targets [B, s]: the loss of each label, [s]."""


def _train(
    model: WorldModel, task: _Task, config: Config, num_steps: int, seed: int, progress: Callable[[str], None] | None
) -> tuple[WorldModel, nn.Linear, tuple[tuple[int, float], ...]]:
    """Networks and heads with the lowest validation loss, in evaluation mode, and the validation curve."""
    fresh = fresh_model(model, config, seed).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        heads = nn.Linear(fresh.latent_dimension, task.num_outputs).to(device_of(model))
    parameters = [*fresh.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    order, watch = _shuffled_passes(len(task.numbers), num_steps * BATCH_SIZE, seed), _Watch(fresh, heads, task)
    for step in range(num_steps):
        batch = np.sort(order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE])  # in the order of the dataset
        outputs = heads(fresh.encode(observations_of(task.frames, task.numbers[batch], fresh)))
        loss = task.losses(outputs, torch.from_numpy(task.targets[batch]).to(outputs.device)).mean()
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimiser.step()
        if (step + 1) % max(1, num_steps // NUM_LOOKS) == 0 or step + 1 == num_steps:
            watch.look(step + 1)
        if progress is not None and (step + 1) % SAY_EVERY_STEPS == 0:
            progress(f"supervised reference: step {step + 1:,} of {num_steps:,}, loss {loss.item():.3f}")
    watch.restore()
    return fresh.eval(), heads.eval(), tuple(watch.curve)


class _Watch:
    """Measures the loss on a fixed subset of the validation frames and remembers the weights with the lowest one."""

    def __init__(self, model: WorldModel, heads: nn.Linear, task: _Task) -> None:
        num_frames = len(task.validation_numbers)
        chosen = np.unique(np.linspace(0, num_frames - 1, min(num_frames, MAX_VALIDATION_FRAMES)).round().astype(np.int64))
        self._networks, self._task, self._numbers = nn.ModuleList([model, heads]), task, task.validation_numbers[chosen]
        self._targets = torch.from_numpy(task.validation_targets[chosen]).to(device_of(model))
        self._model, self._heads = model, heads
        self._best: dict[str, Tensor] = {}
        self.curve: list[tuple[int, float]] = []

    @torch.no_grad()
    def look(self, step: int) -> None:
        """Measure the networks as they are after this many steps."""
        self._networks.eval()
        parts = np.split(self._numbers, range(FRAMES_PER_BATCH, len(self._numbers), FRAMES_PER_BATCH))
        outputs = torch.cat([self._heads(self._model.encode(observations_of(self._task.frames, part, self._model))) for part in parts])
        loss = float(self._task.losses(outputs, self._targets).mean())
        if not self.curve or loss < min(before for _, before in self.curve):
            self._best = {name: value.clone() for name, value in self._networks.state_dict().items()}
        self.curve.append((step, loss))
        self._networks.train()

    def restore(self) -> None:
        """Give the networks their best weights back."""
        self._networks.load_state_dict(self._best)


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
