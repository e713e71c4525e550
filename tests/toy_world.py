"""A little world that has everything two-room lacks: two cameras, proprioception, discrete actions and episodes that end by themselves.

A dot walks along a line of 16 places and the episode ends at the last one. The frames spell out the truth, so that a test can read them:
channel 0 is the place, channel 1 the env step, channel 2 the episode's seed modulo 251, plus one for the second camera.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lewm.envs.base import GoalEnv, GoalEnvBatch
from lewm.errors import EnvError
from lewm.schema import ActionSpec, Observation, ObservationSpec

NUM_PLACES = 16
SEED_MODULUS = 251


class ToyWalk(GoalEnv):
    """Only the batch is needed: collection never steps a single environment."""

    VERSION: ClassVar[int] = 3

    @classmethod
    def make_batch(cls, num_envs: int, **options: Any) -> GoalEnvBatch:
        return ToyWalkBatch(num_envs, **options)


class ToyWalkBatch:
    """Options: ``kind`` of the actions (discrete or continuous), ``size_px`` of the frames."""

    def __init__(self, num_envs: int, *, kind: str = "discrete", size_px: int = 4) -> None:
        if kind not in ("discrete", "continuous"):
            raise EnvError(f"kind must be 'discrete' or 'continuous', got {kind!r}")
        self.num_envs = num_envs
        self.observation_spec = ObservationSpec(
            height_px=size_px, width_px=size_px + 1, cameras=("front", "side"), proprioception=("place", "last_move")
        )
        self.action_spec = (
            ActionSpec(kind="discrete", num_choices=3) if kind == "discrete" else ActionSpec(kind="continuous", low=(-1.0,), high=(1.0,))
        )
        self.label_names = ("place", "env_step")
        self.goal_label_names = ("place",)

    def reset(self, seeds: Sequence[int]) -> None:
        self._seeds = np.array([seed % SEED_MODULUS for seed in seeds])
        self._places = np.array([np.random.default_rng(seed).integers(NUM_PLACES // 2) for seed in seeds], np.float64)
        self._moves = np.zeros(self.num_envs)
        self._env_step = 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._moves = actions - 1.0 if self.action_spec.kind == "discrete" else np.asarray(actions[:, 0], np.float64)
        self._places = np.clip(self._places + self._moves, 0, NUM_PLACES - 1)
        self._env_step += 1
        return self._moves.astype(np.float32), self._places == NUM_PLACES - 1

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        frames = np.empty((self.num_envs, *self.observation_spec.frame_shape), np.uint8) if out is None else out
        frames[..., 0] = self._places[:, None, None, None]
        frames[..., 1] = self._env_step
        frames[..., 2] = self._seeds[:, None, None, None] + np.arange(2)[:, None, None]
        return Observation(frames, np.stack([self._places, self._moves], -1).astype(np.float32))

    def labels(self) -> np.ndarray:
        return np.stack([self._places, np.full(self.num_envs, self._env_step)], -1).astype(np.float32)

    def get_states(self) -> list[bytes]:
        raise NotImplementedError

    def set_states(self, states: Sequence[bytes]) -> None:
        raise NotImplementedError

    def set_goals(self, states: Sequence[bytes]) -> None:
        raise NotImplementedError

    def observe_goals(self) -> Observation[np.ndarray]:
        raise NotImplementedError

    def is_solved(self) -> np.ndarray:
        return np.asarray(self._places == NUM_PLACES - 1)

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        return np.zeros(len(start_labels), np.int64)

    def is_truncated(self) -> np.ndarray:
        return np.zeros(self.num_envs, bool)

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        return list(states)

    def close(self) -> None:
        pass
