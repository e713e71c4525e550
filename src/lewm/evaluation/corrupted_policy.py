"""An agent whose camera is damaged: any policy, shown corrupted frames in place of the world's.

Axes: E episode, V view, Y X image, a action.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lewm.evaluation.corruptions import GOAL_FRAME, corrupt
from lewm.schema import Observation

if TYPE_CHECKING:  # importing it would import torch
    from lewm.planning.base import Policy


@dataclass(frozen=True, kw_only=True)
class CorruptedState:
    """The state of the policy within, and what the damage follows from; row e belongs to one episode."""

    inner: Any
    seeds: np.ndarray
    """int64 [E]."""
    env_steps: np.ndarray
    """int64 [E]: env steps acted so far."""

    @property
    def num_plans(self) -> Any:
        """Of the policy within; None where it does not count them."""
        return getattr(self.inner, "num_plans", None)


class CorruptedPolicy:
    """A policy that sees frames with one corruption, by (episode seed, env step); goals as well if ``are_goals_corrupted``."""

    def __init__(self, policy: "Policy", corruption: str, severity: float, *, are_goals_corrupted: bool) -> None:
        self._policy, self._corruption, self._severity = policy, corruption, severity
        self._are_goals_corrupted = are_goals_corrupted

    @property
    def device(self) -> Any:
        """Where the policy within is."""
        return getattr(self._policy, "device", "cpu")

    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> CorruptedState:
        """A state for new episodes: goals uint8 [E, V, Y, X, 3], one seed each."""
        rows, steps = np.asarray(seeds, np.int64), np.zeros(len(seeds), np.int64)
        shown = self._corrupted(goals, rows, steps + GOAL_FRAME) if self._are_goals_corrupted else goals
        return CorruptedState(inner=self._policy.reset(shown, seeds), seeds=rows, env_steps=steps)

    def needs_frame(self, state: CorruptedState) -> bool:
        """Whether the policy within looks."""
        return self._policy.needs_frame(state.inner)

    def act(self, observations: Observation[np.ndarray] | None, state: CorruptedState) -> tuple[np.ndarray, CorruptedState]:
        """Actions [E, a] of the policy within, and the next state."""
        shown = None if observations is None else self._corrupted(observations, state.seeds, state.env_steps)
        actions, inner = self._policy.act(shown, state.inner)
        return actions, replace(state, inner=inner, env_steps=state.env_steps + 1)

    def select(self, state: CorruptedState, episodes: np.ndarray) -> CorruptedState:
        """The state of some of the episodes: a mask [E] or indices."""
        return CorruptedState(inner=self._policy.select(state.inner, episodes), seeds=state.seeds[episodes], env_steps=state.env_steps[episodes])

    def _corrupted(self, observation: Observation[np.ndarray], seeds: np.ndarray, frame_indices: np.ndarray) -> Observation[np.ndarray]:
        rows = zip(observation.frames, seeds.tolist(), frame_indices.tolist(), strict=True)
        frames = [corrupt(self._corruption, frame, self._severity, seed=seed, frame_index=index) for frame, seed, index in rows]
        return Observation(np.stack(frames), observation.proprioception)
