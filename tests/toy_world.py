"""A little world that has everything two-room lacks: two cameras, proprioception, discrete actions and episodes that end by themselves.

A dot walks along a line of 16 places and the episode ends at the last one. A goal is a place; the last move is the world's only
velocity and decides nothing. The frames spell out the truth, so that a test can read them:
channel 0 is the place, channel 1 the env step, channel 2 the episode's seed modulo 251, plus one for the second camera.
"""

import struct
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lewm.envs.base import GoalEnv, GoalEnvBatch
from lewm.errors import EnvError
from lewm.schema import ActionSpec, Observation, ObservationSpec

NUM_PLACES = 16
SEED_MODULUS = 251
FAR_PLACES = 4
"""A goal so many places away is a far one."""
MOMENT = np.dtype([("place", "<f8"), ("move", "<f8"), ("env_step", "<u4"), ("seed", "<u4")])
HEADER = struct.Struct("<8sH")


class ToyWalk(GoalEnv):
    """Only the batch is needed: collection never steps a single environment."""

    VERSION: ClassVar[int] = 3
    STRATA: ClassVar[tuple[str, ...]] = ("far", "near")

    @classmethod
    def make_batch(cls, num_envs: int, **options: Any) -> GoalEnvBatch:
        return ToyWalkBatch(num_envs, **options)


def family(member: str) -> type[ToyWalk]:
    """A family of one: ``walk``."""
    return {"walk": ToyWalk}[member]


class ToyWalkBatch:
    """Options: ``kind`` of the actions (discrete or continuous), ``size_px`` of the frames, ``max_env_steps`` of an episode, ``action_repeat``."""

    num_open: ClassVar[int] = 0
    """Batches that were made and not closed."""

    def __init__(self, num_envs: int, *, kind: str = "discrete", size_px: int = 4, max_env_steps: int | None = None, action_repeat: int = 1) -> None:
        if kind not in ("discrete", "continuous"):
            raise EnvError(f"kind must be 'discrete' or 'continuous', got {kind!r}")
        self.num_envs = num_envs
        self.observation_spec = ObservationSpec(
            height_px=size_px, width_px=size_px + 1, cameras=("front", "side"), proprioception=("place", "last_move")
        )
        self.action_spec = (
            ActionSpec(kind="discrete", num_choices=3, action_repeat=action_repeat)
            if kind == "discrete"
            else ActionSpec(kind="continuous", low=(-1.0,), high=(1.0,), action_repeat=action_repeat)
        )
        self.label_names = ("place", "env_step")
        self.goal_label_names = ("place",)
        self.max_env_steps = max_env_steps
        self._is_closed = False
        ToyWalkBatch.num_open += 1

    def reset(self, seeds: Sequence[int]) -> None:
        self._now = np.zeros(self.num_envs, MOMENT)
        self._goals = np.zeros(self.num_envs, MOMENT)
        for row, seed in enumerate(seeds):
            start, goal = np.random.default_rng(seed).integers(NUM_PLACES // 2, size=2)
            self._now[row] = (start, 0, 0, seed % SEED_MODULUS)
            self._goals[row] = (goal, 0, 0, seed % SEED_MODULUS)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moves = actions - 1.0 if self.action_spec.kind == "discrete" else np.asarray(actions[:, 0], np.float64)
        self._now["place"] = np.clip(self._now["place"] + self.action_spec.action_repeat * moves, 0, NUM_PLACES - 1)
        self._now["move"] = moves
        self._now["env_step"] += np.uint32(1)
        return moves.astype(np.float32), self._now["place"] == NUM_PLACES - 1

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        return self._draw(self._now, out)

    def labels(self) -> np.ndarray:
        return np.stack([self._now["place"], self._now["env_step"]], -1).astype(np.float32)

    def get_states(self) -> list[bytes]:
        header = HEADER.pack(b"toy-walk", ToyWalk.VERSION)
        return [header + now.tobytes() + goal.tobytes() for now, goal in zip(self._now, self._goals, strict=True)]

    def set_states(self, states: Sequence[bytes]) -> None:
        pairs = self._read(states)
        self._now, self._goals = pairs[:, 0].copy(), pairs[:, 1].copy()

    def set_goals(self, states: Sequence[bytes]) -> None:
        self._goals = self._read(states)[:, 0].copy()

    def observe_goals(self) -> Observation[np.ndarray]:
        return self._draw(self._goals, None)

    def is_solved(self) -> np.ndarray:
        return np.asarray(self._now["place"] == self._goals["place"])

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        distance = np.abs(start_labels[:, 0] - goal_labels[:, 0])
        return np.where(distance >= FAR_PLACES, 0, np.where(distance > 0, 1, -1))

    def is_truncated(self) -> np.ndarray:
        return np.zeros(self.num_envs, bool) if self.max_env_steps is None else np.asarray(self._now["env_step"] >= self.max_env_steps)

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        pairs = self._read(states).copy()
        pairs["move"] = 0
        return [state[: HEADER.size] + pair.tobytes() for state, pair in zip(states, pairs, strict=True)]

    def close(self) -> None:
        ToyWalkBatch.num_open -= not self._is_closed
        self._is_closed = True

    def _draw(self, moments: np.ndarray, out: np.ndarray | None) -> Observation[np.ndarray]:
        frames = np.empty((self.num_envs, *self.observation_spec.frame_shape), np.uint8) if out is None else out
        frames[..., 0] = moments["place"][:, None, None, None]
        frames[..., 1] = moments["env_step"][:, None, None, None]
        frames[..., 2] = moments["seed"][:, None, None, None] + np.arange(2)[:, None, None]
        return Observation(frames, np.stack([moments["place"], moments["move"]], -1).astype(np.float32))

    def _read(self, states: Sequence[bytes]) -> np.ndarray:
        """``MOMENT`` [E, 2]: now and goal."""
        if any(state[: HEADER.size] != HEADER.pack(b"toy-walk", ToyWalk.VERSION) for state in states):
            raise EnvError("this is not a state of 'toy-walk'")
        return np.frombuffer(b"".join(state[HEADER.size :] for state in states), MOMENT).reshape(-1, 2)
