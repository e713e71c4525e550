"""A MuJoCo world as a function of explicit moments: load one, advance it, save it.

Everything that an episode's future and pictures depend on is in its moment, so that one simulator serves a whole batch and a state is exact by
construction.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lewm.envs.base import EpisodeError


@dataclass(frozen=True)
class Moment:
    """One world at one time. Its arrays are never changed in place."""

    physics: np.ndarray
    """float64 [P]: MuJoCo's integration state: time, positions, velocities, activations, warm start, controls, forces, mocap."""
    variation: dict[str, np.ndarray] = field(default_factory=dict)
    """What else this episode depends on: fields of the model in which it differs from the compiled one (targets, gains, terrain), or what a
    world keeps beside MuJoCo (buttons)."""
    env_step: int = 0


class MujocoSimulator(ABC):
    """Physics and rules of one world, holding one moment at a time; subclasses call ``_measure_state`` once their model is compiled."""

    model: Any
    data: Any
    control_step_s: float
    """Simulated time of one control step."""
    time_limit_control_steps: int | None
    """The world's own length of an episode; None where it has none."""
    action_bounds: tuple[np.ndarray, np.ndarray]
    """float64 [a] low and high."""
    camera_names: tuple[str, ...]
    """The one that frames show by default comes first."""

    @abstractmethod
    def initialise(self, seed_words: Sequence[int]) -> Moment:
        """The first moment of a new episode, drawn from a generator seeded with ``seed_words``."""

    @abstractmethod
    def load(self, moment: Moment) -> None:
        """Put a moment into the simulator, with all that follows from its positions and velocities computed anew."""

    @abstractmethod
    def save(self, env_step: int) -> Moment:
        """The moment that the simulator holds."""

    @abstractmethod
    def advance(self, action: np.ndarray, action_repeat: int) -> tuple[float, bool]:
        """``action_repeat`` control steps with one action: the sum of their rewards, and whether the task ended.

        ``EpisodeError`` where the simulation diverges.
        """

    @abstractmethod
    def field(self, name: str) -> np.ndarray | None:
        """An array of the shape and type that a moment's variation has under ``name``, or None if no moment has it."""

    def check(self, moment: Moment) -> None:  # noqa: B027  # most worlds allow all
        """``ValueError`` if no episode of this world can be in such a moment."""

    def camera(self, number: int) -> Any:
        """What the renderer takes for camera ``number`` of ``camera_names``: a number of the model, or a free camera."""
        return number

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

    def _measure_state(self) -> None:
        """Learn from the compiled model what its integration state holds, and where."""
        import mujoco

        self._mujoco = mujoco
        kinds = mujoco.mjtState
        self._signature: int = kinds.mjSTATE_INTEGRATION.value
        self.num_physics: int = mujoco.mj_stateSize(self.model, self._signature)
        parts = {
            "time": kinds.mjSTATE_TIME,
            "qpos": kinds.mjSTATE_QPOS,
            "qvel": kinds.mjSTATE_QVEL,
            "act": kinds.mjSTATE_ACT,
            "qacc_warmstart": kinds.mjSTATE_WARMSTART,
            "ctrl": kinds.mjSTATE_CTRL,
        }
        # MuJoCo writes the parts of a state in the order of their bits.
        held = [bit for bit in range(self._signature.bit_length()) if self._signature >> bit & 1]
        lengths = {bit: mujoco.mj_stateSize(self.model, 1 << bit) for bit in held}
        starts = {bit: sum(length for other, length in lengths.items() if other < bit) for bit in lengths}
        bits = {name: kind.value.bit_length() - 1 for name, kind in parts.items()}
        self._offsets = {name: slice(starts[bit], starts[bit] + lengths[bit]) for name, bit in bits.items()}

    @contextlib.contextmanager
    def _refusing_divergence(self) -> Iterator[None]:
        """``EpisodeError`` if MuJoCo starts anew within, which it does with a warning only."""
        kinds = (self._mujoco.mjtWarning.mjWARN_BADQPOS, self._mujoco.mjtWarning.mjWARN_BADQVEL, self._mujoco.mjtWarning.mjWARN_BADQACC)
        before = [self.data.warning[kind.value].number for kind in kinds]
        yield
        if [self.data.warning[kind.value].number for kind in kinds] != before:
            raise EpisodeError("the simulation diverged: positions, velocities or accelerations are no numbers, or too large")

    def _set_physics(self, moment: Moment) -> None:
        self._mujoco.mj_setState(self.model, self.data, moment.physics, self._signature)

    def _get_physics(self) -> np.ndarray:
        physics = np.empty(self.num_physics)
        self._mujoco.mj_getState(self.model, self.data, physics, self._signature)
        return physics
