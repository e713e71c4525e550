"""What corrupted frames do to latents, on any dataset: how well labels are still read, and how far and among which neighbours the latents end up.

Axes: n frame, D latent, s label, E clip, T model step, V view (cameras x stacked frames), Y X image.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lewm.config import Config
from lewm.data.clips import ClipSampler
from lewm.data.formats.store import Store
from lewm.errors import DataError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.corruptions import corrupt
from lewm.evaluation.probe_labels import VELOCITY_WORD
from lewm.evaluation.probe_parts import add_intervals
from lewm.evaluation.probing import LinearProbe, encode_clips, fit_probe, score_labels
from lewm.models.world_model import WorldModel
from lewm.schema import Clip

NUM_FIT_CLIPS, NUM_SCORE_CLIPS, CLIPS_PER_BATCH = 4096, 512, 64
NUM_NEIGHBOURS = 10
MIN_FRAMES = NUM_NEIGHBOURS + 2


def probe_corruptions(
    model: WorldModel,
    store: Store,
    *,
    config: Config,
    corruptions: Sequence[str],
    severities: Sequence[float],
    num_clips: int = NUM_SCORE_CLIPS,
    seed: int = 0,
) -> dict[str, Any]:
    """The latents of held-out frames under every corruption and severity, beside those of the same frames as they are; JSON-ready.

    ``labels``: R^2 of a linear probe that was fitted on clean latents of training episodes. ``displacement``: root mean square distance from the
    clean latent, in units of the spread of clean latents (two frames that have nothing to do with each other: 1.41). ``neighbour_agreement``: share
    of the ten nearest clean latents that stay the same. Without labels in the dataset the first is None, and ``missing`` says so. ``DataError`` for
    a dataset that is too small.
    """
    train_ids, heldout_ids = heldout_episodes(store, config)
    names = tuple(store.label_names)
    sampler = _sampler(model, store, heldout_ids, num_clips, seed)
    clean, labels, episodes = _encode(model, sampler, num_clips, None)
    if len(clean) < MIN_FRAMES:
        raise DataError(
            f"held-out episodes of {str(store.path)!r} gave {len(clean)} frames; {MIN_FRAMES} are needed to compare neighbours: record more"
        )
    probe = _fit(model, store, train_ids, seed) if names else None

    def scored(latents: np.ndarray) -> dict[str, Any]:
        looks = {"displacement": displacement(clean, latents), "neighbour_agreement": neighbour_agreement(clean, latents)}
        return looks | (_read_labels(probe, latents, labels, episodes, names) if probe is not None else {"labels": None, "mean_r2": None})

    conditions = []
    for name in corruptions:
        for severity in severities:
            conditions.append({"name": name, "severity": float(severity), **scored(_encode(model, sampler, num_clips, (name, severity))[0])})
    return {
        "clean": scored(clean),
        "conditions": conditions,
        "chance_neighbour_agreement": NUM_NEIGHBOURS / (len(clean) - 1),
        "num_heldout_frames": len(clean),
        "num_heldout_episodes": len(np.unique(episodes)),
        "num_fit_episodes": len(train_ids),
        "num_neighbours": NUM_NEIGHBOURS,
        "seed": seed,
        "missing": None if names else "the dataset has no labels: R^2 is not known, only how far latents move",
    }


def displacement(clean: np.ndarray, latents: np.ndarray) -> float:
    """Root mean square distance between latents [n, D] and the clean ones of the same frames, over the clean ones' spread; 0 for no change.

    The spread is the root of the summed variances. Latents that are all at one point have none: the distance is then 1 if anything moved.
    """
    clean, latents = clean.astype(np.float64), latents.astype(np.float64)
    moved, spread = np.square(latents - clean).sum(-1).mean(), clean.var(0).sum()
    return float(np.sqrt(moved / spread)) if spread > 0 else float(moved > 0)


def neighbour_agreement(clean: np.ndarray, latents: np.ndarray, *, count: int = NUM_NEIGHBOURS) -> float:
    """Share of each latent's ``count`` nearest clean latents of other frames that are also those of its own clean latent; 0..1.

    Both are [n, D], of the same frames in the same order.
    """
    references = torch.from_numpy(clean).double()
    nearest = []
    for queries in (references, torch.from_numpy(latents).double()):
        distances = torch.cdist(queries, references)
        distances.fill_diagonal_(torch.inf)
        nearest.append(distances.topk(count, largest=False).indices)
    return float((nearest[0][:, :, None] == nearest[1][:, None, :]).any(-1).double().mean())


def _fit(model: WorldModel, store: Store, train_ids: np.ndarray, seed: int) -> LinearProbe:
    fit = encode_clips([model.eval()], store, train_ids, num_clips=NUM_FIT_CLIPS, num_transitions=1, seed=seed)
    latents = fit.latents[0]
    return fit_probe(latents.reshape(-1, latents.shape[-1]), fit.labels.reshape(-1, fit.labels.shape[-1]))


def _read_labels(probe: LinearProbe, latents: np.ndarray, labels: np.ndarray, episodes: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Scores per label, and the mean R^2 of those that one frame can show and that vary."""
    read = probe.read(latents)
    scores = add_intervals(score_labels(probe, read, labels, names), read, labels, episodes, names)
    known = [score["r2"] for name, score in scores.items() if not isinstance(score, str) and VELOCITY_WORD not in name]
    return {"labels": scores, "mean_r2": float(np.mean(known)) if known else None}


def _sampler(model: WorldModel, store: Store, episode_ids: np.ndarray, num_clips: int, seed: int) -> ClipSampler:
    return ClipSampler(
        store,
        num_transitions=1,
        action_block=model.action_block,
        stack_offsets_env_steps=model.observation_spec.stack_offsets_env_steps,
        episode_ids=episode_ids,
        batch_size=min(CLIPS_PER_BATCH, num_clips),
        seed=seed,
    )


@torch.no_grad()
def _encode(
    model: WorldModel, sampler: ClipSampler, num_clips: int, corruption: tuple[str, float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents [n, D], labels [n, s] (s = 0 without any) and episode ids int64 [n] of the first frames of clips, corrupted if asked for."""
    device = next(model.eval().parameters()).device
    latents, labels, episodes = [], [], []
    for clip in _clips(sampler, min(num_clips, sampler.num_windows)):
        observations = clip.observations[:, 0]  # [E, T+1, ...] -> [E, ...]
        if corruption is not None:
            observations = dataclasses.replace(observations, frames=_corrupted_frames(model, clip, *corruption))
        latents.append(model.encode(observations.map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device))).float().cpu().numpy())
        labels.append(np.empty((len(clip.episode), 0)) if clip.labels is None else clip.labels[:, 0])
        episodes.append(clip.episode)
    return tuple(np.concatenate(parts) for parts in (latents, labels, episodes))  # type: ignore[return-value]  # three of them


def _clips(sampler: ClipSampler, num_clips: int) -> Iterator[Clip[np.ndarray]]:
    """``num_clips`` clips in batches, none of them twice."""
    size = sampler.rank_batch_size
    for k in range(-(-num_clips // size)):
        rows = slice(0, num_clips - k * size)
        clip = sampler.batch(k)
        yield Clip(
            clip.observations[rows],
            clip.blocks[rows],
            None,
            None if clip.labels is None else clip.labels[rows],
            clip.episode[rows],
            clip.start_env_step[rows],
        )


def _corrupted_frames(model: WorldModel, clip: Clip[np.ndarray], name: str, severity: float) -> np.ndarray:
    """uint8 [E, V, Y, X, 3]: the first frames of clips; a stacked frame is damaged as it was at its own env step."""
    spec = model.observation_spec
    frames = clip.observations.frames[:, 0]
    stacks = frames.reshape(len(frames), len(spec.cameras), len(spec.stack_offsets_env_steps), *frames.shape[2:]).copy()
    for row, (episode, start) in enumerate(zip(clip.episode.tolist(), clip.start_env_step.tolist(), strict=True)):
        for place, offset in enumerate(spec.stack_offsets_env_steps):
            stacks[row, :, place] = corrupt(name, stacks[row, :, place], severity, seed=episode, frame_index=max(start + offset, 0))
    return stacks.reshape(frames.shape)
