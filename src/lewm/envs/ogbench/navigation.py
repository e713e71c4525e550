"""Scripted policies for the point in a maze, as the package makes its data: ``navigate``, ``stitch``, ``explore``, and the ceiling.

Axes: E episode, a action. Row e depends on its own seed and its own world only.
"""

from collections.abc import Sequence

import numpy as np

from lewm.envs.base import GoalEnvBatch, ScriptedPolicy
from lewm.envs.ogbench.batch import MazeBatch
from lewm.envs.ogbench.maze import POINT_SPEED_M, START_NOISE_M
from lewm.envs.policies import check_number_option, check_reset, check_whole_option
from lewm.errors import EnvError

GOAL_STREAM, NOISE_STREAM = 3, 4
"""Keep these numbers apart from those that an environment or another policy draws from the same seed."""
STITCH_CELLS = 4
"""How far, in cells, the goals of ``stitch`` are from where episodes start: the package's."""


class NavigatePolicy:
    """Walks through the maze to one random junction after the other, along the package's shortest ways over cells, with Gaussian noise.

    ``action_noise`` is a standard deviation in units of the action.
    """

    def __init__(self, *, action_noise: float = 0.5) -> None:
        check_number_option("action_noise", action_noise, lambda value: value >= 0, "at least 0")
        self.action_noise = action_noise
        self._goals = np.zeros((0, 2))

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes, each with a goal of its own."""
        batch = _point(envs)
        check_reset(envs, seeds, max_env_steps)
        self._generators = [np.random.default_rng([seed, GOAL_STREAM]) for seed in seeds]
        self._noise = [np.random.default_rng([seed, NOISE_STREAM]) for seed in seeds]
        places = batch.places(batch.labels())
        self._goals = np.stack([self._first_goal(batch, place, row) for row, place in enumerate(places)])

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 2] within [-1, 1]."""
        batch = _point(envs)
        if len(self._goals) != batch.num_envs:
            raise EnvError(f"the policy was reset for {len(self._goals)} episodes and asked about {batch.num_envs}; call reset first")
        places = batch.places(batch.labels())
        self._renew_goals(batch, places)
        ways = [batch.simulator.env.get_oracle_subgoal(place, goal)[0] - place for place, goal in zip(places, self._goals, strict=True)]
        return self._noisy(np.stack([way / (np.linalg.norm(way) + 1e-6) for way in ways]))

    def _first_goal(self, batch: MazeBatch, place: np.ndarray, row: int) -> np.ndarray:
        return self._near(batch, junctions(batch.map.cells), row)

    def _renew_goals(self, batch: MazeBatch, places: np.ndarray) -> None:
        has_arrived = np.linalg.norm(places - self._goals, axis=-1) <= batch.simulator.goal_tolerance_m
        for row in np.flatnonzero(has_arrived).tolist():
            self._goals[row] = self._near(batch, junctions(batch.map.cells), row)

    def _near(self, batch: MazeBatch, cells: np.ndarray, row: int) -> np.ndarray:
        """A random one of the cells, near its middle."""
        generator = self._generators[row]
        return batch.map.centre(generator.choice(cells)) + generator.uniform(-START_NOISE_M, START_NOISE_M, 2)

    def _noisy(self, directions: np.ndarray) -> np.ndarray:
        noise = self.action_noise * np.stack([generator.standard_normal(2) for generator in self._noise])
        return np.asarray(np.clip(directions + noise, -1.0, 1.0), np.float32)


class StitchPolicy(NavigatePolicy):
    """Walks to a place four cells away and stays there: short pieces of ways, from which a long way must be stitched together."""

    def _first_goal(self, batch: MazeBatch, place: np.ndarray, row: int) -> np.ndarray:
        _, steps = batch.simulator.env.get_oracle_subgoal(place, place)
        cells = np.argwhere(steps == STITCH_CELLS)
        return self._near(batch, cells if len(cells) else np.argwhere(steps == 0), row)

    def _renew_goals(self, batch: MazeBatch, places: np.ndarray) -> None:
        pass


class ExplorePolicy(NavigatePolicy):
    """Walks in a random direction, another one every ``hold_env_steps``, with Gaussian noise."""

    def __init__(self, *, action_noise: float = 0.5, hold_env_steps: int = 10) -> None:
        super().__init__(action_noise=action_noise)
        check_whole_option("hold_env_steps", hold_env_steps)
        self.hold_env_steps = hold_env_steps
        self._env_step = 0

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes."""
        super().reset(envs, seeds, max_env_steps)
        self._env_step = 0

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 2] within [-1, 1]."""
        _point(envs)
        if self._env_step % self.hold_env_steps == 0:
            ways = np.stack([generator.standard_normal(2) for generator in self._generators])
            self._directions = ways / (np.linalg.norm(ways, axis=-1, keepdims=True) + 1e-6)
        self._env_step += 1
        return self._noisy(self._directions)


class NoiselessGuide:
    """Walks to the env's goal, straight where that is free and over the middles of cells where it is not: the ceiling. Looks at the true state."""

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes; nothing is drawn."""
        _point(envs)
        check_reset(envs, seeds, max_env_steps)

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """float32 [E, 2] within [-1, 1]."""
        batch = _point(envs)
        places, goals = batch.places(batch.labels()), batch.places(batch.goal_labels())
        is_straight = batch.map.is_straight(places, goals)
        ends = [
            goal if straight else batch.simulator.env.get_oracle_subgoal(place, goal)[0]
            for place, goal, straight in zip(places, goals, is_straight, strict=True)
        ]
        step_m = POINT_SPEED_M * batch.action_spec.action_repeat
        return np.asarray(np.clip((np.stack(ends) - places) / step_m, -1.0, 1.0), np.float32)


class NoController:
    """Stands for the policies of the package's ant data, which need a controller that the package trained and does not ship."""

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Refuse, and say why."""
        raise EnvError(
            f"{getattr(envs, 'name', 'this world')!r} has no expert and no navigate, stitch or explore: the package's ant data come from a trained "
            "controller that it does not ship; use ou, block-random, random or a run of your own"
        )

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """Never reached."""
        raise EnvError("this policy cannot act; use ou, block-random or random")


def junctions(cells: np.ndarray) -> np.ndarray:
    """int64 [n, 2]: the free cells that are no part of a straight corridor; goals of the package's ``navigate`` lie there."""
    is_free = np.asarray(cells) == 0
    up, down, left, right = (np.roll(is_free, shift, axis)[1:-1, 1:-1] for axis in (0, 1) for shift in (1, -1))
    is_corridor = (up & down & ~left & ~right) | (~up & ~down & left & right)
    return np.argwhere(is_free[1:-1, 1:-1] & ~is_corridor) + 1


def _point(envs: GoalEnvBatch) -> MazeBatch:
    if not isinstance(envs, MazeBatch) or envs.simulator.model.nu != 2:
        raise EnvError(f"this policy drives ogbench/pointmaze-*, not {getattr(envs, 'name', type(envs).__name__)}; use ou or random")
    return envs


MAZE_POLICIES: dict[str, dict[str, type[ScriptedPolicy]]] = {
    "point": {"navigate": NavigatePolicy, "stitch": StitchPolicy, "explore": ExplorePolicy, "expert-noiseless": NoiselessGuide},
    "ant": {"expert": NoController, "navigate": NoController, "stitch": NoController, "explore": NoController},
}
"""Scripted policies by body."""
