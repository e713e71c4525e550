"""Experts for Control Suite worlds whose goal pose is known: proportional-derivative control of the joints.

Axes: E episode, N env step, a action. Row e depends on its own seed and its own world only.
"""

from collections.abc import Sequence

import numpy as np

from lewm.envs.base import GoalEnvBatch, ScriptedPolicy
from lewm.envs.dmc.batch import DmcBatch
from lewm.envs.policies import check_env_step, check_number_option, check_reset, check_whole_option
from lewm.errors import EnvError

POSE_STREAM, NOISE_STREAM = 3, 4
"""Keep the expert's numbers apart from those that an environment or another policy draws from the same seed."""
POSITION_GAIN, VELOCITY_GAIN = 4.0, 0.1
"""Action per rad and per rad/s: tuned so that both joints settle within 25 env steps of two control steps, without overshoot."""
ARRIVAL_RAD = 0.1
WRIST_RANGE_RAD = 2.5
"""The expert's own poses keep the wrist off its stops at 2.79 rad."""


class ReacherNoiselessExpert:
    """Drives both joints of reacher into the env's goal pose and keeps them there: the ceiling of ``qpos-match``. Looks at the true state."""

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes; nothing is drawn."""
        _reacher(envs)
        check_reset(envs, seeds, max_env_steps)

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 2] within [-1, 1]."""
        batch = _reacher(envs)
        error, speed = _error_and_speed(batch, _joints(batch, batch.goal_labels(), "rad"), is_wrapped=batch.predicate.is_wrapped)
        return _clipped(POSITION_GAIN * error - VELOCITY_GAIN * speed)


class ReacherExpert:
    """Drives both joints to random poses, with Gaussian noise on every action: data that cover poses and end in stops as goals do.

    The next pose comes when both joints are within 0.1 rad of the present one, or after ``hold_env_steps``. ``action_noise`` is a standard deviation
    in units of the action.
    """

    def __init__(self, *, action_noise: float = 0.3, hold_env_steps: int = 25) -> None:
        check_number_option("action_noise", action_noise, lambda value: value >= 0, "at least 0")
        check_whole_option("hold_env_steps", hold_env_steps)
        self.action_noise, self.hold_env_steps = action_noise, hold_env_steps
        self._env_step = self._max_env_steps = 0

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes: draw their noise and poses, of which at most one is used up per env step."""
        _reacher(envs)
        check_reset(envs, seeds, max_env_steps)
        self._env_step, self._max_env_steps = 0, max_env_steps
        largest, shape = (np.pi, WRIST_RANGE_RAD), (max_env_steps + 1, 2)
        self._poses = np.stack([np.random.default_rng([seed, POSE_STREAM]).uniform(np.negative(largest), largest, shape) for seed in seeds])
        self._noise = self.action_noise * np.stack([np.random.default_rng([seed, NOISE_STREAM]).standard_normal(shape) for seed in seeds])
        self._pose, self._age = np.zeros(len(seeds), np.int64), np.zeros(len(seeds), np.int64)

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 2] within [-1, 1]."""
        batch = _reacher(envs)
        check_env_step(self._env_step, self._max_env_steps)
        rows = np.arange(batch.num_envs)
        error, _ = _error_and_speed(batch, self._poses[rows, self._pose])
        is_over = (np.abs(error) < ARRIVAL_RAD).all(-1) | (self._age >= self.hold_env_steps)
        self._pose += is_over
        self._age = np.where(is_over, 0, self._age) + 1
        error, speed = _error_and_speed(batch, self._poses[rows, self._pose])
        actions = _clipped(POSITION_GAIN * error - VELOCITY_GAIN * speed + self._noise[:, self._env_step])
        self._env_step += 1
        return actions


def _reacher(envs: GoalEnvBatch) -> DmcBatch:
    if not isinstance(envs, DmcBatch) or not envs.name.startswith("dmc/reacher-"):
        raise EnvError(
            f"this expert drives dmc/reacher-easy and dmc/reacher-hard, not {getattr(envs, 'name', type(envs).__name__)}; use ou or random"
        )
    return envs


def _joints(batch: DmcBatch, labels: np.ndarray, suffix: str) -> np.ndarray:
    """float64 [E, 2]: the shoulder's and the wrist's label with this suffix."""
    return np.stack([labels[:, batch.label_names.index(f"{joint}_{suffix}")] for joint in ("shoulder", "wrist")], -1).astype(np.float64)


def _error_and_speed(batch: DmcBatch, pose_rad: np.ndarray, *, is_wrapped: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """How far each joint is from a pose, and how fast it turns; float64 [E, 2] each. ``is_wrapped``: full turns do not count."""
    labels = batch.labels()
    error = pose_rad - _joints(batch, labels, "rad")
    if is_wrapped:  # only the shoulder turns freely: the short way round may be barred to the wrist
        error[:, 0] = (error[:, 0] + np.pi) % (2 * np.pi) - np.pi
    return error, _joints(batch, labels, "velocity_rad_s")


def _clipped(actions: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(actions, -1.0, 1.0), np.float32)


POLICIES: dict[str, dict[str, type[ScriptedPolicy]]] = {"reacher": {"expert": ReacherExpert, "expert-noiseless": ReacherNoiselessExpert}}
"""Scripted policies by domain."""
