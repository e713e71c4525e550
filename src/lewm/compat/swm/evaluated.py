"""A policy of stable-worldmodel in our evaluation: its episodes, its goals, our pairs, floors and intervals.

Axes: E episode of the whole batch, R episodes still running, V view, Y X image, a env action.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from lewm.errors import PlanningError
from lewm.schema import ActionSpec, Observation


class Environments:
    """What their policies ask of ``world.envs``: how many there are and what actions they take."""

    def __init__(self, num_envs: int, spec: ActionSpec) -> None:
        self.num_envs = num_envs
        self.single_action_space: spaces.Space[Any] = (
            spaces.Discrete(spec.num_choices)
            if spec.kind == "discrete"
            else spaces.Box(np.array(spec.low, np.float32), np.array(spec.high, np.float32), dtype=np.float32)
        )
        self.action_space = batch_space(self.single_action_space, num_envs)


@dataclass(frozen=True, kw_only=True)
class EvaluatedState:
    """The episodes still running, and the policy object, which remembers the rest: a state can be used once, in order."""

    policy: Any
    rows: np.ndarray
    """int64 [R]: their places in the batch that the policy knows."""
    frames: np.ndarray
    """uint8 [E, 1, Y, X, 3]: the last seen frame of every episode."""
    goals: np.ndarray
    """uint8 [E, 1, Y, X, 3]."""
    actions: np.ndarray
    """[E, a] (discrete: [E]): the last ones; NaN before the first (discrete: 0)."""
    env_step: int


class PolicyFromSwm:
    """A policy of stable-worldmodel behind our ``Policy`` contract, for ``lewm.evaluation.success.evaluate``.

    ``make_policy`` returns a new policy object for each batch of episodes, because theirs keep plans inside; it may share one model. The policy gets
    ``pixels``, ``goal``, ``action``, ``terminated``, ``step_idx`` and, once, ``_needs_flush``, shaped as their ``World`` does; nothing else
    of the true state is in it. Continuous actions are clipped to the world's bounds, which their solvers do not know.
    """

    def __init__(self, make_policy: Callable[[], Any], action_spec: ActionSpec) -> None:
        if action_spec.kind == "none":
            raise PlanningError("a policy needs a world with actions, and this one has none")
        self.make_policy, self.action_spec = make_policy, action_spec

    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> EvaluatedState:
        """New episodes for a new policy object. It has its own random numbers: ``seeds`` cannot reach them."""
        num, spec = len(seeds), self.action_spec
        if goals.frames.shape[1] != 1:
            raise PlanningError(f"stable-worldmodel policies see one frame, and this world draws {goals.frames.shape[1]} views")
        policy = self.make_policy()
        policy.set_env(Environments(num, spec))
        actions = np.zeros(num, np.int64) if spec.kind == "discrete" else np.full((num, spec.dimension), np.nan, np.float32)
        return EvaluatedState(
            policy=policy, rows=np.arange(num), frames=np.zeros_like(goals.frames), goals=goals.frames.copy(), actions=actions, env_step=0
        )

    def needs_frame(self, state: EvaluatedState) -> bool:
        """Always: only the policy knows when it looks."""
        return True

    def act(self, observations: Observation[np.ndarray] | None, state: EvaluatedState) -> tuple[np.ndarray, EvaluatedState]:
        """Actions of the running episodes, [R, a] or int64 [R]."""
        if observations is None:
            raise PlanningError("every env step needs an observation: ask `needs_frame` before skipping one")
        frames, actions = state.frames.copy(), state.actions.copy()
        frames[state.rows] = observations.frames
        chosen = self._checked(state.policy.get_action(_info(dataclasses.replace(state, frames=frames))), state)
        actions[state.rows] = chosen
        return chosen, dataclasses.replace(state, frames=frames, actions=actions, env_step=state.env_step + 1)

    def select(self, state: EvaluatedState, episodes: np.ndarray) -> EvaluatedState:
        """Some of the episodes go on; to the policy the others are terminated."""
        index = np.flatnonzero(episodes) if episodes.dtype == bool else episodes
        return dataclasses.replace(state, rows=state.rows[index])

    def _checked(self, given: Any, state: EvaluatedState) -> np.ndarray:
        actions: np.ndarray = np.asarray(given)
        if actions.size != state.actions.size:
            raise PlanningError(f"get_action must return {list(state.actions.shape)}, got {list(actions.shape)}")
        actions = actions.reshape(state.actions.shape)[state.rows]
        if not np.isfinite(actions).all():
            raise PlanningError("get_action returned NaN or infinity for an episode that is still running")
        is_discrete = self.action_spec.kind == "discrete"
        checked: np.ndarray = actions if is_discrete else np.clip(actions, self.action_spec.low, self.action_spec.high)
        return checked.astype(np.int64 if is_discrete else np.float32)


def _info(state: EvaluatedState) -> dict[str, np.ndarray]:
    """Their ``info``: a time axis of length 1 after the episodes."""
    num = len(state.goals)
    is_over = np.ones((num, 1), dtype=bool)
    is_over[state.rows] = False
    info = {
        "pixels": state.frames,  # the only view stands where they have time
        "goal": state.goals,
        "action": state.actions[:, None],
        "terminated": is_over,
        "step_idx": np.full((num, 1), state.env_step),
    }
    return info | ({"_needs_flush": np.ones(num, dtype=bool)} if state.env_step == 0 else {})
