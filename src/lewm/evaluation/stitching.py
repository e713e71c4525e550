"""Pairs whose start and goal come from different episodes: no episode leads from one to the other, so pieces of ways must be stitched together.

Axes: n candidate, N env step, E episode, s label.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from lewm.envs.base import GoalEnvBatch, make_batch
from lewm.errors import ConfigError
from lewm.evaluation.sources import EpisodeSource, record_labels

NUM_CANDIDATES = 64
"""How many random starts and goals of two episodes are looked at before the next two."""


@runtime_checkable
class KnowsWays(Protocol):
    """A world that knows how far it is from one state to another."""

    def shortest_env_steps(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: env steps that the shortest way takes at full speed, for labels [n, s]; infinite where there is none."""


@dataclass(frozen=True)
class Stitch:
    """A start of one episode and a goal of another."""

    start_env_step: int
    goal_env_step: int
    stratum: int
    shortest_env_steps: float


def check_ways(env: str, envs: GoalEnvBatch) -> None:
    """``ConfigError`` unless the world knows its ways; starts episodes."""
    if isinstance(envs, KnowsWays):
        envs.reset(range(envs.num_envs))
        envs.shortest_env_steps(envs.labels()[:1], envs.labels()[:1])
    else:
        raise ConfigError(f"env {env!r} does not know its shortest ways, so it has no stitched pairs; ogbench/pointmaze-* have")


def stitches(
    source: EpisodeSource, ends: Sequence[tuple[int, int]], distances: Sequence[int], draw_seeds: Sequence[int]
) -> dict[int, list[list[Stitch]]]:
    """For each distance D, and each (seed of the start's episode, seed of the goal's) of ``ends``: pairs that are D away, in random order.

    That is, the shortest way takes more than D / 2 and at most D env steps. Row e depends on its two seeds and its draw seed only.
    """
    seeds = [seed for pair in ends for seed in pair]
    with closing(make_batch(source.env, len(seeds), **source.env_options)) as envs:
        assert isinstance(envs, KnowsWays)
        labels, lasts = record_labels(source, envs, seeds)
        found: dict[int, list[list[Stitch]]] = {distance: [] for distance in distances}
        for row, draw_seed in enumerate(draw_seeds):
            generator = np.random.default_rng(draw_seed)
            steps = [generator.integers(0, lasts[column] + 1, NUM_CANDIDATES) for column in (2 * row, 2 * row + 1)]
            starts, goals = labels[steps[0], 2 * row], labels[steps[1], 2 * row + 1]
            strata, ways = envs.strata(starts, goals), envs.shortest_env_steps(starts, goals)
            for distance, rows in found.items():
                chosen = np.flatnonzero((strata >= 0) & (ways > distance / 2) & (ways <= distance)).tolist()
                rows.append([Stitch(int(steps[0][n]), int(steps[1][n]), int(strata[n]), float(ways[n])) for n in chosen])
        return found
