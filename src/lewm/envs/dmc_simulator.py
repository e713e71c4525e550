"""One task of the DeepMind Control Suite as a function of explicit moments: load one, advance it, save it.

Everything that an episode's future and pictures depend on is in its moment, so that one simulator serves a whole batch and a state is exact by
construction. The suite: Tassa et al., arXiv 2006.12983.
"""

import contextlib
import functools
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dm_control  # noqa: F401  # says early that the extra is missing; what draws is imported only once a backend is chosen
import numpy as np

from lewm.envs.base import EpisodeError
from lewm.envs.mujoco_rendering import asked_backend
from lewm.errors import EnvError
from lewm.registry import did_you_mean

UNBOUNDED = 1e9
"""The suite gives an actuator without limits bounds of 1e10, which no policy or planner can explore: here they are [-1, 1]."""
ASSETS = ("tex_", "mesh_", "skin_", "bvh_", "oct_", "name_", "names", "paths", "text_", "key_", "plugin")
"""Beginnings of the names of model fields that no episode changes: large, or no numbers."""


@functools.cache
def load_suite() -> Any:
    """``dm_control.suite``, imported without its own GL; ``EnvError`` if ``MUJOCO_GL`` names no backend.

    A process that never draws needs no GL, so nothing here may fail for the lack of it. And dm_control's GL contexts, when collected, delete
    the buffers of whichever other context is current. Who wants its ``physics.render`` beside this imports dm_control first.
    """
    asked = asked_backend()
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        from dm_control import suite
    finally:
        del os.environ["MUJOCO_GL"]
        if asked:
            os.environ["MUJOCO_GL"] = asked
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


@dataclass(frozen=True)
class Moment:
    """One world at one time. Its arrays are never changed in place."""

    physics: np.ndarray
    """float64 [P]: MuJoCo's integration state: time, positions, velocities, activations, warm start, controls, forces, mocap."""
    variation: dict[str, np.ndarray] = field(default_factory=dict)
    """Fields of the model in which this episode differs from the compiled one: targets, gains, terrain."""
    env_step: int = 0


class Simulator:
    """The physics and the task of one suite environment, holding one moment at a time."""

    def __init__(self, domain: str, task: str, hidden_geoms: Sequence[str] = ()) -> None:
        with _quiet():
            # The seed decides the springs of lqr, which are drawn with the model: here they are the same in every episode.
            self._env = load_suite().load(domain, task, task_kwargs={"random": 0})
        import mujoco
        from dm_control.rl.control import PhysicsError

        self._mujoco, self._physics_error = mujoco, PhysicsError
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
        self._signature = mujoco.mjtState.mjSTATE_INTEGRATION.value
        self.num_physics: int = mujoco.mj_stateSize(self.model, self._signature)
        self._offsets = self._offsets_in_state()
        self.variation: dict[str, np.ndarray] = {}
        # Some tasks take measures of their model when an episode begins; they are the same for every episode.
        self.initialise([0])

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """float64 [a] low and high."""
        spec = self._env.action_spec()
        low, high = np.broadcast_to(spec.minimum, spec.shape), np.broadcast_to(spec.maximum, spec.shape)
        return np.where(low < -UNBOUNDED, -1.0, low), np.where(high > UNBOUNDED, 1.0, high)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The cameras in the model's order; one without a name is called by its number."""
        return tuple(self.model.camera(index).name or f"camera{index}" for index in range(self.model.ncam))

    @property
    def control_step_s(self) -> float:
        """Simulated time of one control step."""
        return float(self._env.control_timestep())

    @property
    def time_limit_control_steps(self) -> int | None:
        """The suite's own length of an episode; None where it has none."""
        limit = self._env._step_limit
        return None if math.isinf(limit) else math.ceil(limit)

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
        self._mujoco.mj_setState(self.model, self.data, moment.physics, self._signature)
        self._mujoco.mj_step1(self.model, self.data)

    def save(self, env_step: int) -> Moment:
        """The moment that the simulator holds."""
        physics = np.empty(self.num_physics)
        self._mujoco.mj_getState(self.model, self.data, physics, self._signature)
        return Moment(physics, self.variation, env_step)

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

    def with_part(self, moment: Moment, **parts: np.ndarray | float) -> Moment:
        """The moment with parts of its physics (``qpos``, ``qvel``, ``act``, ``ctrl``, ``qacc_warmstart``, ``time``) replaced."""
        physics = moment.physics.copy()
        for name, value in parts.items():
            physics[self._offsets[name]] = value
        return Moment(physics, moment.variation, moment.env_step)

    def part(self, moment: Moment, name: str) -> np.ndarray:
        """float64 view of a part of the moment's physics."""
        return moment.physics[self._offsets[name]]

    def at_rest(self, moment: Moment) -> Moment:
        """The moment with nothing moving and nothing driven."""
        return self.with_part(moment, qvel=0.0, act=0.0, qacc_warmstart=0.0, ctrl=0.0)

    def field(self, name: str) -> np.ndarray | None:
        """The compiled model's field called ``name``, or None if there is none that an episode may change."""
        return self._pristine.get(name)

    def _vary(self, variation: dict[str, np.ndarray]) -> None:
        for name in self.variation:
            np.copyto(self._fields[name], self._pristine[name])
        for name, value in variation.items():
            np.copyto(self._fields[name], value)
        self.variation = variation

    def _offsets_in_state(self) -> dict[str, slice]:
        kinds = self._mujoco.mjtState
        parts = {
            "time": kinds.mjSTATE_TIME,
            "qpos": kinds.mjSTATE_QPOS,
            "qvel": kinds.mjSTATE_QVEL,
            "act": kinds.mjSTATE_ACT,
            "qacc_warmstart": kinds.mjSTATE_WARMSTART,
            "ctrl": kinds.mjSTATE_CTRL,
        }
        # MuJoCo writes the parts of a state in the order of their bits.
        lengths = {bit: self._mujoco.mj_stateSize(self.model, 1 << bit) for bit in range(self._signature.bit_length()) if self._signature >> bit & 1}
        starts = {bit: sum(length for other, length in lengths.items() if other < bit) for bit in lengths}
        bits = {name: kind.value.bit_length() - 1 for name, kind in parts.items()}
        return {name: slice(starts[bit], starts[bit] + lengths[bit]) for name, bit in bits.items()}
