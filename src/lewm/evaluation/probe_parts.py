"""What a linear probe on latents is measured beside: a small network, features of raw pixels, and intervals over episodes.

Axes: n sample, e episode, D feature, s label, V view, Y X image, R resample.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lewm.evaluation.intervals import resampled_counts

HIDDEN_WIDTH, NUM_STEPS, BATCH_SIZE, LEARNING_RATE = 256, 600, 512, 1e-3
PIXEL_GRID = 16
"""Frames are averaged down to so many cells per side before their principal components are taken."""
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class MLPProbe:
    """Two hidden layers from standardised features to standardised labels."""

    layers: nn.Sequential
    mean: np.ndarray
    std: np.ndarray
    label_mean: np.ndarray
    label_std: np.ndarray

    @torch.no_grad()
    def read(self, features: np.ndarray) -> np.ndarray:
        """Labels float64 [..., s] of features [..., D], in the labels' units."""
        inputs = torch.from_numpy(((features - self.mean) / self.std).astype(np.float32))
        return np.asarray(self.layers(inputs).double().numpy() * self.label_std + self.label_mean)


def fit_mlp_probe(features: np.ndarray, labels: np.ndarray, *, seed: int) -> MLPProbe:
    """Train the network for 600 steps of 512 samples; a function of the seed. Arrays [n, D] and [n, s]."""
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    label_mean, label_std = labels.mean(0, dtype=np.float64), labels.std(0, dtype=np.float64)
    std, safe_std = np.where(std > 0, std, 1.0), np.where(label_std > 0, label_std, 1.0)
    inputs = torch.from_numpy(((features - mean) / std).astype(np.float32))
    targets = torch.from_numpy(((labels - label_mean) / safe_std).astype(np.float32))
    generator = torch.Generator().manual_seed(seed)
    layers = _layers(inputs.shape[1], targets.shape[1], generator)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
    for _ in range(NUM_STEPS):
        rows = torch.randint(len(inputs), (min(BATCH_SIZE, len(inputs)),), generator=generator)
        loss = (layers(inputs[rows]) - targets[rows]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return MLPProbe(layers, mean, std, label_mean, label_std)


def _layers(num_inputs: int, num_outputs: int, generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):  # how torch begins a layer must not move the stream of others
        for before, after in itertools.pairwise((num_inputs, HIDDEN_WIDTH, HIDDEN_WIDTH, num_outputs)):
            layers += [nn.Linear(before, after), nn.GELU()]
    for layer in layers[::2]:
        assert isinstance(layer, nn.Linear)
        nn.init.kaiming_normal_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers[:-1])


def pixel_cells(frames: Tensor) -> np.ndarray:
    """float32 [..., V * 16 * 16 * 3]: frames uint8 [..., V, Y, X, 3] averaged down to a grid of cells, 0 to 1."""
    leading = frames.shape[:-4]
    images = frames.flatten(0, -4).movedim(-1, 1).float() / 255  # [... V, 3, Y, X]
    cells = nn.functional.adaptive_avg_pool2d(images, PIXEL_GRID)
    return cells.reshape(*leading, -1).cpu().numpy()


def principal_components(samples: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and the ``count`` directions [D, count] of largest variance of samples [n, D]."""
    mean = samples.mean(0, dtype=np.float64)
    centred = samples - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return mean, vectors[:, ::-1][:, : min(count, samples.shape[1])]


def r2_intervals(
    read: np.ndarray, labels: np.ndarray, episodes: np.ndarray, *, seed: int = 0, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of each label's R^2, float64 [s] each: a percentile bootstrap that resamples whole episodes.

    ``read`` and ``labels`` are [n, s], ``episodes`` int [n]. NaN for a label that does not vary, and for all if there is a single episode.
    """
    which, ranks = np.unique(episodes, return_inverse=True)
    truth = labels.astype(np.float64)
    sums = np.stack([np.ones_like(truth), truth, truth**2, (read - truth) ** 2])  # [4, n, s]
    order = np.argsort(ranks, kind="stable")
    starts = np.searchsorted(ranks[order], np.arange(len(which)))
    per_episode = np.add.reduceat(sums[:, order], starts, axis=1)  # [4, e, s]
    counts = resampled_counts(seed, NUM_RESAMPLES, len(which))  # [R, e]
    number, total, squares, errors = np.einsum("re,kes->krs", counts, per_episode)
    variation = squares - total**2 / number
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(variation > 1e-12 * np.maximum(squares, 1e-300), 1 - errors / variation, np.nan)
    tail = 0.5 - confidence / 2
    low, high = np.full(truth.shape[1], np.nan), np.full(truth.shape[1], np.nan)
    for column in range(truth.shape[1] if len(which) > 1 else 0):
        known = r2[np.isfinite(r2[:, column]), column]
        if len(known):
            low[column], high[column] = np.quantile(known, [tail, 1 - tail])
    return low, high


def add_intervals(scores: dict[str, Any], read: np.ndarray, labels: np.ndarray, episodes: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The scores of ``score_labels`` with ``r2_low`` and ``r2_high``; None if there is a single episode."""
    low, high = r2_intervals(read, labels, episodes)
    return {
        name: score if isinstance(score, str) else score | {"r2_low": _known(low[column]), "r2_high": _known(high[column])}
        for column, (name, score) in enumerate(zip(names, scores.values(), strict=True))
    }


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
