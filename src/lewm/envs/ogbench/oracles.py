"""The package's scripted policies for arm worlds: ``play`` and ``noisy`` as its data were made, ``expert``, and the ceiling ``expert-noiseless``.

Axes: E episode, a action. Row e depends on its own seed and its own world only: each has its own oracles and its own random numbers, which the
package would draw from ``numpy.random``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lewm.envs.base import GoalEnvBatch, ScriptedPolicy
from lewm.envs.mujoco.simulator import Moment
from lewm.envs.ogbench.batch import ManipulationBatch
from lewm.envs.ogbench.manipulation import ManipulationSimulator
from lewm.envs.ogbench.package import load_oracles, numpy_random
from lewm.envs.ogbench.targets import Target, draw_target, info_of, next_target
from lewm.envs.policies import check_number_option, check_reset
from lewm.errors import EnvError

ORACLE_STREAM, TARGET_STREAM = 3, 4
"""Keep these numbers apart from those that an environment or another policy draws from the same seed."""
NOISE_SCALES = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
"""Noise on an action of ``noisy``, relative to that on x, y and z: as in the package's data."""
STACKING = {"ogbench/cube-double": (0.0, 0.25), "ogbench/cube-triple": (0.05, 0.35), "ogbench/cube-quadruple": (0.1, 0.5)}
"""How likely a block is put on another one: drawn once per episode from this range; elsewhere never."""


class _Row:
    """The oracles of one episode, with its random numbers and its present target."""

    def __init__(self, simulator: ManipulationSimulator, oracles: dict[str, Any], seed: int) -> None:
        self.simulator, self.oracles = simulator, oracles
        self.random = np.random.RandomState(np.random.SeedSequence([seed, ORACLE_STREAM]).generate_state(8))
        self.targets = np.random.default_rng([seed, TARGET_STREAM])
        self.target: Target | None = None

    def head_for(self, target: Target, moment: Moment) -> None:
        """Start the oracle of another target."""
        self.target = target
        info = info_of(self.simulator, moment, target)
        with numpy_random(self.random):
            self.oracles[target.task].reset(None, info)

    @property
    def is_done(self) -> bool:
        """Whether there is no target yet, or its oracle has ended."""
        return self.target is None or bool(self.oracles[self.target.task].done)

    def act(self, moment: Moment) -> np.ndarray:
        """What the oracle does now, float64 [a]."""
        assert self.target is not None
        info = info_of(self.simulator, moment, self.target)
        with numpy_random(self.random):
            return np.asarray(self.oracles[self.target.task].select_action(None, info), np.float64)


class _Oracles(ABC):
    """Rows of oracles over a batch."""

    _kind: ClassVar[str]
    _options: dict[str, float]

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._options = {}

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes, with oracles of their own."""
        batch = _arm(envs)
        check_reset(envs, seeds, max_env_steps)
        makers = load_oracles()[self._kind]
        env = batch.simulator.env
        self._rows = [_Row(batch.simulator, {thing: make(env=env, **self._options) for thing, make in makers.items()}, int(seed)) for seed in seeds]

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 5] within [-1, 1]."""
        batch = _arm(envs)
        if len(self._rows) != batch.num_envs:
            raise EnvError(f"the policy was reset for {len(self._rows)} episodes and asked about {batch.num_envs}; call reset first")
        now, goals = batch.moments()
        chosen = [self._choose(row, moment, goal, batch) for row, moment, goal in zip(self._rows, now, goals, strict=True)]
        return np.asarray(np.clip(np.stack(chosen), -1.0, 1.0), np.float32)

    @abstractmethod
    def _choose(self, row: _Row, moment: Moment, goal: Moment, batch: ManipulationBatch) -> np.ndarray:
        """float64 [5]: the action of one episode, before it is clipped."""


class _RandomTargets(_Oracles):
    """Oracles that are given a new random target whenever they are done with the last one, as the package makes its data."""

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes, with oracles of their own."""
        super().reset(envs, seeds, max_env_steps)
        low, high = STACKING.get(_arm(envs).name, (0.0, 0.0))
        self._stacking = {id(row): float(row.targets.uniform(low, high)) for row in self._rows}

    def _choose(self, row: _Row, moment: Moment, goal: Moment, batch: ManipulationBatch) -> np.ndarray:
        if row.is_done:
            row.head_for(draw_target(row.simulator, moment, row.targets, self._stacking[id(row)]), moment)
        return row.act(moment)


class PlayPolicy(_RandomTargets):
    """The package's ``play`` data: plans through key poses, with smooth noise on them, to one random target after the other.

    ``noise`` scales the noise, ``noise_smoothing`` is its width in control steps.
    """

    _kind = "plan"

    def __init__(self, *, noise: float = 0.1, noise_smoothing: float = 0.5) -> None:
        super().__init__()
        check_number_option("noise", noise, lambda value: 0 <= value <= 10, "in [0, 10]")
        check_number_option("noise_smoothing", noise_smoothing, lambda value: 0 < value <= 100, "in (0, 100]")
        self._options = {"noise": noise, "noise_smoothing": noise_smoothing}


class ExpertPolicy(_RandomTargets):
    """The package's closed-loop oracles without noise, to one random target after the other."""

    _kind = "markov"


class NoisyPolicy(_RandomTargets):
    """The package's ``noisy`` data: closed-loop oracles with Gaussian noise, of a strength drawn for each episode, and random actions in between.

    ``noise`` is the largest standard deviation on x, y and z; ``random_share`` of the actions are uniform.
    """

    _kind = "markov"

    def __init__(self, *, noise: float = 0.1, random_share: float = 0.1) -> None:
        super().__init__()
        check_number_option("noise", noise, lambda value: 0 <= value <= 10, "in [0, 10]")
        check_number_option("random_share", random_share, lambda value: 0 <= value <= 1, "in [0, 1]")
        self.noise, self.random_share = noise, random_share

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes, with oracles and a strength of noise of their own."""
        super().reset(envs, seeds, max_env_steps)
        self._strengths = {id(row): float(row.targets.uniform(0, self.noise)) for row in self._rows}

    def _choose(self, row: _Row, moment: Moment, goal: Moment, batch: ManipulationBatch) -> np.ndarray:
        action = super()._choose(row, moment, goal, batch)
        if row.targets.random() < self.random_share:
            return row.targets.uniform(-1, 1, action.shape)
        return action + row.targets.normal(0, self._strengths[id(row)] * NOISE_SCALES)


class NoiselessExpert(_Oracles):
    """The package's closed-loop oracles, headed for the env's goal: the ceiling. Looks at the true state.

    In ``scene`` it unlocks what must move, moves the block, drawer and window, and presses the buttons last; it does not open a drawer to reach a
    block in it.
    """

    _kind = "markov"

    def _choose(self, row: _Row, moment: Moment, goal: Moment, batch: ManipulationBatch) -> np.ndarray:
        if row.is_done or row.simulator.is_free_handed(moment):
            target = next_target(row.simulator, moment, goal)
            if target is None:
                return np.zeros(5)
            if row.is_done or row.target is None or not target.is_like(row.target):
                row.head_for(target, moment)
        return row.act(moment)


def _arm(envs: GoalEnvBatch) -> ManipulationBatch:
    if not isinstance(envs, ManipulationBatch):
        raise EnvError(f"this oracle drives ogbench/cube-* and ogbench/scene, not {getattr(envs, 'name', type(envs).__name__)}; use ou or random")
    return envs


ORACLES: dict[str, type[ScriptedPolicy]] = {
    "play": PlayPolicy,
    "noisy": NoisyPolicy,
    "expert": ExpertPolicy,
    "expert-noiseless": NoiselessExpert,
}
"""Scripted policies of arm worlds."""
