"""A policy that reaches goals without a model: what the tests of evaluation try out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lewm.schema import Observation

SPEED_PX = 5.0
FRAME_PX = 32


@dataclass(frozen=True)
class SeekerState:
    """Where the red dot should be, [E, 2] px of the arena, and the actions to repeat until the next look."""

    goals: np.ndarray
    actions: np.ndarray
    env_step: int
    num_plans: np.ndarray


class Seeker:
    """Goes straight for where the goal frame shows the red dot, by frames alone: solves rooms, not doors. Looks every ``block`` env steps."""

    def __init__(self, block: int = 2) -> None:
        self.block = block
        self.batch_sizes: list[int] = []

    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> SeekerState:
        return SeekerState(dot_px(goals.frames), np.zeros((len(seeds), 2), np.float32), 0, np.zeros(len(seeds), np.int64))

    def needs_frame(self, state: SeekerState) -> bool:
        return state.env_step % self.block == 0

    def act(self, observations: Observation[np.ndarray] | None, state: SeekerState) -> tuple[np.ndarray, SeekerState]:
        if self.needs_frame(state):
            assert observations is not None
            self.batch_sizes.append(len(observations.frames))
            way = (state.goals - dot_px(observations.frames)) / (SPEED_PX * self.block)
            state = replace(state, actions=np.clip(way, -1, 1).astype(np.float32), num_plans=state.num_plans + 1)
        return state.actions, replace(state, env_step=state.env_step + 1)

    def select(self, state: SeekerState, episodes: np.ndarray) -> SeekerState:
        return replace(state, goals=state.goals[episodes], actions=state.actions[episodes], num_plans=state.num_plans[episodes])


def dot_px(frames: np.ndarray) -> np.ndarray:
    """float64 [E, 2]: x and y of the red dot in frames uint8 [E, 1, Y, X, 3], px of the 224 px arena."""
    redness = np.clip(frames[:, 0, :, :, 0].astype(float) - frames[:, 0, :, :, 1], 0, None)
    total = redness.sum((1, 2))
    centres = (np.arange(redness.shape[1]) + 0.5) * 224 / redness.shape[1]
    return np.stack([(redness.sum(1) * centres).sum(1) / total, (redness.sum(2) * centres).sum(1) / total], -1)
