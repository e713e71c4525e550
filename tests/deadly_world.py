"""A toy walk that kills its own process at one seed: always, or only the first time."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm.envs.base import EpisodeError, GoalEnvBatch
from toy_world import ToyWalk, ToyWalkBatch


class DeadlyWalk(ToyWalk):
    """A toy walk for tests of what becomes of a dead worker's episodes."""

    @classmethod
    def make_batch(cls, num_envs: int, **options: Any) -> GoalEnvBatch:
        return DeadlyWalkBatch(num_envs, **options)


class DeadlyWalkBatch(ToyWalkBatch):
    """Dies at env step ``deadly_env_step`` of the episode of ``deadly_seed``, unless the file ``cure`` exists; ``is_cured_by_death`` makes it."""

    def __init__(self, num_envs: int, *, deadly_seed: int, deadly_env_step: int = 3, cure: str = "", is_cured_by_death: bool = False) -> None:
        super().__init__(num_envs)
        self._deadly_seed, self._deadly_env_step = deadly_seed, deadly_env_step
        self._cure, self._is_cured_by_death = Path(cure or "/nowhere/at/all"), is_cured_by_death

    def reset(self, seeds: Sequence[int]) -> None:
        super().reset(seeds)
        self._is_deadly = self._deadly_seed in seeds

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = super().step(actions)
        if self._is_deadly and (self._now["env_step"] == self._deadly_env_step).any() and not self._cure.exists():
            if self._is_cured_by_death:
                self._cure.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


class DivergingWalk(ToyWalk):
    """A toy walk with one seed that it cannot go on with."""

    @classmethod
    def make_batch(cls, num_envs: int, **options: Any) -> GoalEnvBatch:
        return DivergingWalkBatch(num_envs, **options)


class DivergingWalkBatch(ToyWalkBatch):
    """``EpisodeError`` at the third env step of the episode of ``bad_seed``."""

    def __init__(self, num_envs: int, *, bad_seed: int) -> None:
        super().__init__(num_envs)
        self._bad_seed = bad_seed

    def reset(self, seeds: Sequence[int]) -> None:
        super().reset(seeds)
        self._is_bad = self._bad_seed in seeds

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = super().step(actions)
        if self._is_bad and (self._now["env_step"] == 3).any():
            raise EpisodeError("it diverged")
        return answer
