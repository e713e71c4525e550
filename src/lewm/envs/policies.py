"""Scripted policies for every world: uniform actions, anew each env step or held for a while, and coloured noise.

Axes: E episode, N env step, a action. Row e depends on its seed only: all its actions are drawn at the reset.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lewm.envs.base import GoalEnvBatch, ScriptedPolicy
from lewm.errors import EnvError
from lewm.schema import ActionSpec

RANDOM_STREAM = 1
"""Keeps a policy's numbers apart from those that an environment draws from the same seed."""


class _DrawnPolicy:
    """Plays the actions back that ``reset`` has drawn."""

    def __init__(self) -> None:
        self._actions: np.ndarray | None = None
        self._env_step = 0

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, a], or int64 [E] for discrete actions: the actions of the next env step."""
        if self._actions is None:
            raise EnvError("the policy has no episodes yet; call reset first")
        check_env_step(self._env_step, self._actions.shape[1])
        self._env_step += 1
        return self._actions[:, self._env_step - 1].copy()


class BlockRandomPolicy(_DrawnPolicy):
    """A uniform action, held for ``hold_env_steps`` env steps before the next one is drawn: goes further than ``RandomPolicy``."""

    def __init__(self, *, hold_env_steps: int = 5) -> None:
        super().__init__()
        check_whole_option("hold_env_steps", hold_env_steps)
        self.hold_env_steps = hold_env_steps

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Draw the actions of new episodes of at most ``max_env_steps``."""
        check_reset(envs, seeds, max_env_steps)
        num_draws = -(-max_env_steps // self.hold_env_steps)
        draws = np.stack([_draw_actions(envs.action_spec, num_draws, np.random.default_rng([seed, RANDOM_STREAM])) for seed in seeds])
        self._actions = np.repeat(draws, self.hold_env_steps, axis=1)[:, :max_env_steps]
        self._env_step = 0


class RandomPolicy(BlockRandomPolicy):
    """A new uniform action within the bounds at every env step."""

    def __init__(self) -> None:
        super().__init__(hold_env_steps=1)


class OUPolicy(_DrawnPolicy):
    """Coloured noise within the bounds: an Ornstein-Uhlenbeck process for each action dimension, clipped. Continuous actions only.

    ``x' = (1 - theta) x + sqrt(1 - (1 - theta)^2) std * noise``, begun in its stationary distribution. ``std`` is the stationary standard
    deviation before clipping, in halves of the range between the bounds; the correlation falls to 1/e in ``-1 / ln(1 - theta)`` env steps, 6.2
    for the default. Joints with inertia go much further under it than under white noise. ``EnvError`` for a world of discrete actions.
    """

    def __init__(self, *, theta: float = 0.15, std: float = 0.6) -> None:
        super().__init__()
        check_number_option("theta", theta, lambda value: 0 < value <= 1, "in (0, 1], where 1 is white noise")
        check_number_option("std", std, lambda value: 0 < value <= 10, "in (0, 10] halves of the action range")
        self.theta, self.std = theta, std

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Draw the actions of new episodes of at most ``max_env_steps``."""
        check_reset(envs, seeds, max_env_steps)
        spec = envs.action_spec
        if spec.kind != "continuous":
            raise EnvError(f"the policy 'ou' needs continuous actions and this world's are of kind {spec.kind!r}; use block-random")
        low, high = np.array(spec.low), np.array(spec.high)
        noise = np.stack([np.random.default_rng([seed, RANDOM_STREAM]).standard_normal((max_env_steps, len(low))) for seed in seeds])
        noise[:, 1:] *= np.sqrt(1 - (1 - self.theta) ** 2)
        for n in range(1, max_env_steps):
            noise[:, n] += (1 - self.theta) * noise[:, n - 1]
        actions = (low + high) / 2 + (high - low) / 2 * self.std * noise
        self._actions = np.clip(actions.astype(np.float32), low.astype(np.float32), high.astype(np.float32))
        self._env_step = 0


POLICIES: dict[str, type[ScriptedPolicy]] = {"random": RandomPolicy, "block-random": BlockRandomPolicy, "ou": OUPolicy}


def check_reset(envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
    """Refuse a reset without one seed per episode or without any env step."""
    if len(seeds) != envs.num_envs:
        raise EnvError(f"seeds: got {len(seeds)} for {envs.num_envs} episodes; give one each")
    if max_env_steps < 1:
        raise EnvError(f"max_env_steps must be at least 1, got {max_env_steps}")


def check_env_step(env_step: int, max_env_steps: int) -> None:
    """Refuse env step ``env_step``, counted from 0, of episodes that were reset for ``max_env_steps``."""
    if env_step >= max_env_steps:
        raise EnvError(f"the policy was reset for {max_env_steps} env steps and asked for one more; call reset with a larger max_env_steps")


def check_whole_option(name: str, value: Any) -> None:
    """Refuse a policy's option that is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise EnvError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise EnvError(f"{name} must be at least 1, got {value}")


def check_number_option(name: str, value: Any, is_allowed: Callable[[float], bool], allowed: str) -> None:
    """Refuse a policy's option that is no finite number, or not what ``allowed`` says."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not is_allowed(float(value)):
        raise EnvError(f"{name} must be {allowed}, got {value!r}")


def _draw_actions(spec: ActionSpec, num_draws: int, generator: np.random.Generator) -> np.ndarray:
    if spec.kind == "none":
        raise EnvError("this world has no actions, so no policy can act in it")
    if spec.kind == "discrete":
        return generator.integers(spec.num_choices, size=num_draws)
    low, high = np.array(spec.low), np.array(spec.high)
    actions: np.ndarray = generator.uniform(low, high, (num_draws, len(low))).astype(np.float32)
    return actions
