"""The episodes that evaluation pairs are taken from: simulated once for their labels, and once more for the few states that were chosen.

A state can be large and slow to get (an emulator's is many kilobytes), a label is a few numbers, and an episode is a function of its seed. So nothing
keeps the states of whole episodes.

Axes: N env step, E episode, s label.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lewm.envs.base import GoalEnvBatch, ScriptedPolicy, make_batch
from lewm.evaluation.outcomes import scripted_policy

MAX_EPISODES_PER_STATE_BATCH = 64
"""Speed only: a batch gives the states of all its episodes at once, so a small one gives fewer that nobody asked for."""


@dataclass(frozen=True, kw_only=True)
class EpisodeSource:
    """A world and who acts in it: with a seed, everything that determines an episode."""

    env: str
    env_options: dict[str, Any]
    data_policy: str
    max_env_steps: int
    """An episode is over sooner where its world terminates it or has a time limit of its own."""
    policy_options: dict[str, Any] = field(default_factory=dict)


def strata_of_pairs(source: EpisodeSource, seeds: Sequence[int], distances: Sequence[int]) -> dict[int, np.ndarray]:
    """For each distance D the kind of every pair in one episode per seed, int64 [N+1-D, E]: row n starts at env step n.

    The kinds are those of the world's ``strata``, by number; -1 for a pair that must not be used or reaches beyond the end of its episode.
    """
    with closing(make_batch(source.env, len(seeds), **source.env_options)) as envs:
        labels, ends = record_labels(source, envs, seeds)
        return {distance: _strata(envs, labels, ends, distance) for distance in distances}


def states_at(source: EpisodeSource, wanted: Mapping[int, set[int]], *, is_at_rest: bool = False) -> dict[tuple[int, int], bytes]:
    """The states of episodes at some env steps (seed -> env steps), by (seed, env step); with every velocity zero if ``is_at_rest``."""
    states: dict[tuple[int, int], bytes] = {}
    seeds = list(wanted)
    for first in range(0, len(seeds), MAX_EPISODES_PER_STATE_BATCH):
        chunk = seeds[first : first + MAX_EPISODES_PER_STATE_BATCH]
        last = max(max(wanted[seed]) for seed in chunk)
        with closing(make_batch(source.env, len(chunk), **source.env_options)) as envs:
            policy = _start(source, envs, chunk)
            for step in range(last + 1):
                rows = [row for row, seed in enumerate(chunk) if step in wanted[seed]]
                if rows:
                    found = envs.at_rest(envs.get_states()) if is_at_rest else envs.get_states()
                    states |= {(chunk[row], step): found[row] for row in rows}
                if step < last:
                    envs.step(policy.act(envs))
    return states


def _start(source: EpisodeSource, envs: GoalEnvBatch, seeds: Sequence[int]) -> ScriptedPolicy:
    policy = scripted_policy(source.env, source.data_policy, **source.policy_options)
    envs.reset(seeds)
    policy.reset(envs, seeds, source.max_env_steps)
    return policy


def record_labels(source: EpisodeSource, envs: GoalEnvBatch, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N+1, E, s] until every episode is over, and the env step at which each was, int64 [E]."""
    policy = _start(source, envs, seeds)
    ends, is_over = np.full(len(seeds), source.max_env_steps), np.zeros(len(seeds), bool)
    labels = [envs.labels()]
    for step in range(source.max_env_steps):
        _, terminated = envs.step(policy.act(envs))
        labels.append(envs.labels())
        ends_now = (terminated | envs.is_truncated()) & ~is_over
        ends[ends_now] = step + 1
        is_over |= ends_now
        if is_over.all():
            break
    return np.stack(labels), ends


def _strata(envs: GoalEnvBatch, labels: np.ndarray, ends: np.ndarray, distance: int) -> np.ndarray:
    if len(labels) <= distance:
        return np.empty((0, len(ends)), np.int64)
    starts, goals = labels[:-distance], labels[distance:]
    flat = envs.strata(starts.reshape(-1, labels.shape[-1]), goals.reshape(-1, labels.shape[-1]))
    is_within = np.arange(len(starts))[:, None] + distance <= ends
    return np.where(is_within, np.asarray(flat).reshape(starts.shape[:2]), -1)
