"""A point or an ant in a maze as a function of explicit moments: the package's own models and rules.

Beside MuJoCo's state an episode depends on ``teleport_key`` where there are teleports: with the time it decides at which exit the body comes out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.envs.mujoco.labels import Column, LabelTable, columns_of_joint
from lewm.envs.mujoco.simulator import Moment, MujocoSimulator
from lewm.envs.ogbench.maze_map import MazeMap
from lewm.envs.ogbench.package import make_maze, numpy_random

CLEARANCE_M = {"point": 0.45, "ant": 0.25}
"""How far the middle of the body stays from walls: the point's radius of 0.7 m less what contacts give way; the ant's torso."""
POINT_SPEED_M = 0.2
"""How far an action of 1 moves the point in one control step."""
TELEPORT = "teleport_key"
START_NOISE_M = 1.0
"""How far from the middle of its cell an episode starts at most, in x and in y, as in the package."""


class MazeSimulator(MujocoSimulator):
    """One maze of the package with one body in it, holding one moment at a time."""

    def __init__(self, body: str, maze_type: str, time_limit_control_steps: int) -> None:
        self.env = make_maze(body, maze_type)
        self.model, self.data = self.env.model, self.env.data
        self.map = MazeMap(self.env.maze_map, CLEARANCE_M[body])
        self.has_kinds_of_pair = body == "point"
        self.full_speed_m = POINT_SPEED_M if body == "point" else None
        self.goal_tolerance_m = float(self.env._goal_tol)
        low, high = self.model.actuator_ctrlrange.T
        self.action_bounds = low.copy(), high.copy()
        self.control_step_s = float(self.env.dt)
        self.time_limit_control_steps = time_limit_control_steps
        self._has_teleports = self.env._teleport_info is not None
        own = tuple(self.model.camera(number).name for number in range(self.model.ncam))
        self.camera_names = (*own, "top")
        self._measure_state()
        self._teleport_key = np.zeros(1)

    def initialise(self, seed_words: Sequence[int]) -> Moment:
        """The first moment of a new episode: the body's own start, put near the middle of a random free cell."""
        generator = self.env.np_random = np.random.default_rng(list(seed_words))
        self._mujoco.mj_resetData(self.model, self.data)
        self.env.reset_model()
        cell = generator.choice(self.map.free_cells)
        self.env.set_xy(self.map.centre(cell) + generator.uniform(-START_NOISE_M, START_NOISE_M, 2))
        self._teleport_key = np.array([generator.integers(2**31)], np.float64)
        return self.save(0)

    def load(self, moment: Moment) -> None:
        """Put a moment into the simulator, with all that follows from its positions and velocities computed anew."""
        self._teleport_key = moment.variation.get(TELEPORT, self._teleport_key)
        self._set_physics(moment)
        self._mujoco.mj_step1(self.model, self.data)

    def save(self, env_step: int) -> Moment:
        """The moment that the simulator holds."""
        return Moment(self._get_physics(), {TELEPORT: self._teleport_key} if self._has_teleports else {}, env_step)

    def advance(self, action: np.ndarray, action_repeat: int) -> tuple[float, bool]:
        """The package's own step, ``action_repeat`` times; rewards follow from goals, so here they are 0."""
        with self._refusing_divergence():
            for _ in range(action_repeat):
                self._step(action)
        return 0.0, False

    def field(self, name: str) -> np.ndarray | None:
        """The shape and type of a part of a moment's variation."""
        return np.zeros(1) if name == TELEPORT and self._has_teleports else None

    def check(self, moment: Moment) -> None:
        """``ValueError`` for a moment without the key of its teleports, or with one that is no key."""
        if not self._has_teleports:
            return
        key = moment.variation.get(TELEPORT)
        if key is None or not (0 <= key[0] < 2**31 and key[0] == int(key[0])):
            raise ValueError("the key of its teleports is missing or no whole number in [0, 2**31)")

    def camera(self, number: int) -> Any:
        """A number of the model's, or the package's view of the whole maze from above."""
        return number if number < self.model.ncam else self.env.custom_camera

    def label_table(self) -> LabelTable:
        """Where the middle of the body is and how fast it moves; the ant's orientation and joints."""
        if self.model.nq == 2:
            names = ("x_m", "y_m", "velocity_x_m_s", "velocity_y_m_s")
            return LabelTable([Column(name, "qpos" if number < 2 else "qvel", number % 2) for number, name in enumerate(names)], self.model)
        names = tuple(self.model.joint(number).name for number in range(self.model.njnt))
        columns = [column for number, name in enumerate(names) for column in columns_of_joint(self.model, number, "" if name == "root" else name)]
        return LabelTable([Column(column.name.lstrip("_"), column.source, column.index, column.transform) for column in columns], self.model)

    def moment_at(self, place: np.ndarray, moment: Moment) -> Moment:
        """The moment with the middle of the body put at (x, y)."""
        qpos = self.part(moment, "qpos").copy()
        qpos[:2] = place
        return self.with_part(moment, qpos=qpos)

    def _step(self, action: np.ndarray) -> None:
        if not self._has_teleports:
            self.env.step(action)
            return
        control_step = round(self.data.time / self.control_step_s)
        with numpy_random(np.random.RandomState([int(self._teleport_key[0]), control_step])):
            self.env.step(action)
