"""Optimiser steps of the laptop preset, data included, against the same model in straight-line form.

Axes: B batch, T model step, Y X image, A action block, D latent, M direction.
"""

import copy
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lewm.bench.clips import fill_page_cache
from lewm.bench.references import float_pixels, plain_lewm_loss
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, per_second, repeat, take_turns
from lewm.config import Config
from lewm.config_files import load_preset
from lewm.data.clips import ClipSampler, Prefetcher
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.models.world_model import IMAGENET_MEAN, IMAGENET_STD
from lewm.objectives.base import Objective
from lewm.objectives.sigreg import random_directions
from lewm.training import add_pixel_noise, build_objective

REFERENCE = "the same model and batches: clips cut one by one in the training thread, float32 pixels made by numpy, SIGReg as written"
MUST_MINUTES, AIM_MINUTES = 6, 4


def measure(options: BenchOptions) -> list[Row]:
    """Optimiser steps per second: batch, forward, backward, clipping, AdamW; without logging, monitor and checkpoints."""
    config = load_preset("laptop")
    num_episodes, num_steps, num_rounds = (4, 1, 2) if options.is_quick else (100, 15, 7)
    with tempfile.TemporaryDirectory(prefix="lewm-bench-") as folder:
        store = collect("two-room", Path(folder) / "data", episodes=num_episodes, max_env_steps=40 if options.is_quick else 100)
        fill_page_cache(store)
        sampler = ClipSampler(
            store,
            num_transitions=config.data.num_transitions,
            action_block=config.data.action_block,
            episode_ids=store.episode_ids,
            batch_size=config.train.batch_size,
            seed=config.train.seed,
        )
        objective, _ = build_objective(config, store, store.episode_ids)
        objective.to(options.device)
        plain = copy.deepcopy(objective)
        windows = [sampler.batch(step) for step in range(1 + num_steps * (1 + num_rounds))]
        places = [(clip.episode.tolist(), clip.start_env_step.tolist()) for clip in windows]
        reference_loss = _plain_losses(plain, config, store, places, options.device)
        del windows
        with Prefetcher(sampler, num_batches=config.data.num_prefetched_batches) as batches:
            losses = {"ours": _losses(objective, config, batches, options.device), "reference": reference_loss}
            steps = {"ours": _stepper(objective, config, losses["ours"]), "reference": _stepper(plain, config, losses["reference"])}
            first = {name: float(step()) for name, step in steps.items()}
            contenders = {name: Contender(repeat(step, num_steps), amount=num_steps) for name, step in steps.items()}
            seconds = take_turns(contenders, num_rounds=num_rounds, device=options.device)
    ours, is_held_to_targets = per_second(seconds["ours"]), not options.is_quick and options.device == "cpu"
    return [
        Row(
            case=f"laptop preset, B={config.train.batch_size}, {store.observation_spec.width_px} px",
            unit="steps/s",
            better="higher",
            ours=ours,
            reference=per_second(seconds["reference"]),
            reference_is=REFERENCE,
            target_of="ours",
            target_must=round(config.train.num_steps / (60 * MUST_MINUTES), 1) if is_held_to_targets else None,
            target_aim=round(config.train.num_steps / (60 * AIM_MINUTES), 1) if is_held_to_targets else None,
            max_difference=abs(first["ours"] - first["reference"]) / abs(first["reference"]),
            details={"preset_num_steps": config.train.num_steps, "preset_minutes": config.train.num_steps / ours.median / 60},
        )
    ]


def _losses(objective: Objective, config: Config, batches: Prefetcher, device: str) -> Iterator[Tensor]:
    """As in ``lewm.training``."""
    if config.train.use_compile:
        objective.compile()
    for step in itertools.count():
        clip = next(batches).map(lambda array: torch.from_numpy(array).to(device, non_blocking=True))
        loss, _ = objective(add_pixel_noise(clip, config.train.pixel_noise_std, config.train.seed, step), step)
        yield loss


def _plain_losses(
    objective: Objective, config: Config, store: EpisodeStore, windows: Sequence[tuple[list[int], list[int]]], device: str
) -> Iterator[Tensor]:
    """The same windows (episodes and their start env steps, per batch) and directions as ours, in straight-line form."""
    span, block = config.data.num_transitions * config.data.action_block, config.data.action_block
    model = objective.world_model
    for step, (episodes, starts) in enumerate(windows):
        frames, blocks = [], []
        for episode, start in zip(episodes, starts, strict=True):
            row = store.index[episode]
            first, shard = int(row["offset"]) + start, int(row["shard"])
            frames.append(np.array(store.columns("frames.top", [shard])[0][first : first + span + 1 : block]))
            actions = np.array(store.columns("actions", [shard])[0][first : first + span])
            blocks.append(actions.reshape(config.data.num_transitions, -1))
        pixels = float_pixels(np.stack(frames), IMAGENET_MEAN, IMAGENET_STD).to(device, non_blocking=True)
        acted = torch.from_numpy(np.stack(blocks)).to(device, non_blocking=True)
        directions = random_directions(model.latent_dimension, config.objective.num_directions, seed=config.train.seed, step=step, device=device)
        yield plain_lewm_loss(model, pixels, acted, directions, config.objective.weight)


def _stepper(objective: Objective, config: Config, losses: Iterator[Tensor]) -> Callable[[], Tensor]:
    """One optimiser step per call; returns the loss, which on a GPU nobody has waited for."""
    optimizer = torch.optim.AdamW(objective.parameters(), lr=config.train.learning_rate, weight_decay=config.train.weight_decay)

    def step() -> Tensor:
        loss = next(losses)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(objective.parameters(), config.train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step
