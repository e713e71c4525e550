"""Linear probes: which true quantities can be read off the latents of frames, and off imagined latents, by a linear map.

Axes: n sample, D latent, s label, E clip, H context, T model step, A action block.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lewm.config import Config
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.errors import ConfigError, DataError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.probe_ceiling import train_ceiling
from lewm.evaluation.probe_labels import NO_LABELS, VELOCITY_WORD, ProbedLabels, velocity_control
from lewm.evaluation.probe_parts import add_intervals, fit_mlp_probe, pixel_cells, principal_components
from lewm.evaluation.supervised import SupervisedRegression, fresh_model
from lewm.models.world_model import WorldModel

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
        """Which labels never varied where the probe was fitted; there is nothing to read."""
        return np.asarray(self.label_std == 0)


def fit_probe(latents: np.ndarray, labels: np.ndarray, *, ridge: float = RIDGE) -> LinearProbe:
    """Ridge regression of labels [n, s] on latents [n, D], in closed form and float64; ``DataError`` for arrays that do not match."""
    latents, labels = np.asarray(latents, np.float64), np.asarray(labels, np.float64)
    if latents.ndim != 2 or labels.ndim != 2 or len(latents) != len(labels) or len(latents) < 2:
        raise DataError(f"a probe needs latents [n, D] and labels [n, s] with the same n >= 2, got {latents.shape} and {labels.shape}")
    if not np.isfinite(labels).all():
        column = int(np.flatnonzero(~np.isfinite(labels).all(0))[0])
        raise DataError(f"labels must be finite, number {column} of them has {int((~np.isfinite(labels[:, column])).sum())} values that are not")
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


def joint_names(names: Sequence[str]) -> tuple[str, ...]:
    """The joints whose angle is given by two labels, ``<joint>_sin`` and ``<joint>_cos``."""
    return tuple(name.removesuffix("_sin") for name in names if name.endswith("_sin") and name.removesuffix("_sin") + "_cos" in names)


def angle_error(read: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any] | None:
    """Error of the angle that each joint's sine and cosine point to, wrapped, so 0..pi: median and 90th percentile, of all joints and of each.

    ``read`` and ``labels`` are [..., s]; None if the world has no such labels.
    """
    errors = {}
    for joint in joint_names(names):
        sine, cosine = (list(names).index(f"{joint}_{part}") for part in ("sin", "cos"))
        difference = np.arctan2(read[..., sine], read[..., cosine]) - np.arctan2(labels[..., sine], labels[..., cosine])
        errors[joint] = np.abs((difference + np.pi) % (2 * np.pi) - np.pi)
    if not errors:
        return None
    return _angle_quantiles(np.stack(list(errors.values()))) | {"joints": {joint: _angle_quantiles(error) for joint, error in errors.items()}}


def evaluate_probe(
    model: WorldModel,
    store: Store,
    *,
    config: Config,
    horizon_model_steps: int = 5,
    context_model_steps: int = 1,
    supervised_steps: int = 0,
    num_fit_clips: int = NUM_FIT_CLIPS,
    num_score_clips: int = NUM_SCORE_CLIPS,
    with_comparisons: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Read labels off the latents of held-out episodes, and off imagined latents 1.. ``horizon_model_steps`` ahead, with one linear probe.

    The probe is fitted on real latents of training episodes (``config`` says which those are). Imagination starts from ``context_model_steps`` real
    latents and uses the true actions. R^2 of real frames have intervals, from a bootstrap of episodes. Angles are read as sine and cosine
    (``ProbedLabels``). Without ``with_comparisons`` there are no ``mlp`` and no ``floors``, which take most of the time; ``supervised_steps`` > 0
    adds a ceiling. ``velocity_control`` holds the labels that are a negative control where an observation is a single frame. ``DataError`` for a
    dataset without labels, with labels that are not finite or never vary, or whose episodes are too few or too short.
    """
    num_transitions = _num_transitions(horizon_model_steps, context_model_steps, supervised_steps)
    train_ids, heldout_ids = _usable_episodes(store, config, num_transitions, model.action_block)
    probed = ProbedLabels.of(store.label_names)
    models = [model.eval(), *([fresh_model(model, config, seed).eval()] if with_comparisons else [])]
    encode_fit = partial(encode_clips, store=store, episode_ids=train_ids, num_clips=num_fit_clips, num_transitions=1, seed=seed)
    encode_scored = partial(encode_clips, store=store, episode_ids=heldout_ids, num_clips=num_score_clips, num_transitions=num_transitions, seed=seed)
    fit, heldout = (_probed(probed, encode(models, with_pixels=with_comparisons)) for encode in (encode_fit, encode_scored))
    judged = _Judged.of(fit, heldout, probed.names)
    own = judged.scores(judged.probe.read(_rows(heldout.latents[0])))
    result = {"evaluation": "probe", "format": FORMAT, **own, **(_comparisons(judged, seed) if with_comparisons else {}), "ceilings": {}}
    if supervised_steps > 0:
        reference = train_ceiling(model, store, train_ids, probed, config=config, num_steps=supervised_steps, seed=seed, progress=progress)
        result["ceilings"]["supervised"] = _score_ceiling(judged, reference, encode_scored([reference.model]), supervised_steps)
    result["imagined"] = _score_imagined(model, judged, context_model_steps)
    result |= _kinds_of_labels(probed, own["labels"], model.observation_spec.stack_offsets_env_steps)
    result |= {"context_model_steps": context_model_steps, "num_fit_episodes": len(train_ids), "num_heldout_episodes": len(heldout_ids)}
    return result | {"num_fit_frames": fit.labels[..., 0].size, "num_heldout_frames": heldout.labels[..., 0].size, "ridge": RIDGE, "seed": seed}


def _num_transitions(horizon_model_steps: int, context_model_steps: int, supervised_steps: int) -> int:
    """Model steps of a held-out clip; ``ConfigError`` for settings without a meaning."""
    if horizon_model_steps < 1 or context_model_steps < 1 or supervised_steps < 0:
        raise ConfigError(
            "horizon_model_steps and context_model_steps must be at least 1 and supervised_steps at least 0, "
            f"got {horizon_model_steps}, {context_model_steps} and {supervised_steps}"
        )
    return context_model_steps - 1 + horizon_model_steps


def _usable_episodes(store: Store, config: Config, num_scored_steps: int, action_block: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the episodes to fit on and to score; ``DataError`` without labels, without either, or if none is long enough."""
    if not store.label_names:
        raise DataError(NO_LABELS)
    train_ids, heldout_ids = heldout_episodes(store, config)
    _check_lengths(store, train_ids, 1, action_block)
    _check_lengths(store, heldout_ids, num_scored_steps, action_block)
    return train_ids, heldout_ids


def _check_lengths(store: Store, ids: np.ndarray, num_model_steps: int, action_block: int) -> None:
    """``DataError`` if no episode has so many model steps, saying how many the longest has."""
    longest = int(store.index["length"][ids].max())
    if longest < num_model_steps * action_block:
        raise DataError(
            f"{num_model_steps} model steps of {action_block} env steps (context_model_steps - 1 + horizon_model_steps) need an episode of "
            f"{num_model_steps * action_block} env steps, the longest that is scored has {longest}: imagine at most {longest // action_block} "
            "(--horizon-model-steps), or collect longer episodes"
        )


def _kinds_of_labels(probed: ProbedLabels, scores: dict[str, Any], stack_offsets_env_steps: tuple[int, ...]) -> dict[str, Any]:
    """Which labels are angles and which velocities, and what the latter say."""
    return {
        "velocity_labels": [name for name in probed.names if VELOCITY_WORD in name],
        "velocity_control": velocity_control(scores, stack_offsets_env_steps),
        "angle_labels": {angle: list(parts) for angle, parts in probed.angles.items()},
        "stack_offsets_env_steps": list(stack_offsets_env_steps),
    }


@dataclass(frozen=True, kw_only=True)
class EncodedClips:
    """Clips without their frames."""

    latents: list[np.ndarray]
    """float32 [E, T, D], by each of several models."""
    labels: np.ndarray
    """float32 [E, T, s]."""
    blocks: Tensor
    """float32 [E, T-1, A]."""
    episodes: np.ndarray
    """int64 [E]."""
    pixels: np.ndarray | None = None
    """float32 [E, T, cells]: the frames averaged down, if they were asked for."""


def _probed(probed: ProbedLabels, clips: EncodedClips) -> EncodedClips:
    """The clips with the labels that are probed."""
    return dataclasses.replace(clips, labels=probed.read(clips.labels, clips.episodes))


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A probe, the clips of training episodes that it was fitted on and the held-out ones that it is judged on."""

    probe: LinearProbe
    fit: EncodedClips
    heldout: EncodedClips
    names: Sequence[str]
    """Of the labels."""

    @classmethod
    def of(cls, fit: EncodedClips, heldout: EncodedClips, names: Sequence[str]) -> "_Judged":
        """With a probe fitted on the clips; ``DataError`` if no label varies there."""
        probe = fit_probe(_rows(fit.latents[0]), _rows(fit.labels))
        if probe.is_constant.all():
            raise DataError(f"none of the labels {', '.join(names)} varies in the training episodes: there is nothing to probe")
        return cls(probe=probe, fit=fit, heldout=heldout, names=names)

    def scores(self, read: np.ndarray) -> dict[str, Any]:
        """Of labels [n, s] that were read off the held-out frames in some way, with intervals."""
        labels, episodes = _rows(self.heldout.labels), np.repeat(self.heldout.episodes, self.heldout.labels.shape[1])
        scores = _scores(self.probe, read, labels, self.names)
        return scores | {"labels": add_intervals(scores["labels"], read, labels, episodes, self.names)}


def _comparisons(judged: _Judged, seed: int) -> dict[str, Any]:
    """``mlp``, a small network in place of the probe, and the floors.

    These are the mean label, an encoder that was never trained, whose latents are the second ones of the clips, and as many principal components of
    the pixels.
    """
    fit, heldout = judged.fit, judged.heldout
    fit_labels = _rows(fit.labels)
    network = fit_mlp_probe(_rows(fit.latents[0]), fit_labels, seed=seed)
    untrained_probe = fit_probe(_rows(fit.latents[1]), fit_labels)
    return {
        "mlp": judged.scores(network.read(_rows(heldout.latents[0]))),
        "floors": {
            "mean": judged.scores(np.broadcast_to(judged.probe.label_mean, _rows(heldout.labels).shape)),
            "untrained": judged.scores(untrained_probe.read(_rows(heldout.latents[1]))),
            "pixel components": judged.scores(_read_pixels(fit, heldout, fit.latents[0].shape[-1])),
        },
    }


def _read_pixels(fit: EncodedClips, heldout: EncodedClips, count: int) -> np.ndarray:
    """What a linear probe reads off as many principal components of raw pixels as latents have dimensions."""
    assert fit.pixels is not None
    assert heldout.pixels is not None
    mean, components = principal_components(_rows(fit.pixels), count)
    probe = fit_probe((_rows(fit.pixels) - mean) @ components, _rows(fit.labels))
    return probe.read((_rows(heldout.pixels) - mean) @ components)


def _score_ceiling(judged: _Judged, reference: SupervisedRegression, heldout: EncodedClips, num_steps: int) -> dict[str, Any]:
    """Of the same networks trained on the labels; ``heldout`` are the held-out clips as those encode them."""
    about = {"num_steps": num_steps, "kept_step": reference.kept_step, "is_still_falling": reference.is_still_falling}
    return judged.scores(_rows(reference.read(heldout.latents[0]))) | about


def _score_imagined(model: WorldModel, judged: _Judged, context: int) -> list[dict[str, Any]]:
    """One entry per model step ahead; ``copy_position_error`` and ``copy_angle_error`` are those of staying where the context ends."""
    probe, heldout, names = judged.probe, judged.heldout, judged.names
    imagined = probe.read(_imagine(model, heldout, context))  # E T s
    start = probe.read(heldout.latents[0][:, context - 1])
    entries = []
    for step in range(imagined.shape[1]):
        truth = heldout.labels[:, context + step]
        scores = _scores(probe, imagined[:, step], truth, names)
        steps = {"model_steps": step + 1, "env_steps": (step + 1) * model.action_block}
        copies = {"copy_position_error": position_error(start, truth, names), "copy_angle_error": angle_error(start, truth, names)}
        entries.append(steps | scores | copies)
    return entries


def _scores(probe: LinearProbe, read: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    return {
        "labels": score_labels(probe, read, labels, names),
        "position_error": position_error(read, labels, names),
        "angle_error": angle_error(read, labels, names),
    }


@torch.no_grad()
def encode_clips(
    models: Sequence[WorldModel],
    store: Store,
    episode_ids: np.ndarray,
    *,
    num_clips: int,
    num_transitions: int,
    seed: int,
    is_still: bool = False,
    with_pixels: bool = False,
) -> EncodedClips:
    """Encode ``num_clips`` clips of the episodes; frames are dropped batch by batch.

    ``is_still`` repeats each frame over the stack, as goals are shown, instead of stacking the frames before it.
    """
    model = models[0]
    offsets = model.observation_spec.stack_offsets_env_steps
    device, size = next(model.parameters()).device, min(CLIPS_PER_BATCH, num_clips)
    sampler = ClipSampler(
        store,
        num_transitions=num_transitions,
        action_block=model.action_block,
        stack_offsets_env_steps=(0,) if is_still else offsets,
        episode_ids=episode_ids,
        batch_size=size,
        seed=seed,
    )
    latents: list[list[np.ndarray]] = [[] for _ in models]
    labels, blocks, episodes, pixels = [], [], [], []
    num_clips = min(num_clips, sampler.num_windows)  # no window twice
    for k in range(-(-num_clips // size)):
        clip = sampler.batch(k).map(torch.from_numpy)
        if clip.labels is None:
            raise DataError(NO_LABELS)
        observations = clip.observations.map(lambda array: array.to(device))
        if is_still:
            observations = dataclasses.replace(observations, frames=observations.frames.repeat_interleave(len(offsets), dim=-4))
        for encoded, each in zip(latents, models, strict=True):
            encoded.append(each.encode(observations).float().cpu().numpy())
        labels.append(clip.labels.numpy())
        blocks.append(clip.blocks)
        episodes.append(clip.episode.numpy().copy())
        if with_pixels:
            pixels.append(pixel_cells(clip.observations.frames))
    return EncodedClips(
        latents=[np.concatenate(encoded)[:num_clips] for encoded in latents],
        labels=np.concatenate(labels)[:num_clips],
        blocks=torch.cat(blocks)[:num_clips],
        episodes=np.concatenate(episodes)[:num_clips],
        pixels=np.concatenate(pixels)[:num_clips] if with_pixels else None,
    )


@torch.no_grad()
def _imagine(model: WorldModel, heldout: EncodedClips, context: int) -> np.ndarray:
    """float32 [E, T, D]: what the model expects after the context, given the actions that were taken."""
    device = next(model.parameters()).device
    imagined = []
    for first in range(0, len(heldout.blocks), CLIPS_PER_BATCH):
        rows = slice(first, first + CLIPS_PER_BATCH)
        blocks = heldout.blocks[rows].to(device)
        start = torch.from_numpy(heldout.latents[0][rows, :context]).to(device)
        rollout = model.rollout(start, blocks[:, : context - 1], blocks[:, None, context - 1 :])  # E 1 T D
        imagined.append(rollout[:, 0].float().cpu().numpy())
    return np.concatenate(imagined)


def _rows(values: np.ndarray) -> np.ndarray:
    """[E, T, ...] -> [E * T, ...]."""
    return values.reshape(-1, values.shape[-1])


def _angle_quantiles(errors: np.ndarray) -> dict[str, float]:
    median, p90 = np.quantile(errors, [0.5, 0.9])
    return {"median_rad": float(median), "p90_rad": float(p90)}


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation; 0 where one of the two does not vary."""
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm > 1e-12 else 0.0
