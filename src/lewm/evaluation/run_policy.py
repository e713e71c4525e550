"""A trained run as a collecting policy: it plans its way to the world's own goals.

Axes: E episode, N env step, a env action.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm.checkpoint import checkpoint_sha256 as hash_of_checkpoint
from lewm.checkpoint import find_checkpoint
from lewm.envs.base import GoalEnvBatch
from lewm.envs.policies import RandomPolicy, check_reset
from lewm.errors import CheckpointError, EnvError
from lewm.evaluation.workflow import load_policy
from lewm.seeds import episode_seed

NOISE_STREAM = 5
"""Keeps the choice of random actions apart from what else is drawn from an episode's seed."""
GOAL_NAMESPACE = "run-policy-goal"


class RunPolicy:
    """Acts as the agent of a run or checkpoint does, towards the goals that the world drew from the seeds.

    A share ``action_noise`` of the actions is replaced by uniform ones, which the planner sees only in the frames that follow. Every
    ``new_goal_env_steps`` the start of some other episode becomes the goal. Every episode is planned alone and on one thread, so that its actions
    are the same bit for bit whoever its batch mates are. ``data`` is what ``load_policy`` needs where goals are compared by labels.
    ``checkpoint_sha256`` refuses a checkpoint that has changed.
    """

    def __init__(
        self,
        *,
        path: str,
        action_noise: float = 0.0,
        new_goal_env_steps: int | None = None,
        data: str | None = None,
        checkpoint_sha256: str | None = None,
    ) -> None:
        if not 0 <= action_noise <= 1:
            raise EnvError(f"action_noise must be a share in [0, 1], got {action_noise}")
        if new_goal_env_steps is not None and new_goal_env_steps < 1:
            raise EnvError(f"new_goal_env_steps must be at least 1, got {new_goal_env_steps}")
        checkpoint = find_checkpoint(Path(path))
        sha256 = hash_of_checkpoint(checkpoint)
        if checkpoint_sha256 not in (None, sha256):
            raise CheckpointError(
                f"checkpoint {str(checkpoint)!r} has SHA-256 {sha256[:12]}, not {str(checkpoint_sha256)[:12]}; "
                "use the one that the collection was begun with"
            )
        self._path = str(checkpoint)
        self._agent = load_policy(checkpoint, data=data)
        self._options = {"path": self._path, "checkpoint_sha256": sha256, "action_noise": action_noise}
        self._options |= {"new_goal_env_steps": new_goal_env_steps, "data": data}
        self.action_noise = action_noise
        self.new_goal_env_steps = new_goal_env_steps
        self._env_step = self._max_env_steps = 0
        self._seeds: list[int] = []
        self._states: list[Any] = []

    def identity(self) -> dict[str, Any]:
        """What decides the actions, for the meta of a dataset: the checkpoint that a run stood for, and every option."""
        return {"name": "run", "options": dict(self._options)}

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes: look at their goals and draw their noise; ``EnvError`` for a world that the run was not trained on."""
        check_reset(envs, seeds, max_env_steps)
        self._check_world(envs)
        self._seeds, self._env_step, self._max_env_steps = list(seeds), 0, max_env_steps
        self._is_random = np.stack([np.random.default_rng([seed, NOISE_STREAM]).random(max_env_steps) for seed in seeds]) < self.action_noise
        self._random = RandomPolicy()
        self._random.reset(envs, seeds, max_env_steps)
        self._aim(envs)

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, a], or int64 [E] for discrete actions: the actions of the next env step."""
        if self._env_step >= self._max_env_steps:
            raise EnvError(f"the policy was reset for {self._max_env_steps} env steps and asked for one more; call reset with a larger max_env_steps")
        if self.new_goal_env_steps is not None and self._env_step > 0 and self._env_step % self.new_goal_env_steps == 0:
            self._set_new_goals(envs)
        observations = envs.observe() if any(self._agent.needs_frame(state) for state in self._states) else None
        planned = []
        with _one_thread():
            for row, state in enumerate(self._states):
                actions, self._states[row] = self._agent.act(None if observations is None else observations[row : row + 1], state)
                planned.append(actions[0])
        random, is_random = self._random.act(envs), self._is_random[:, self._env_step]
        self._env_step += 1
        actions = np.stack(planned)
        return np.where(is_random.reshape(-1, *[1] * (actions.ndim - 1)), random, actions).astype(random.dtype)

    def _aim(self, envs: GoalEnvBatch) -> None:
        goals = envs.observe_goals()
        with _one_thread():
            self._states = [self._agent.reset(goals[row : row + 1], [seed]) for row, seed in enumerate(self._seeds)]

    def _set_new_goals(self, envs: GoalEnvBatch) -> None:
        """The start of another episode becomes the goal of each; the worlds go on as they were."""
        now = envs.get_states()
        envs.reset([episode_seed(GOAL_NAMESPACE, seed, self._env_step) for seed in self._seeds])
        goals = envs.get_states()
        envs.set_states(now)
        envs.set_goals(goals)
        self._aim(envs)

    def _check_world(self, envs: GoalEnvBatch) -> None:
        model, spec = self._agent.model, envs.observation_spec
        seen = model.observation_spec
        if envs.action_spec != model.action_spec or (spec.height_px, spec.width_px, spec.cameras) != (seen.height_px, seen.width_px, seen.cameras):
            raise EnvError(
                f"the run {self._path!r} was trained on {seen.height_px} x {seen.width_px} px of {seen.cameras} and "
                f"{model.action_spec}; this world has {spec.height_px} x {spec.width_px} px of {spec.cameras} and {envs.action_spec}: "
                "give it the run's options"
            )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come out the same on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
