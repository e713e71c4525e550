"""Many episodes of one OGBench world at once, all in one simulator.

Axes: E episode, s label.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.envs.mujoco.batch import MujocoBatch
from lewm.envs.mujoco.simulator import Moment
from lewm.envs.mujoco.states import StateFormat
from lewm.envs.ogbench.goals import OgbenchPredicate, cube_predicate, maze_predicate, scene_predicate
from lewm.envs.ogbench.manipulation import HELD, ManipulationSimulator
from lewm.envs.ogbench.maze import MazeSimulator
from lewm.envs.ogbench.maze_map import MazeMap
from lewm.envs.ogbench.maze_ways import WayTables
from lewm.envs.ogbench.options import OgbenchOptions
from lewm.envs.option_checks import parse_options
from lewm.errors import ConfigError, EnvError

VERSION = 1
"""Of the dynamics, the frames and the state bytes."""
STATES = StateFormat(magic=b"lewm-ogb", version=VERSION)
GOAL_STREAM, MAX_GOAL_DRAWS = 1, 1000
"""The stream keeps the numbers that decide a goal apart from those that decide the start."""


class OgbenchBatch(MujocoBatch):
    """What arm and mazes share; the options are the fields of ``OgbenchOptions``.

    The reward is the package's: 1 where the goal is reached after the env step, else 0. The goal at a reset is a second start of the same world, at
    rest, that is not solved at once. Where a predicate has to hold for several env steps in a row, they are counted from the moment that the goal
    was set, and the count is part of the state.
    """

    _goal_predicate: OgbenchPredicate

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One env step: actions [E, a] -> (rewards float32 [E], terminated bool [E]); ``EnvError`` for actions out of bounds or not finite."""
        was_over = self._is_over.copy()
        _, is_over = super().step(actions)
        return (self.is_solved() & ~was_over).astype(np.float32), is_over

    def is_solved(self) -> np.ndarray:
        """Which episodes are at their goal, bool [E], for as many env steps as the predicate asks."""
        is_within = super().is_solved()
        hold = self._goal_predicate.hold_env_steps
        return is_within if hold == 1 else is_within & (_num_held(self._now) >= hold)

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make the present world of one state the goal of each episode."""
        super().set_goals(states)
        self._now = [self._with_held(moment, 0) for moment in self._now]

    def _after_step(self, episodes: Sequence[int], before: Sequence[Moment]) -> None:
        if self._goal_predicate.hold_env_steps == 1:
            return
        num_held = np.where(super().is_solved(), _num_held(before) + 1, 0)
        for episode in episodes:
            self._now[episode] = self._with_held(self._now[episode], int(num_held[episode]))

    def _with_held(self, moment: Moment, count: int) -> Moment:
        if self._goal_predicate.hold_env_steps == 1:
            return moment
        return dataclasses.replace(moment, variation=moment.variation | {HELD: np.array([float(count)])})

    def _draw_goal(self, start: Moment, seed: int) -> Moment:
        """A second start, at rest, that the predicate tells from the first."""
        start_labels = self._labels_of([start], self._positions_of([start]))
        for attempt in range(MAX_GOAL_DRAWS):
            goal = self._simulator.at_rest(self._simulator.initialise([seed, GOAL_STREAM, attempt]))
            goal_labels = self._labels_of([goal], self._positions_of([goal]))
            if self._is_goal_for(start_labels, goal_labels):
                return goal
        raise EnvError(
            f"none of {MAX_GOAL_DRAWS} random states of {self.name!r} is a goal that the start of seed {seed} does not solve; lower tolerance_scale"
        )

    def _is_goal_for(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> bool:
        return bool(self.strata(start_labels, goal_labels)[0] >= 0)


class ManipulationBatch(OgbenchBatch):
    """E episodes of ``ogbench/cube-*`` or ``ogbench/scene``."""

    _simulator: ManipulationSimulator

    def __init__(self, num_envs: int, name: str, simulator: ManipulationSimulator, /, **options: Any) -> None:
        parsed = parse_options(OgbenchOptions, name, options)
        table = simulator.label_table()
        predicate = (
            scene_predicate(name, parsed.success, parsed.tolerance_scale, table.names)
            if simulator.num_buttons
            else cube_predicate(name, parsed.success, parsed.tolerance_scale, table.names, simulator.num_blocks)
        )
        super().__init__(num_envs, name, parsed, simulator=simulator, table=table, predicate=predicate, states=STATES)

    @property
    def simulator(self) -> ManipulationSimulator:
        """The one simulator of the batch: scripted policies of the package look into it."""
        return self._simulator

    def moments(self) -> tuple[list[Moment], list[Moment]]:
        """Where every episode is, and its goal."""
        self._require_started()
        return list(self._now), list(self._goals)

    def _measured(self, moment: Moment) -> np.ndarray:
        return self._simulator.measured(moment)


class MazeBatch(OgbenchBatch):
    """E episodes of ``ogbench/pointmaze-*`` or ``ogbench/antmaze-*``."""

    _simulator: MazeSimulator
    path_unit = "m"

    def __init__(self, num_envs: int, name: str, simulator: MazeSimulator, /, **options: Any) -> None:
        parsed = parse_options(OgbenchOptions, name, options)
        table = simulator.label_table()
        tolerance_m = simulator.goal_tolerance_m * parsed.tolerance_scale
        kinds = simulator.map.is_straight if simulator.has_kinds_of_pair else None
        predicate = maze_predicate(name, parsed.success, tolerance_m, table.names, kinds)
        super().__init__(num_envs, name, parsed, simulator=simulator, table=table, predicate=predicate, states=STATES)
        self._place_columns = [table.names.index(label) for label in ("x_m", "y_m")]

    @property
    def simulator(self) -> MazeSimulator:
        """The one simulator of the batch."""
        return self._simulator

    @property
    def map(self) -> MazeMap:
        """The cells, what can be seen from where, and lengths of ways."""
        return self._simulator.map

    def places(self, labels: np.ndarray) -> np.ndarray:
        """float64 [n, 2]: (x, y) of labels [n, s]."""
        return np.asarray(labels, np.float64)[:, self._place_columns]

    def shortest_env_steps(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: env steps that the shortest way between labels [n, s] takes at full speed; infinite where there is none."""
        if self._simulator.full_speed_m is None:
            raise ConfigError(f"nobody knows how fast the body of {self.name!r} can go, so it has no stitched pairs; ogbench/pointmaze-* have")
        ways_m = self.map.path_m(self.places(start_labels), self.places(goal_labels))
        return np.asarray(ways_m / (self._simulator.full_speed_m * self._options.action_repeat))

    def path_lengths(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: metres of the shortest ways between labels [n, s], of which many may go to the same goals; teleports are not used."""
        return self._ways.lengths_m(self.places(start_labels), self.places(goal_labels))

    def states_at(self, places: np.ndarray) -> list[bytes]:
        """The present states with the bodies put at places [E, 2], to start from or to make goals; ``EnvError`` for a place in a wall."""
        self._require_started()
        places = np.asarray(places, np.float64)
        if places.shape != (self.num_envs, 2):
            raise EnvError(f"places must be (x, y) for each of {self.num_envs} episodes, got an array of shape {places.shape}")
        self._refuse_walls(places, "a place")
        moved = [self._simulator.moment_at(place, moment) for place, moment in zip(places, self._now, strict=True)]
        return [STATES.pack(self.name, moment, goal) for moment, goal in zip(moved, self._goals, strict=True)]

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make the present world of one state the goal of each episode; ``EnvError`` for a goal inside a wall."""
        self._require_started()
        moments = [STATES.unpack(self.name, state, self._simulator)[0] for state in states]
        self._refuse_walls(np.array([self._simulator.part(moment, "qpos")[:2] for moment in moments]).reshape(-1, 2), "a goal")
        super().set_goals(states)

    @functools.cached_property
    def _ways(self) -> WayTables:
        return WayTables(self.map)

    def _measured(self, moment: Moment) -> np.ndarray:
        return np.zeros(0)

    def _is_goal_for(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> bool:
        way_m = self.map.path_m(self.places(start_labels), self.places(goal_labels))
        return super()._is_goal_for(start_labels, goal_labels) and bool(way_m[0] < np.inf)

    def _refuse_walls(self, places: np.ndarray, what: str) -> None:
        for place in places[~self.map.is_free(places)]:
            raise EnvError(f"{what} at ({place[0]:.2f}, {place[1]:.2f}) lies in a wall of {self.name!r}; choose one in a free cell of its map")


def _num_held(moments: Sequence[Moment]) -> np.ndarray:
    """float64 [n]: for how many env steps the predicate has held, as far as they were counted."""
    return np.array([moment.variation[HELD][0] if HELD in moment.variation else 0.0 for moment in moments])
