"""Decisions of the data with goals: which frames of the same or another episode a decision is labelled with.

Axes: B decision, n observation, S stacked frame, V view (cameras x stacked frames), Y X image, P proprioception, A action block.
A decision is a block of env steps. Goals ahead lie whole decisions later, so that one is reached exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from lewm.data.formats.store import Store
from lewm.data.windows import WindowIndex, Windows, shuffled
from lewm.errors import DataError
from lewm.schema import Observation
from lewm.seeds import hash64

ArrayT = TypeVar("ArrayT")
OtherT = TypeVar("OtherT")
CURRENT, RANDOM = 0, -1
"""Instead of a number of decisions ahead: the observation itself, and one of any episode."""
NUM_DRAWS = 4
"""Random numbers for one goal: how far ahead, whether random, whether current, and which random one."""


@dataclass(frozen=True, kw_only=True)
class GoalMixture:
    """Where the goals of decisions come from, as OGBench has it (Park et al., arXiv 2410.20092): shares add up to 1 with those that lie ahead."""

    current: float = 0.0
    random: float = 0.0
    geometric_discount: float | None = None
    """Of one decision: goals ahead are that geometric; None: uniform."""
    max_ahead: int | None = None
    """How many decisions ahead at most; None: up to the end of the episode."""

    def choose(self, draws: np.ndarray, remaining: np.ndarray) -> np.ndarray:
        """Decisions ahead, int64 [B], or ``CURRENT`` or ``RANDOM``, from uniform numbers [B, 3] and how many decisions remain [B] (at least 1).

        A geometric goal that would lie beyond the last possible one is that one.
        """
        last = remaining if self.max_ahead is None else np.minimum(remaining, self.max_ahead)
        if self.geometric_discount is None:
            ahead = 1 + np.floor(draws[:, 0] * last)
        elif self.geometric_discount == 0:
            ahead = np.ones(len(last))
        else:
            ahead = 1 + np.floor(np.log1p(-draws[:, 0]) / np.log(self.geometric_discount))
        chosen: np.ndarray = np.minimum(ahead, last).astype(np.int64)
        chosen[draws[:, 1] < self.random / (1 - self.current)] = RANDOM
        chosen[draws[:, 2] < self.current] = CURRENT
        return chosen


@dataclass(frozen=True, kw_only=True)
class GoalBatch(Generic[ArrayT]):
    """Decisions of the data with goals."""

    observations: Observation[ArrayT]
    """frames uint8 [B, V, Y, X, 3]."""
    blocks: ArrayT
    """float32 [B, A], what was done, in env units (discrete: one-hot per env step)."""
    goals: Observation[ArrayT]
    """What the policy is to reach: a frame alone, repeated where frames are stacked, as a goal is given to an agent."""
    next_observations: Observation[ArrayT] | None = None
    """One decision later; None where nothing needs them."""
    value_goals: Observation[ArrayT] | None = None
    """Goals for the value; None where there is no value."""
    is_reached: ArrayT | None = None
    """bool [B]: whether the observation is the value's goal."""

    def map(self, function: Callable[[ArrayT], OtherT]) -> "GoalBatch[OtherT]":
        """The batch with ``function`` applied to each array that is there."""
        return GoalBatch(
            observations=self.observations.map(function),
            blocks=function(self.blocks),
            goals=self.goals.map(function),
            next_observations=None if self.next_observations is None else self.next_observations.map(function),
            value_goals=None if self.value_goals is None else self.value_goals.map(function),
            is_reached=None if self.is_reached is None else function(self.is_reached),
        )


class GoalSampler:
    """Batches of decisions with goals from some episodes: batch k is a pure function of (seed, k), decision by decision.

    With ``value_goals`` the batches also hold next observations and goals for a value. Only the frames that a batch shows are read. ``DataError``
    for data without actions, or whose episodes have no whole decision.
    """

    def __init__(
        self,
        store: Store,
        *,
        episode_ids: np.ndarray,
        action_block: int,
        stack_offsets_env_steps: tuple[int, ...],
        batch_size: int,
        seed: int,
        goals: GoalMixture,
        value_goals: GoalMixture | None = None,
    ) -> None:
        if store.action_spec.kind == "none":
            raise DataError(f"dataset {str(store.path)!r} has no actions, and a policy learns what was done: use data with actions")
        index = store.index[np.asarray(episode_ids, dtype=np.int64)]
        longest = int(index["length"].max(initial=0))
        if longest < action_block:
            raise DataError(
                f"no training episode of {str(store.path)!r} has a whole decision: the longest has {longest} env steps and a decision takes "
                f"{action_block}; give a smaller action block, or collect longer episodes"
            )
        self._store, self._windows = store, WindowIndex(index, action_block)
        self._action_block, self._offsets = action_block, np.array(stack_offsets_env_steps)
        self._batch_size, self._seed = batch_size, seed
        self._goals, self._value_goals = goals, value_goals

    def batch(self, k: int) -> GoalBatch[np.ndarray]:
        """Batch ``k``, in new arrays."""
        positions = k * self._batch_size + np.arange(self._batch_size)
        now = self._windows.locate(shuffled(positions, self._windows.num_windows, self._seed))
        goals = self._goal_steps(now, positions, self._goals, stream=0)
        parts = [self._looks(now, 0), goals]
        is_reached = None
        if self._value_goals is not None:
            value_goals = self._goal_steps(now, positions, self._value_goals, stream=1)
            parts += [self._looks(now, self._action_block), value_goals]
            same_episode = value_goals[0] == now.episode
            is_reached = same_episode & (value_goals[1][:, -1] == now.start_env_step)
        found = self._observations(parts)
        return GoalBatch(
            observations=found[0],
            blocks=self._blocks(now),
            goals=found[1],
            next_observations=found[2] if is_reached is not None else None,
            value_goals=found[3] if is_reached is not None else None,
            is_reached=is_reached,
        )

    def _looks(self, now: Windows, later_env_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Episodes [n] and env steps [n, S] of observations; a stacked frame from before an episode's start is its first."""
        return now.episode, np.maximum((now.start_env_step + later_env_steps)[:, None] + self._offsets, 0)

    def _goal_steps(self, now: Windows, positions: np.ndarray, mixture: GoalMixture, *, stream: int) -> tuple[np.ndarray, np.ndarray]:
        """Episodes [B] and env steps [B, S] of goals, the same frame S times."""
        numbers = (positions[:, None] * 2 + stream) * NUM_DRAWS + np.arange(NUM_DRAWS)
        draws = hash64(numbers, hash64(np.array(self._seed), 1))
        uniform = (draws >> np.uint64(11)) * 2.0**-53
        length = self._store.index["length"][now.episode]
        ahead = mixture.choose(uniform[:, :3], (length - now.start_env_step) // self._action_block)
        other = self._windows.locate((draws[:, 3] % np.uint64(self._windows.num_windows)).astype(np.int64))
        is_random = ahead == RANDOM
        episode = np.where(is_random, other.episode, now.episode)
        env_step = np.where(is_random, other.start_env_step, now.start_env_step + ahead * self._action_block)
        return episode, np.repeat(env_step[:, None], len(self._offsets), axis=1)

    def _observations(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> list[Observation[np.ndarray]]:
        """The observations of all parts, read together: each frame is decoded once."""
        episode, env_steps = (np.concatenate([part[which] for part in parts]) for which in (0, 1))
        spec = self._store.observation_spec
        views = [self._read(f"frames.{camera}", episode, env_steps) for camera in spec.cameras]  # n S Y X 3 each
        frames = np.stack(views, axis=1).reshape(len(episode), -1, *views[0].shape[2:])  # n cameras S Y X 3 -> n V Y X 3
        proprioception = self._read("proprioception", episode, env_steps[:, -1:])[:, 0] if spec.proprioception else None
        whole = Observation(frames, proprioception)
        ends = np.cumsum([len(part[0]) for part in parts]).tolist()
        return [whole[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _blocks(self, now: Windows) -> np.ndarray:
        actions = self._read("actions", now.episode, now.start_env_step[:, None] + np.arange(self._action_block))
        return self._store.action_spec.as_blocks(actions, self._action_block)[:, 0]  # B 1 A -> B A

    def _read(self, name: str, episode: np.ndarray, env_steps: np.ndarray) -> np.ndarray:
        """Rows [n, S, ...] of a column."""
        index = self._store.index
        shards, rows = index["shard"][episode], index["offset"][episode][:, None] + env_steps
        out: Any = None
        for shard in np.unique(shards):
            is_here = shards == shard
            found = self._store.columns(name, [int(shard)])[0].take(rows[is_here], axis=0)
            out = np.empty((*env_steps.shape, *found.shape[2:]), found.dtype) if out is None else out
            out[is_here] = found
        return np.asarray(out)
