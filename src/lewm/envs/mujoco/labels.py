"""True quantities of MuJoCo worlds as named labels: joints, and whatever else a world measures.

Axes: E episode, s label.

Labels are float32 and named with their units. Each joint has its position and velocity: a hinge ``<joint>_rad`` (as MuJoCo counts it: turns are
kept), ``<joint>_sin``, ``<joint>_cos`` and ``<joint>_velocity_rad_s``; a slide ``<joint>_m`` and ``<joint>_velocity_m_s``; a free joint
``<joint>_x_m``, ``_y_m``, ``_z_m``, the quaternion ``_qw`` to ``_qz`` and six velocities; a ball joint the quaternion and three velocities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FREE, BALL, SLIDE, HINGE = range(4)
"""Kinds of joint, numbered as in MuJoCo."""


@dataclass(frozen=True)
class Column:
    """One label: a number of the simulator, or the sine or cosine of one."""

    name: str
    source: str
    """``qpos``, ``qvel`` or ``positions``."""
    index: int
    transform: str = ""
    """``sin``, ``cos`` or nothing."""


def joint_columns(name: str, kind: int, qpos: int, qvel: int) -> list[Column]:
    """The labels of a joint whose positions and velocities begin at the given places."""
    if kind == HINGE:
        angles = [Column(f"{name}_{suffix}", "qpos", qpos, transform) for suffix, transform in (("rad", ""), ("sin", "sin"), ("cos", "cos"))]
        return [*angles, Column(f"{name}_velocity_rad_s", "qvel", qvel)]
    if kind == SLIDE:
        return [Column(f"{name}_m", "qpos", qpos), Column(f"{name}_velocity_m_s", "qvel", qvel)]
    places = [f"{axis}_m" for axis in "xyz"] if kind == FREE else []
    speeds = [f"velocity_{axis}_m_s" for axis in "xyz"] if kind == FREE else []
    positions, velocities = [*places, "qw", "qx", "qy", "qz"], [*speeds, *(f"velocity_{axis}_rad_s" for axis in "xyz")]
    return [Column(f"{name}_{suffix}", "qpos", qpos + place) for place, suffix in enumerate(positions)] + [
        Column(f"{name}_{suffix}", "qvel", qvel + place) for place, suffix in enumerate(velocities)
    ]


def columns_of_joint(model: Any, number: int, name: str) -> list[Column]:
    """The labels of joint ``number`` of a model, called ``name``."""
    return joint_columns(name, int(model.jnt_type[number]), int(model.jnt_qposadr[number]), int(model.jnt_dofadr[number]))


class LabelTable:
    """The labels of one model: their names, and their values from positions, velocities and what else was measured (``positions``)."""

    def __init__(self, columns: Sequence[Column], model: Any) -> None:
        starts = {"qpos": 0, "qvel": model.nq, "positions": model.nq + model.nv}
        self.names = tuple(column.name for column in columns)
        self.num_positions = sum(column.source == "positions" for column in columns)
        self._index = np.array([starts[column.source] + column.index for column in columns])
        self._is_sin = np.array([column.transform == "sin" for column in columns])
        self._is_cos = np.array([column.transform == "cos" for column in columns])

    def values(self, qpos: np.ndarray, qvel: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """float32 [E, s] from float64 [E, nq], [E, nv] and [E, num_positions]."""
        values = np.concatenate([qpos, qvel, positions], -1)[:, self._index]
        values[:, self._is_sin] = np.sin(values[:, self._is_sin])
        values[:, self._is_cos] = np.cos(values[:, self._is_cos])
        return values.astype(np.float32)
