"""Between latents and true labels: what lets an oracle of one part work together with the model's other parts.

Axes: n sample, K kept sample, D latent, s label, F feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import Config
from lewm.data.formats.store import Store
from lewm.errors import DataError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.probing import LinearProbe, encode_clips, fit_probe
from lewm.models.world_model import WorldModel
from lewm.planning.base import LinearReadout

NUM_CLIPS = 4096
NUM_KEPT = 1024
"""Frames whose latents and labels are kept to read labels off other latents."""
ROWS_PER_BATCH = 8192
NUM_FEATURES = 384
SCALES = (0.1, 0.3, 1.0, 2.0, 4.0)
"""Frequencies that are tried, in inverse standard deviations of the labels."""
RIDGES = (1e-5, 1e-3, 1e-2, 1e-1)
"""Penalties that are tried, as shares of the number of samples: latents that labels hardly explain need a large one."""
HELD_OUT_SHARE = 4
"""One episode of so many decides frequency and penalty and is what ``explained`` is measured on."""


@dataclass(frozen=True, kw_only=True)
class LabelEmbedding:
    """The latent that a state of given labels should have: the mean latent of such states, by ridge regression on random Fourier features."""

    mean: np.ndarray
    std: np.ndarray
    frequencies: np.ndarray
    """float64 [s, F]."""
    phases: np.ndarray
    weights: np.ndarray
    """float64 [F + s + 1, D]."""
    explained: float
    """Share of the latents' variance that the labels explain, of a fit without them, in episodes that only frequency and penalty were chosen on."""

    def embed(self, labels: np.ndarray) -> np.ndarray:
        """float32 [n, D] of labels [n, s]."""
        return np.asarray(_features(labels, self.mean, self.std, self.frequencies, self.phases) @ self.weights, np.float32)


def fit_embedding(labels: np.ndarray, latents: np.ndarray, episodes: np.ndarray, *, seed: int = 0) -> LabelEmbedding:
    """Fitted on labels [n, s] and latents [n, D], with the frequency and the penalty that explain most of some held-out ones of ``episodes`` [n].

    Neighbouring frames are alike, so frames of the same episodes would flatter it. ``DataError`` if all samples are of one episode.
    """
    labels, latents = np.asarray(labels, np.float64), np.asarray(latents, np.float64)
    mean, std = labels.mean(0), labels.std(0)
    std = np.where(std > 1e-6 * np.maximum(1.0, np.abs(labels).max(0)), std, np.inf)  # a label that never varies says nothing
    generator = np.random.default_rng(seed)
    directions, phases = generator.standard_normal((labels.shape[1], NUM_FEATURES)), generator.uniform(0, 2 * np.pi, NUM_FEATURES)
    is_held_out = _held_out(episodes, generator)
    spread = max(latents[is_held_out].var(0).sum(), 1e-12)
    tried = []
    for scale in SCALES:
        features = _features(labels, mean, std, scale * directions, phases)
        for ridge, weights in zip(RIDGES, _ridge(features[~is_held_out], latents[~is_held_out], RIDGES), strict=True):
            tried.append((float(1 - np.square(features[is_held_out] @ weights - latents[is_held_out]).mean(0).sum() / spread), scale, ridge))
    explained, scale, ridge = max(tried, key=lambda one: one[0])
    (weights,) = _ridge(_features(labels, mean, std, scale * directions, phases), latents, [ridge])
    return LabelEmbedding(mean=mean, std=std, frequencies=scale * directions, phases=phases, weights=weights, explained=explained)


@dataclass(frozen=True, kw_only=True)
class LocalReadout:
    """Labels of the frame whose latent is nearest, and from there on by a linear probe, whose errors cancel where the two latents are near."""

    latents: Float[Tensor, "K D"]
    labels: Float[Tensor, "K s"]
    probe: LinearReadout

    def read(self, latents: Float[Tensor, "*E D"]) -> Float[Tensor, "*E s"]:
        """The labels, in their units."""
        known, labels = self.latents.to(latents), self.labels.to(latents)
        offsets = known.square().sum(1) / 2
        rows = latents.reshape(-1, latents.shape[-1])
        # The nearest is the one of the largest dot product less half of its square.
        nearest = torch.cat([torch.addmm(-offsets, part, known.T).argmax(1) for part in torch.split(rows, ROWS_PER_BATCH)])
        read = labels[nearest] + self.probe.read(rows) - self.probe.read(known)[nearest]
        return read.reshape(*latents.shape[:-1], -1)


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Between labels and latents, one way and the other."""

    embedding: LabelEmbedding
    real: LocalReadout
    """Labels off latents of frames, and off what is imagined from them."""
    embedded: LocalReadout
    """Labels off latents of the embedding, and off what is imagined from them."""

    def embed(self, labels: np.ndarray, device: torch.device) -> Tensor:
        """Latents [n, D] of labels [n, s]."""
        return torch.from_numpy(self.embedding.embed(labels)).to(device)


@dataclass(frozen=True, kw_only=True)
class Translator:
    """All maps between a model's latents and a world's labels, fitted on the training episodes of a dataset."""

    label_names: tuple[str, ...]
    label_mean: np.ndarray
    label_std: np.ndarray
    """float64 [s]; 1 for a label that never varied."""
    present: Maps
    """Of what is seen and imagined."""
    goals: Maps
    """Of what is shown as a goal: fitted on still stacks where frames are stacked, and elsewhere the same."""
    steps: tuple[Tensor, Tensor]
    """Latents [n, D] of frames as goals, and of those one model step later."""


def fit_translator(model: WorldModel, store: Store, config: Config, *, num_clips: int = NUM_CLIPS) -> Translator:
    """Fitted on frames of the training episodes, of which ``config`` says which they are.

    ``DataError`` for a dataset without labels, with labels that never vary, or with a single training episode.
    """
    if not store.label_names:
        raise DataError(
            f"dataset {str(store.path)!r} has no labels, and the oracles that parts are swapped for see the true ones: give data with labels"
        )
    train_ids, _ = heldout_episodes(store, config)
    # With the same seed the still clips are of the same frames.
    kinds = (False, True) if model.observation_spec.is_stacked else (False,)
    clips = [encode_clips([model], store, train_ids, num_clips=num_clips, num_transitions=1, seed=0, is_still=is_still) for is_still in kinds]
    labels = np.concatenate([clips[0].labels[:, 0], clips[0].labels[:, 1]]).astype(np.float64)
    latents = [np.concatenate([part.latents[0][:, 0], part.latents[0][:, 1]]) for part in clips]
    probes = [fit_probe(part, labels) for part in latents]
    if probes[0].is_constant.all():
        raise DataError(f"{', '.join(store.label_names)} never varied in dataset {str(store.path)!r}: nothing can be read off the latents")
    episodes = np.tile(clips[0].episodes, 2)
    maps = [_maps(part, labels, episodes, probe) for part, probe in zip(latents, probes, strict=True)]
    return Translator(
        label_names=tuple(store.label_names),
        label_mean=probes[0].label_mean,
        label_std=np.where(probes[0].is_constant, 1.0, probes[0].label_std),
        present=maps[0],
        goals=maps[-1],
        steps=(torch.from_numpy(clips[-1].latents[0][:, 0]), torch.from_numpy(clips[0].latents[0][:, 1])),
    )


def _maps(latents: np.ndarray, labels: np.ndarray, episodes: np.ndarray, probe: LinearProbe) -> Maps:
    """Between labels and latents of the same frames, of which the probe reads the labels off the latents."""
    embedding = fit_embedding(labels, latents, episodes)
    kept = np.linspace(0, len(labels) - 1, min(NUM_KEPT, len(labels))).astype(np.int64)
    ideal = embedding.embed(labels)
    return Maps(
        embedding=embedding,
        real=_local(latents[kept], labels[kept], probe),
        embedded=_local(ideal[kept], labels[kept], fit_probe(ideal, labels)),
    )


def _local(latents: np.ndarray, labels: np.ndarray, probe: LinearProbe) -> LocalReadout:
    weights = probe.weights * probe.label_std / probe.latent_std[:, None]
    bias = probe.label_mean - probe.latent_mean @ weights
    linear = LinearReadout(weights=torch.from_numpy(weights).float(), bias=torch.from_numpy(bias).float())
    return LocalReadout(latents=torch.from_numpy(latents).float(), labels=torch.from_numpy(labels).float(), probe=linear)


def _features(labels: np.ndarray, mean: np.ndarray, std: np.ndarray, frequencies: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """float64 [n, F + s + 1]: waves over the labels, the labels and a constant."""
    scaled = (np.asarray(labels, np.float64) - mean) / std
    return np.concatenate([np.cos(scaled @ frequencies + phases), scaled, np.ones((len(scaled), 1))], axis=1)


def _held_out(episodes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Which samples are of the episodes that are held out, bool [n]."""
    ids = np.unique(episodes)
    if len(ids) < 2:
        raise DataError("how much of the latents the labels explain is measured on held-out training episodes, and there is only one: collect more")
    return np.isin(episodes, generator.permutation(ids)[: max(1, len(ids) // HELD_OUT_SHARE)])


def _ridge(features: np.ndarray, targets: np.ndarray, ridges: Sequence[float]) -> list[np.ndarray]:
    """Weights [F + s + 1, D] for each of the penalties."""
    scales, directions = np.linalg.eigh(features.T @ features)
    projected = directions.T @ (features.T @ targets)
    return [directions @ (projected / (np.maximum(scales, 0) + ridge * len(features))[:, None]) for ridge in ridges]
