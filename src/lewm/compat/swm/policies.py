"""Our agent as a policy for stable-worldmodel's ``World``.

Axes: E episode (their environments), V view, Y X image, a env action.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lewm.compat.swm.costs import check_plain
from lewm.errors import PlanningError
from lewm.planning.mpc import MPCPolicy, PolicyState
from lewm.schema import ActionSpec, Observation
from lewm.seeds import episode_seed


class PolicyForSwm:
    """``world.set_policy(PolicyForSwm(lewm.load_policy(RUN)))``: our MPC agent behind their ``set_env`` and ``get_action``.

    An environment that begins a new episode (their ``_needs_flush``, or ``step_idx`` back at 0) gets a new state with the goal of that moment and a
    seed of its own. Environments that are over get an action that does nothing. Needs uint8 frames of the model's size (``image_shape``), and an
    action space with the model's bounds: ``PlanningError`` otherwise.
    """

    type = "lewm"

    def __init__(self, policy: MPCPolicy, *, seed: int = 0) -> None:
        check_plain(policy.model)
        self.policy = policy
        self.env: Any = None
        self._seed, self._num_episodes = seed, 0
        self._state: PolicyState | None = None

    def set_env(self, env: Any) -> None:
        """Their environments, all of whose episodes are new."""
        check_same_actions(env.single_action_space, self.policy.model.action_spec)
        self.env, self._state, self._num_episodes = env, None, 0

    def get_action(self, info_dict: dict[str, Any], **_: Any) -> np.ndarray:
        """Actions float32, in the shape of the environments' action space."""
        if self.env is None:
            raise PlanningError("this policy has no environments yet: `world.set_policy` gives it some")
        pixels, goals = _frames(info_dict, "pixels"), _frames(info_dict, "goal")
        is_new = self._begins(info_dict, len(pixels))
        if self._state is None or is_new.any():
            self._state = self._restarted(goals, is_new)
        rows = np.flatnonzero(~_flags(info_dict, "terminated", len(pixels)))
        actions = np.tile(np.clip(0, self.env.single_action_space.low, self.env.single_action_space.high).astype(np.float32), (len(pixels), 1))
        if len(rows):
            actions[rows], moved = self.policy.act(Observation(pixels[rows]), self.policy.select(self._state, rows))
            self._state = self._merged(rows, moved)
        return actions.reshape(self.env.action_space.shape)

    def _begins(self, info: dict[str, Any], num: int) -> np.ndarray:
        """Which environments are at the start of an episode, bool [E]."""
        if self._state is None:
            return np.ones(num, dtype=bool)
        begins = _flags(info, "_needs_flush", num)
        info.pop("_needs_flush", None)  # as their policies do: their dictionary would say it for ever
        if "step_idx" in info:
            begins |= (np.asarray(info["step_idx"]).reshape(num) == 0) & (self._state.env_step > 0)
        return begins

    def _restarted(self, goals: np.ndarray, is_new: np.ndarray) -> PolicyState:
        rows = np.flatnonzero(is_new)
        seeds = [episode_seed("stable-worldmodel", self._seed, self._num_episodes + index) for index in range(len(rows))]
        self._num_episodes += len(rows)
        fresh = self.policy.reset(Observation(goals[rows]), seeds)
        return fresh if self._state is None else self._merged(rows, fresh)

    def _merged(self, rows: np.ndarray, changed: PolicyState) -> PolicyState:
        """All states, those of ``rows`` replaced."""
        assert self._state is not None
        num = len(self._state.seeds)
        source = np.arange(num)
        source[rows] = num + np.arange(len(rows))
        return self.policy.select(self.policy.join([self._state, changed]), source)


def check_same_actions(space: Any, spec: ActionSpec) -> None:
    """``PlanningError`` unless a Gymnasium box has the bounds of the actions that a model was trained with."""
    low, high = (np.asarray(getattr(space, name, ())).reshape(-1) for name in ("low", "high"))
    if low.shape != (spec.dimension,) or not (np.allclose(low, spec.low) and np.allclose(high, spec.high)):
        raise PlanningError(f"the model's actions are within {spec.low} and {spec.high}, this world's are {space}: they mean something else")


def _frames(info: Mapping[str, Any], name: str) -> np.ndarray:
    """The newest frames, uint8 [E, V = 1, Y, X, 3]."""
    if name not in info:
        raise PlanningError(f"info has no {name!r}; it has {', '.join(sorted(info))}")
    frames = np.asarray(info[name])
    if frames.dtype != np.uint8 or frames.ndim != 5:
        raise PlanningError(
            f"info[{name!r}] must be uint8 [environments, time, height, width, 3], got {frames.dtype} {list(frames.shape)}: make the World without"
            " image_transform and goal_transform"
        )
    return frames[:, -1:]


def _flags(info: Mapping[str, Any], name: str, num: int) -> np.ndarray:
    return np.asarray(info[name], dtype=bool).reshape(num).copy() if name in info else np.zeros(num, dtype=bool)
