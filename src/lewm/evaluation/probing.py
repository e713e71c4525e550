"""Linear probes: which true quantities can be read off the latents of frames, and off imagined latents, by a linear map.

Axes: n sample, D latent, s label, E clip, H context, T model step, A action block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lewm.errors import DataError
from lewm.models.world_model import WorldModel
from lewm.schema import Clip

if TYPE_CHECKING:
    from lewm.data.episodes import EpisodeStore

FORMAT = 1
RIDGE = 1e-4
"""Strength of the penalty, as a share of the number of samples; features and labels are standardised first."""
POSITION_LABELS = ("agent_x_px", "agent_y_px")
"""Labels whose joint error is reported as a distance."""
NUM_FIT_CLIPS = 4096
NUM_SCORE_CLIPS = 1024
CLIPS_PER_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A linear map from latents to labels, with the statistics that standardise both."""

    latent_mean: np.ndarray
    latent_std: np.ndarray
    label_mean: np.ndarray
    label_std: np.ndarray
    """float64 [s]; 0 for a label that never varied."""
    weights: np.ndarray
    """float64 [D, s], between standardised values."""

    def read(self, latents: np.ndarray) -> np.ndarray:
        """Labels float64 [..., s] of latents [..., D], in the labels' units."""
        read: np.ndarray = (latents - self.latent_mean) / self.latent_std @ self.weights * self.label_std + self.label_mean
        return read

    @property
    def is_constant(self) -> np.ndarray:
        """bool [s]: labels that never varied where the probe was fitted; there is nothing to read."""
        return np.asarray(self.label_std == 0)


def fit_probe(latents: np.ndarray, labels: np.ndarray, *, ridge: float = RIDGE) -> LinearProbe:
    """Ridge regression of labels [n, s] on latents [n, D], in closed form and float64; ``DataError`` for arrays that do not match."""
    latents, labels = np.asarray(latents, np.float64), np.asarray(labels, np.float64)
    if latents.ndim != 2 or labels.ndim != 2 or len(latents) != len(labels) or len(latents) < 2:
        raise DataError(f"a probe needs latents [n, D] and labels [n, s] with the same n >= 2, got {latents.shape} and {labels.shape}")
    latent_std, label_std = latents.std(0), labels.std(0)
    # The mean of equal float values may be off by rounding, which leaves a tiny std behind.
    label_std[label_std <= 1e-6 * np.maximum(1.0, np.abs(labels).max(0))] = 0.0
    latent_std[latent_std == 0] = 1.0
    latent_mean, label_mean = latents.mean(0), labels.mean(0)
    features = (latents - latent_mean) / latent_std
    targets = (labels - label_mean) / np.where(label_std > 0, label_std, 1.0)
    gram = features.T @ features + ridge * len(features) * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T @ targets)
    return LinearProbe(latent_mean=latent_mean, latent_std=latent_std, label_mean=label_mean, label_std=label_std, weights=weights)


def score_labels(probe: LinearProbe, read: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Per label: R^2, mean squared error in units of the label's variance where the probe was fitted, Pearson r and RMSE; or ``"constant"``.

    ``read`` and ``labels`` are [n, s]. A label that does not vary here, or did not where the probe was fitted, is constant.
    """
    scores: dict[str, Any] = {}
    for column, name in enumerate(names):
        truth, error = labels[:, column].astype(np.float64), read[:, column] - labels[:, column]
        if probe.is_constant[column] or np.ptp(truth) == 0:
            scores[name] = "constant"
            continue
        mean_squared = float(np.mean(error**2))
        scores[name] = {
            "r2": float(1 - mean_squared / truth.var()),
            "mse_standardised": float(mean_squared / probe.label_std[column] ** 2),
            "pearson_r": _pearson(read[:, column], truth),
            "rmse": float(np.sqrt(mean_squared)),
        }
    return scores


def position_error(read: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, float] | None:
    """Euclidean error over ``POSITION_LABELS``, in their unit: median and 90th percentile; None if the world has no such labels."""
    if not set(POSITION_LABELS) <= set(names):
        return None
    columns = [list(names).index(name) for name in POSITION_LABELS]
    median, p90 = np.quantile(np.linalg.norm(read[..., columns] - labels[..., columns], axis=-1), [0.5, 0.9])
    return {"median_px": float(median), "p90_px": float(p90)}


def evaluate_probe(
    model: WorldModel,
    store: "EpisodeStore",
    *,
    train_ids: np.ndarray,
    heldout_ids: np.ndarray,
    untrained: WorldModel | None = None,
    horizon_model_steps: int = 5,
    context_model_steps: int = 1,
    num_fit_clips: int = NUM_FIT_CLIPS,
    num_score_clips: int = NUM_SCORE_CLIPS,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit on training episodes, score on held-out ones; then read imagined latents 1.. ``horizon_model_steps`` ahead with the same probe.

    Imagination starts from ``context_model_steps`` real latents and uses the true actions. Floors: the mean label, an encoder that was never
    trained (if given) and, for imagined latents, the latent they start from. ``DataError`` for a dataset without labels.
    """
    names = tuple(store.label_names)
    if not names:
        raise DataError("this dataset has no labels to probe; collect one from a simulated world")
    shape = {"num_transitions": context_model_steps - 1 + horizon_model_steps, "seed": seed}
    fit_clips = _clips(model, store, train_ids, num_clips=num_fit_clips, num_transitions=1, seed=seed)
    clips = _clips(model, store, heldout_ids, num_clips=num_score_clips, **shape)
    probe = _fit(model, fit_clips)
    latents, labels = _encode(model, clips), _labels(clips)  # E T D, E T s
    flat_labels = labels.reshape(-1, len(names))
    read = probe.read(latents).reshape(flat_labels.shape)
    mean = np.broadcast_to(probe.label_mean, flat_labels.shape)
    floors = {"mean": score_labels(probe, mean, flat_labels, names)}
    if untrained is not None:
        other = _fit(untrained, fit_clips)
        floors["untrained"] = score_labels(other, other.read(_encode(untrained, clips)).reshape(flat_labels.shape), flat_labels, names)
    return {
        "evaluation": "probe",
        "format": FORMAT,
        "labels": score_labels(probe, read, flat_labels, names),
        "position_error": position_error(read, flat_labels, names),
        "floors": floors | {"mean_position_error": position_error(mean, flat_labels, names)},
        "imagined": _score_imagined(model, probe, clips, latents, labels, names, context_model_steps),
        "context_model_steps": context_model_steps,
        "num_fit_episodes": len(train_ids),
        "num_heldout_episodes": len(heldout_ids),
        "num_fit_frames": 2 * num_fit_clips,
        "num_heldout_frames": len(flat_labels),
        "ridge": RIDGE,
        "seed": seed,
    }


def _score_imagined(
    model: WorldModel, probe: LinearProbe, clips: list[Clip[Tensor]], latents: np.ndarray, labels: np.ndarray, names: Sequence[str], context: int
) -> list[dict[str, Any]]:
    """One entry per model step ahead; ``copy_position_error`` is that of staying where the context ends."""
    imagined = probe.read(_imagine(model, clips, latents, context))  # E T s
    start = probe.read(latents[:, context - 1])
    entries = []
    for step in range(imagined.shape[1]):
        truth = labels[:, context + step]
        entries.append(
            {
                "model_steps": step + 1,
                "env_steps": (step + 1) * model.action_block,
                "labels": score_labels(probe, imagined[:, step], truth, names),
                "position_error": position_error(imagined[:, step], truth, names),
                "copy_position_error": position_error(start, truth, names),
            }
        )
    return entries


def _clips(
    model: WorldModel, store: "EpisodeStore", episode_ids: np.ndarray, *, num_clips: int, num_transitions: int, seed: int
) -> list[Clip[Tensor]]:
    """Batches of clips, ``num_clips`` in all."""
    from lewm.data.clips import ClipSampler

    size = min(CLIPS_PER_BATCH, num_clips)
    sampler = ClipSampler(
        store,
        num_transitions=num_transitions,
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=episode_ids,
        batch_size=size,
        seed=seed,
    )
    clips = [sampler.batch(k).map(torch.from_numpy) for k in range(-(-num_clips // size))]
    surplus = len(clips) * size - num_clips
    clips[-1] = clips[-1].map(lambda array: array[: size - surplus])
    return clips


def _fit(model: WorldModel, clips: list[Clip[Tensor]]) -> LinearProbe:
    latents, labels = _encode(model, clips), _labels(clips)
    return fit_probe(latents.reshape(-1, latents.shape[-1]), labels.reshape(-1, labels.shape[-1]))


@torch.no_grad()
def _encode(model: WorldModel, clips: list[Clip[Tensor]]) -> np.ndarray:
    """float32 [E, T, D]."""
    device = next(model.parameters()).device
    model.eval()
    return np.concatenate([model.encode(clip.observations.map(lambda array: array.to(device))).float().cpu().numpy() for clip in clips])


@torch.no_grad()
def _imagine(model: WorldModel, clips: list[Clip[Tensor]], latents: np.ndarray, context: int) -> np.ndarray:
    """float32 [E, T, D]: what the model expects after the context, given the actions that were taken."""
    device = next(model.parameters()).device
    imagined, first = [], 0
    for clip in clips:
        blocks = clip.blocks.to(device)
        own = torch.from_numpy(latents[first : first + len(blocks), :context]).to(device)
        first += len(blocks)
        rollout = model.rollout(own, blocks[:, : context - 1], blocks[:, None, context - 1 :])  # E 1 T D
        imagined.append(rollout[:, 0].float().cpu().numpy())
    return np.concatenate(imagined)


def _labels(clips: list[Clip[Tensor]]) -> np.ndarray:
    labels = [clip.labels for clip in clips]
    if any(batch is None for batch in labels):
        raise DataError("this dataset has no labels to probe; collect one from a simulated world")
    return np.concatenate([batch.numpy() for batch in labels if batch is not None])


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation; 0 where one of the two does not vary."""
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm > 1e-12 else 0.0
