"""Scripted policies for every world: uniform actions, anew each env step or held for a while.

Axes: E episode, N env step, a action. Row e depends on its seed only: all its actions are drawn at the reset.
"""

from collections.abc import Sequence

import numpy as np

from lewm.envs.base import GoalEnvBatch, ScriptedPolicy
from lewm.errors import EnvError
from lewm.schema import ActionSpec

RANDOM_STREAM = 1
"""Keeps a policy's numbers apart from those that an environment draws from the same seed."""


class BlockRandomPolicy:
    """A uniform action, held for ``hold_env_steps`` env steps before the next one is drawn: goes further than ``RandomPolicy``."""

    def __init__(self, *, hold_env_steps: int = 5) -> None:
        if hold_env_steps < 1:
            raise EnvError(f"hold_env_steps must be at least 1, got {hold_env_steps}")
        self.hold_env_steps = hold_env_steps
        self._actions: np.ndarray | None = None
        self._env_step = 0

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Draw the actions of new episodes of at most ``max_env_steps``."""
        check_reset(envs, seeds, max_env_steps)
        num_draws = -(-max_env_steps // self.hold_env_steps)
        draws = np.stack([_draw_actions(envs.action_spec, num_draws, np.random.default_rng([seed, RANDOM_STREAM])) for seed in seeds])
        self._actions = np.repeat(draws, self.hold_env_steps, axis=1)[:, :max_env_steps]
        self._env_step = 0

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, a], or int64 [E] for discrete actions: the actions of the next env step."""
        if self._actions is None or self._env_step >= self._actions.shape[1]:
            drawn = 0 if self._actions is None else self._actions.shape[1]
            raise EnvError(f"the policy was reset for {drawn} env steps and asked for one more; call reset with a larger max_env_steps")
        self._env_step += 1
        return self._actions[:, self._env_step - 1].copy()


class RandomPolicy(BlockRandomPolicy):
    """A new uniform action within the bounds at every env step."""

    def __init__(self) -> None:
        super().__init__(hold_env_steps=1)


POLICIES: dict[str, type[ScriptedPolicy]] = {"random": RandomPolicy, "block-random": BlockRandomPolicy}


def check_reset(envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
    """Refuse a reset without one seed per episode or without any env step."""
    if len(seeds) != envs.num_envs:
        raise EnvError(f"seeds: got {len(seeds)} for {envs.num_envs} episodes; give one each")
    if max_env_steps < 1:
        raise EnvError(f"max_env_steps must be at least 1, got {max_env_steps}")


def _draw_actions(spec: ActionSpec, num_draws: int, generator: np.random.Generator) -> np.ndarray:
    if spec.kind == "none":
        raise EnvError("this world has no actions, so no policy can act in it")
    if spec.kind == "discrete":
        return generator.integers(spec.num_choices, size=num_draws)
    low, high = np.array(spec.low), np.array(spec.high)
    actions: np.ndarray = generator.uniform(low, high, (num_draws, len(low))).astype(np.float32)
    return actions
