"""A trained run as a collecting policy: it plans its way to the world's own goals.

Axes: E episode, N env step, a env action.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lewm.checkpoint import load_checkpoint
from lewm.envs.base import GoalEnvBatch
from lewm.envs.policies import RandomPolicy, check_env_step, check_reset
from lewm.errors import CheckpointError, DataError, EnvError
from lewm.evaluation.agents import agent_of
from lewm.evaluation.label_goals import compare_goals, is_same_env
from lewm.seeds import episode_seed

NOISE_STREAM = 5
"""Keeps the choice of random actions apart from what else is drawn from an episode's seed."""
GOAL_NAMESPACE = "run-policy-goal"
SEARCH_NAMESPACE = "run-policy"
REMEDY = "give --policy-option data=DIR (the training set)"


class RunPolicy:
    """Acts as the agent of a run or checkpoint does, towards the goals that the world drew from the seeds.

    A share ``action_noise`` of the actions is replaced by uniform ones, which the planner sees only in the frames that follow. Every
    ``new_goal_env_steps`` the start of some other episode becomes the goal. Every episode is planned alone and on one thread, so that its actions
    are the same bit for bit whoever its batch mates are. ``data`` (the training set) is needed where goals are compared by labels.
    ``checkpoint_sha256`` and ``data_sha256`` refuse a checkpoint or dataset that has changed.
    """

    def __init__(
        self,
        *,
        path: str,
        action_noise: float = 0.0,
        new_goal_env_steps: int | None = None,
        data: str | None = None,
        checkpoint_sha256: str | None = None,
        data_sha256: str | None = None,
    ) -> None:
        if not 0 <= action_noise <= 1:
            raise EnvError(f"action_noise must be a share in [0, 1], got {action_noise}")
        if new_goal_env_steps is not None and new_goal_env_steps < 1:
            raise EnvError(f"new_goal_env_steps must be at least 1, got {new_goal_env_steps}")
        checkpoint = load_checkpoint(path)
        self._path, self._env = str(checkpoint.path), checkpoint.env.get("name")
        if checkpoint_sha256 not in (None, checkpoint.sha256):
            raise CheckpointError(_has_changed(f"checkpoint {self._path!r}", checkpoint.sha256, checkpoint_sha256))
        planner, options = checkpoint.config.planner, dict(checkpoint.env.get("options", {}))
        comparison = compare_goals(checkpoint, planner, self._env, options, data, remedy=REMEDY)
        found = comparison.about.get("dataset_sha256")
        if found is not None and data_sha256 not in (None, found):
            raise DataError(_has_changed(f"dataset {data!r}", found, data_sha256))
        self._agent = agent_of(checkpoint, planner, comparison.readout, data)
        self._options = {"path": self._path, "checkpoint_sha256": checkpoint.sha256, "action_noise": action_noise}
        self._options |= {"new_goal_env_steps": new_goal_env_steps, "data": data}
        self._options |= {} if found is None else {"data_sha256": found}
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
        self._aim(envs, self._seeds)

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, a], or int64 [E] for discrete actions: the actions of the next env step."""
        check_env_step(self._env_step, self._max_env_steps)
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

    def _aim(self, envs: GoalEnvBatch, seeds: Sequence[int]) -> None:
        goals = envs.observe_goals()
        with _one_thread():
            self._states = [self._agent.reset(goals[row : row + 1], [seed]) for row, seed in enumerate(seeds)]

    def _set_new_goals(self, envs: GoalEnvBatch) -> None:
        """The start of another episode becomes the goal of each; the worlds go on as they were."""
        now = envs.get_states()
        envs.reset([episode_seed(GOAL_NAMESPACE, seed, self._env_step) for seed in self._seeds])
        goals = envs.get_states()
        envs.set_states(now)
        envs.set_goals(goals)
        self._aim(envs, [episode_seed(SEARCH_NAMESPACE, seed, self._env_step) for seed in self._seeds])  # other noise than for the goal before

    def _check_world(self, envs: GoalEnvBatch) -> None:
        model, spec = self._agent.model, envs.observation_spec
        seen, name = model.observation_spec, getattr(envs, "name", None)
        if not is_same_env(self._env, name):
            raise EnvError(f"the run {self._path!r} was trained in env {self._env!r}, this world is {name!r}: collect in the run's own")
        if envs.action_spec != model.action_spec or (spec.height_px, spec.width_px, spec.cameras) != (seen.height_px, seen.width_px, seen.cameras):
            raise EnvError(
                f"the run {self._path!r} was trained on {seen.height_px} x {seen.width_px} px of {seen.cameras} and "
                f"{model.action_spec}; this world has {spec.height_px} x {spec.width_px} px of {spec.cameras} and {envs.action_spec}: "
                "give it the run's options"
            )


def _has_changed(what: str, found: str, expected: str | None) -> str:
    return f"{what} has SHA-256 {found[:12]}, not {str(expected)[:12]}; use the one that the collection was begun with"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come out the same on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
