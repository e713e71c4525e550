"""What is to be recorded: the meta of a dataset before it exists, and its missing episodes cut into units of work.

Axes: E episode, N env step.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lewm.data.layout import DatasetMeta
from lewm.data.policies import policy_identity
from lewm.envs.base import GoalEnv, canonical_name, make_batch
from lewm.errors import ConfigError
from lewm.registry import ENVS
from lewm.seeds import episode_seed
from lewm.versions import versions

SEED_NAMESPACE = "training"
"""Evaluation has another, so that it never repeats a training episode."""
UNIT_TARGET_BYTES = 16 * 2**20
"""Small enough that little is lost with a worker, large enough that handing it over costs nothing."""
MAX_EPISODES_PER_UNIT = 64
MIN_UNITS_PER_WORKER = 4
"""So that workers end at about the same time."""


@dataclass(frozen=True)
class Unit:
    """Consecutive episodes of one shard, recorded together."""

    shard: int
    first_episode: int
    seeds: tuple[int, ...]

    def __str__(self) -> str:
        last = self.first_episode + len(self.seeds) - 1
        return f"episodes {self.first_episode} to {last} (seeds {', '.join(map(str, self.seeds))})"


def plan_dataset(
    env: str,
    *,
    policy: str | None = None,
    seed: int = 0,
    max_env_steps: int = 100,
    env_options: dict[str, Any] | None = None,
    policy_options: dict[str, Any] | None = None,
    command: str = "",
) -> DatasetMeta:
    """The meta of a dataset to be, from one episode's worth of the world; ``policy`` None is the world's own choice.

    ``UnknownNameError``, ``ConfigError`` or ``EnvError`` say what cannot be.
    """
    check_whole("max_env_steps", max_env_steps, 1)
    check_whole("seed", seed, 0)
    env_class: type[GoalEnv] = ENVS.load(env)
    identity = policy_identity(env, policy or env_class.DATA_POLICY, policy_options or {})
    with contextlib.closing(make_batch(env, 1, **(env_options or {}))) as envs:
        rendering_description = getattr(envs, "rendering_description", None)
        return DatasetMeta(
            observation_spec=envs.observation_spec,
            action_spec=envs.action_spec,
            label_names=tuple(envs.label_names),
            has_rewards=True,
            env={"name": canonical_name(env), "version": env_class.VERSION, "options": env_options or {}},
            policy=identity,
            collection={"seed": int(seed), "max_env_steps": int(max_env_steps)},
            provenance={
                "versions": versions(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": command,
                **({} if rendering_description is None else {"rendering": rendering_description()}),
            },
        ).with_shards_for(max_env_steps)


def check_whole(name: str, value: Any, low: int) -> None:
    """``ConfigError`` for a setting that is no whole number of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    if value < low:
        raise ConfigError(f"{name} must be at least {low}, got {value}")


def episodes_by_shard(meta: DatasetMeta, num_episodes: int) -> dict[int, int]:
    """Shard -> how many of the first ``num_episodes`` episodes it holds."""
    size = meta.episodes_per_shard
    return {shard: min(size, num_episodes - first) for shard, first in enumerate(range(0, num_episodes, size))}


def cut_into_units(meta: DatasetMeta, shards: Iterable[tuple[int, int]], *, workers: int, batch_size: int | None) -> list[Unit]:
    """Units for the shards (number, episodes), of ``batch_size`` episodes or as many as suit the frames and the number of workers."""
    shards = list(shards)
    episode_bytes = meta.row_bytes * (int(meta.collection["max_env_steps"]) + 1)
    limit = batch_size or min(MAX_EPISODES_PER_UNIT, max(1, UNIT_TARGET_BYTES // episode_bytes))
    if batch_size is None and workers > 1:
        limit = min(limit, max(1, sum(count for _, count in shards) // (workers * MIN_UNITS_PER_WORKER)))
    units = []
    for shard, num_episodes in shards:
        num_units = -(-num_episodes // limit)
        size = limit if batch_size is not None else -(-num_episodes // num_units)  # as equal as can be: worlds are kept for units of one size
        first = shard * meta.episodes_per_shard
        for start in range(first, first + num_episodes, size):
            numbers = range(start, min(start + size, first + num_episodes))
            units.append(Unit(shard, start, tuple(episode_seed(SEED_NAMESPACE, meta.collection["seed"], number) for number in numbers)))
    return units
