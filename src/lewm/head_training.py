"""Training the heads that act: `lewm train --from RUN --stage inverse-goal|intent|distance`, on pairs of frozen latents at any distance.

Frames are encoded once, into a ``LatentCache``; the world model is only read, and imagines where a head learns from imagined latents.

Axes: B pair, N env step, T model step, D latent, A action block, a env action.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lewm.checkpoint import load_checkpoint
from lewm.config_files import to_toml
from lewm.data.latent_spans import FIRST_FREE_STREAM, Spans, SpanSampler
from lewm.data.latents import LatentCache
from lewm.errors import DataError
from lewm.evaluation.label_goals import matching_store
from lewm.evaluation.run_latents import run_latents, training_episodes
from lewm.head_config import DistanceConfig, IntentConfig, InverseGoalConfig, LatentHeadConfig
from lewm.head_fitting import fit_head, save_with_head
from lewm.models.action_heads import LatentHead
from lewm.models.heads import Head, build_head
from lewm.models.intent import Intent
from lewm.models.inverse_goal import InverseGoal
from lewm.models.temporal_distance import TemporalDistance
from lewm.models.world_model import WorldModel
from lewm.run_directory import MetricsLog, check_run, prepare_run
from lewm.training import Progress

NEGATIVE, OTHER_EPISODE, OTHER_STEP, IMAGINED, HORIZON, SPAN, CHUNK = range(FIRST_FREE_STREAM, FIRST_FREE_STREAM + 7)
"""Streams of random numbers."""
MOST_STATISTICS_ROWS = 100_000
"""The scale of the latents is taken from at most so many of them."""


def train_head(
    settings: LatentHeadConfig,
    *,
    base: Path | str,
    data: Path | str,
    out: Path | str,
    latents: Path | str | None = None,
    command: str = "",
    progress: Callable[[], Progress] | None = None,
    encoding: Callable[[int, int], None] | None = None,
) -> Path:
    """Train the head that the settings are of on the training episodes of ``data``; writes and returns the run ``out``.

    Other heads of the base are kept, an older one of that name replaced. The latents are kept below ``latents`` (default: ``latents/`` in the base's
    run) and used again by the next stage; ``encoding`` is told rows done and in all while they are computed. ``DataError`` if the frames are not of
    the kind that the base was trained on.
    """
    out = Path(out)
    check_run(out, resume=False)
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    checkpoint = load_checkpoint(base, settings.device)
    store = matching_store(checkpoint, data)
    if store.action_spec.kind != checkpoint.model.action_spec.kind:
        raise DataError(f"dataset {str(data)!r} has no actions, and the run has: give the data that it was trained on")
    torch.manual_seed(settings.seed)
    head = build_head(settings.NAME, settings, checkpoint.model)
    head.network.to(settings.device)
    cache = run_latents(checkpoint, store, None if latents is None else Path(latents), device=settings.device, progress=encoding)
    train_ids = training_episodes(checkpoint, store)
    set_statistics(cast(LatentHead, head.network), cache, train_ids)
    loss_at = LOSSES[settings.NAME](head, checkpoint.model, cache, train_ids)
    prepare_run(out, to_toml(checkpoint.config), resume=False)
    start_s = time.monotonic()
    fit_head(head, loss_at, MetricsLog(out, first_step=0), progress() if progress else None, describe=lambda loss: {"loss": loss})
    origin = {
        "dataset_sha256": store.dataset_sha256,
        "latents_sha256": cache.sha256,
        "num_training_episodes": len(train_ids),
        "episode_seeds": store.index["seed"].tolist(),
        "split_seed": checkpoint.config.data.split_seed,
        "seed": settings.seed,
        "command": command,
        "train_seconds": round(time.monotonic() - start_s, 1),
    }
    save_with_head(out, checkpoint, head, origin)
    return out


def set_statistics(network: LatentHead, cache: LatentCache, episode_ids: np.ndarray) -> None:
    """Scale by the latents of the training episodes, or of so many of them as are enough."""
    rows = cache.rows_of(episode_ids)
    rows = rows[:: -(-len(rows) // MOST_STATISTICS_ROWS)]
    latents = torch.from_numpy(cache.latents[rows].astype(np.float64))
    network.set_latent_statistics(latents.mean(0).float(), latents.std(0, correction=0).float())


def inverse_goal_loss(head: Head, model: WorldModel, cache: LatentCache, episode_ids: np.ndarray) -> Callable[[int], Tensor]:
    """The error of the first action between two latents 1 to ``most_env_steps`` apart."""
    network, settings = cast(InverseGoal, head.network), cast(InverseGoalConfig, head.settings)
    sampler = SpanSampler(cache, episode_ids, least_env_steps=1, batch_size=settings.batch_size, seed=settings.seed)

    def loss_at(step: int) -> Tensor:
        spans = sampler.draw(step, settings.most_env_steps)
        arrays = (
            sampler.latents(spans.episode, spans.start),
            sampler.goals(spans.episode, spans.start + spans.length),
            spans.length.astype(np.float32),
            sampler.actions(spans.episode, spans.start, 1)[:, 0],
        )
        return network.loss(*_on(settings.device, *arrays))

    return loss_at


def intent_loss(head: Head, model: WorldModel, cache: LatentCache, episode_ids: np.ndarray) -> Callable[[int], Tensor]:
    """The weighted surprise at the actions, given the change that they led to (local) and the change to a goal's latent.

    Where they led to is shown as a goal is, too: the head is never given anything else.
    """
    network, settings = cast(Intent, head.network), cast(IntentConfig, head.settings)
    block = model.action_block
    sampler = SpanSampler(cache, episode_ids, least_env_steps=1, batch_size=settings.batch_size, seed=settings.seed)
    goal_spans, chunks = np.array(settings.spans_env_steps), np.array(settings.chunks_env_steps or (block,))

    def likelihood(spans: Spans) -> Tensor:
        actions = sampler.actions(spans.episode, spans.start, block)
        previous = sampler.actions(spans.episode, spans.start - block, block)
        is_counted = np.arange(block) < spans.length[:, None]  # an action after the arrival says nothing about the way
        arrays = (sampler.latents(spans.episode, spans.start), sampler.goals(spans.episode, spans.start + spans.length))
        here, there, before, taken = _on(settings.device, *arrays, *(part.reshape(len(part), -1) for part in (previous, actions)))
        return network.negative_log_likelihood(network(here, there, before), taken, torch.from_numpy(is_counted).to(settings.device))

    def loss_at(step: int) -> Tensor:
        goal = sampler.draw(step, goal_spans[sampler.random(step, SPAN) % np.uint64(len(goal_spans))])
        loss = settings.goal_weight * likelihood(goal)
        if settings.local_weight == 0:
            return loss
        chunk = chunks[sampler.random(step, CHUNK) % np.uint64(len(chunks))]
        local = Spans(goal.episode, goal.start, np.minimum(chunk, cache.length[goal.episode] - goal.start))
        return loss + settings.local_weight * likelihood(local)

    return loss_at


def distance_loss(head: Head, model: WorldModel, cache: LatentCache, episode_ids: np.ndarray) -> Callable[[int], Tensor]:
    """The error of the distance from real and imagined latents to goals' ones, some of them of other episodes, as far away as any can be."""
    network, settings = cast(TemporalDistance, head.network), cast(DistanceConfig, head.settings)
    sampler = SpanSampler(cache, episode_ids, least_env_steps=0, batch_size=settings.batch_size, seed=settings.seed)

    def loss_at(step: int) -> Tensor:
        spans = sampler.draw(step, settings.most_env_steps)
        goal_episode, goal_step, env_steps = spans.episode.copy(), spans.start + spans.length, spans.length.astype(np.float32)
        others = episode_ids[sampler.random(step, OTHER_EPISODE) % np.uint64(len(episode_ids))]
        negative = (sampler.fraction(step, NEGATIVE) < settings.negative_fraction) & (others != spans.episode)
        goal_episode[negative] = others[negative]
        other_step = sampler.random(step, OTHER_STEP) % (cache.length[others] + 1).astype(np.uint64)
        goal_step[negative], env_steps[negative] = other_step.astype(np.int64)[negative], settings.most_env_steps
        here, goals, targets = _on(settings.device, sampler.latents(spans.episode, spans.start), sampler.goals(goal_episode, goal_step), env_steps)
        return network.loss(_partly_imagined(sampler, model, settings, spans, here, step), goals, targets)

    return loss_at


def _partly_imagined(sampler: SpanSampler, model: WorldModel, settings: DistanceConfig, spans: Spans, here: Tensor, step: int) -> Tensor:
    """The latents at the spans' starts [B, D], a share of them imagined from some model steps earlier, as far as their episodes allow."""
    model_steps = 1 + (sampler.random(step, HORIZON) % np.uint64(settings.imagined_model_steps)).astype(np.int64)
    model_steps = np.minimum(model_steps, spans.start // model.action_block)
    is_imagined = (sampler.fraction(step, IMAGINED) < settings.imagined_fraction) & (model_steps > 0)
    rows = np.flatnonzero(is_imagined)
    if len(rows) == 0:
        return here
    most = int(model_steps[rows].max())
    first = spans.start[rows] - model_steps[rows] * model.action_block
    actions = sampler.actions(spans.episode[rows], first, most * model.action_block)  # beyond the start they are imagined in vain
    context, blocks = _on(settings.device, sampler.latents(spans.episode[rows], first), actions.reshape(len(rows), most, -1))
    with torch.no_grad():
        imagined = model.rollout(context[:, None], blocks[:, :0], blocks[:, None])[:, 0]  # [r, T, D]
    last = torch.from_numpy(model_steps[rows] - 1).to(settings.device)
    mixed = here.clone()
    mixed[torch.from_numpy(rows).to(settings.device)] = imagined[torch.arange(len(rows), device=settings.device), last]
    return mixed


LOSSES: dict[str, Callable[[Head, WorldModel, LatentCache, np.ndarray], Callable[[int], Tensor]]] = {
    "inverse-goal": inverse_goal_loss,
    "intent": intent_loss,
    "distance": distance_loss,
}
"""What each head minimises: a function of the optimiser step."""


def _on(device: str, *arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]
