"""One task of the DeepMind Control Suite as a function of explicit moments (Tassa et al., arXiv 2006.12983)."""

import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import dm_control  # noqa: F401  # says early that the extra is missing; what draws is imported only once a backend is chosen
import numpy as np

from lewm.envs.base import EpisodeError
from lewm.envs.mujoco.rendering import without_gl
from lewm.envs.mujoco.simulator import Moment, MujocoSimulator
from lewm.errors import EnvError
from lewm.registry import did_you_mean

UNBOUNDED = 1e9
"""The suite gives an actuator without limits bounds of 1e10, which no policy or planner can explore: here they are [-1, 1]."""
ASSETS = ("tex_", "mesh_", "skin_", "bvh_", "oct_", "name_", "names", "paths", "text_", "key_", "plugin")
"""Beginnings of the names of model fields that no episode changes: large, or no numbers."""


@functools.cache
def load_suite() -> Any:
    """``dm_control.suite``, imported without its own GL; ``EnvError`` if ``MUJOCO_GL`` names no backend."""
    with without_gl():
        from dm_control import suite
    return suite


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MuJoCo's remarks on the suite's own models from the user, who cannot mend them."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Simulator(MujocoSimulator):
    """The physics and the task of one suite environment, holding one moment at a time."""

    def __init__(self, domain: str, task: str, hidden_geoms: Sequence[str] = ()) -> None:
        with _quiet():
            # The seed decides the springs of lqr, which are drawn with the model: here they are the same in every episode.
            self._env = load_suite().load(domain, task, task_kwargs={"random": 0})
        from dm_control.rl.control import PhysicsError

        self._physics_error = PhysicsError
        self.physics, self.task = self._env.physics, self._env.task
        # quadruped-escape asks for dm_control's own GL contexts at every reset; they would be made for nothing and fail without a GPU or display.
        self.physics._make_rendering_contexts = lambda: None
        self.model, self.data = self.physics.model.ptr, self.physics.data.ptr
        names = [self.model.geom(index).name for index in range(self.model.ngeom)]
        for name in hidden_geoms:
            if name not in names:
                raise EnvError(f"env 'dmc/{domain}-{task}' has no geom {name!r} to hide.{did_you_mean(name, filter(None, names))}")
            self.model.geom_rgba[names.index(name), 3] = 0
        fields = {name: getattr(self.model, name) for name in dir(self.model) if not name.startswith(("_", *ASSETS))}
        self._fields = {name: value for name, value in fields.items() if isinstance(value, np.ndarray) and value.size}
        self._pristine = {name: value.copy() for name, value in self._fields.items()}
        self._measure_state()
        spec, limit = self._env.action_spec(), self._env._step_limit
        low, high = np.broadcast_to(spec.minimum, spec.shape), np.broadcast_to(spec.maximum, spec.shape)
        self.action_bounds = np.where(low < -UNBOUNDED, -1.0, low), np.where(high > UNBOUNDED, 1.0, high)
        self.control_step_s = float(self._env.control_timestep())
        self.time_limit_control_steps = None if math.isinf(limit) else math.ceil(limit)
        # In the model's order; one without a name is called by its number.
        self.camera_names = tuple(self.model.camera(index).name or f"camera{index}" for index in range(self.model.ncam))
        self.variation: dict[str, np.ndarray] = {}
        # Some tasks take measures of their model when an episode begins; they are the same for every episode.
        self.initialise([0])

    def initialise(self, seed_words: Sequence[int]) -> Moment:
        """The first moment of a new episode, as the suite draws it from a generator seeded with ``seed_words``."""
        self._vary({})
        self.task._random = np.random.RandomState(np.random.SeedSequence(list(seed_words)).generate_state(8))
        with _quiet(), self.physics.reset_context():
            self.task.initialize_episode(self.physics)
        self.variation = {name: value.copy() for name, value in self._fields.items() if not np.array_equal(value, self._pristine[name])}
        return self.save(0)

    def load(self, moment: Moment) -> None:
        """Put a moment into the simulator, with all that follows from its positions and velocities computed anew."""
        if moment.variation is not self.variation:
            self._vary(moment.variation)
        self._set_physics(moment)
        self._mujoco.mj_step1(self.model, self.data)

    def save(self, env_step: int) -> Moment:
        """The moment that the simulator holds."""
        return Moment(self._get_physics(), self.variation, env_step)

    def advance(self, action: np.ndarray, action_repeat: int) -> tuple[float, bool]:
        """``action_repeat`` control steps with one action: the sum of their rewards, and whether the task ended.

        ``EpisodeError`` where the simulation diverges.
        """
        reward = 0.0
        for _ in range(action_repeat):
            self.task.before_step(action, self.physics)
            try:
                self.physics.step(self._env._n_sub_steps)
            except self._physics_error as error:
                raise EpisodeError(f"the simulation diverged: {error}") from error
            self.task.after_step(self.physics)
            reward += float(self.task.get_reward(self.physics))
            if self.task.get_termination(self.physics) is not None:
                return reward, True
        return reward, False

    def field(self, name: str) -> np.ndarray | None:
        """The compiled model's field called ``name``, or None if there is none that an episode may change."""
        return self._pristine.get(name)

    def _vary(self, variation: dict[str, np.ndarray]) -> None:
        for name in self.variation:
            np.copyto(self._fields[name], self._pristine[name])
        for name, value in variation.items():
            np.copyto(self._fields[name], value)
        self.variation = variation
