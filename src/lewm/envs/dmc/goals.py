"""What is true of a Control Suite world, and when it is where it should be: labels of every model, success predicates of every domain.

Axes: E episode (or any number of rows n), s label.

**Labels** are those of every joint (``mujoco_labels.py``); after them come the places of ``POSITIONS`` that the task's model has.

**Success**: each compared label must lie within its tolerance of the goal's. The distance is the largest |difference| / tolerance, so 1 is the edge
of success whatever the units; the differences of angles are taken the short way round unless ``is_wrapped`` is off.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.envs.mujoco import labels as mujoco_labels
from lewm.errors import EnvError
from lewm.registry import did_you_mean

STRATA = ("far", "near")
FAR_TOLERANCES = 10.0
"""A goal is ``far`` from a start at this many tolerances or more, ``near`` from 1 on, and solved below."""

GOALS: dict[str, dict[str, tuple[tuple[str, float], ...]]] = {
    "acrobot": {"pose": (("*_rad", 0.2),)},
    "ball_in_cup": {"ball-position": (("ball_[xz]_m", 0.03),)},
    "cartpole": {"pose": (("slider_m", 0.1), ("hinge_*_rad", 0.15))},
    "cheetah": {"pose": (("*_rad", 0.3),)},
    "dog": {"torso-position": (("root_[xyz]_m", 0.15),)},
    "finger": {"pose": (("*_rad", 0.15),)},
    "fish": {"torso-position": (("root_[xyz]_m", 0.05),)},
    "hopper": {"pose": (("*_rad", 0.3),)},
    "humanoid": {"torso-position": (("root_[xyz]_m", 0.15),)},
    "humanoid_CMU": {"torso-position": (("root_[xyz]_m", 0.15),)},
    "lqr": {"pose": (("joint_*_m", 0.05),)},
    "manipulator": {"object-position": (("ball_[xz]_m", 0.03), ("peg_[xz]_m", 0.03))},
    "pendulum": {"pose": (("hinge_rad", 0.1),)},
    "point_mass": {"position": (("root_[xy]_m", 0.015),)},
    "quadruped": {"torso-position": (("root_[xyz]_m", 0.15),)},
    "reacher": {"qpos-match": (("*_rad", 0.05),), "fingertip": (("finger_[xy]_m", 0.01),)},
    "stacker": {"object-positions": (("box?_[xz]_m", 0.03),)},
    "swimmer": {"nose-position": (("nose_[xy]_m", 0.1),)},
    "walker": {"pose": (("*_rad", 0.3),)},
}
"""Success predicates by domain, the default first: (pattern of label names, tolerance in the label's unit). ``pose``: every joint but the root's
translation. ``reacher``: ``qpos-match`` is LeWorldModel's predicate (there unwrapped), ``fingertip`` asks only where the tip is."""

POSITIONS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "acrobot": (("site", "tip", "xz"),),
    "dog": (("geom", "target", "xy"),),
    "finger": (("site", "tip", "xz"), ("site", "target", "xz")),
    "fish": (("geom", "mouth", "xyz"), ("geom", "target", "xyz")),
    "manipulator": (("site", "grasp", "xz"), ("body", "target_ball", "xz"), ("body", "target_peg", "xz")),
    "reacher": (("geom", "finger", "xy"), ("geom", "target", "xy")),
    "stacker": (("site", "grasp", "xz"), ("body", "target", "xz")),
    "swimmer": (("geom", "nose", "xy"), ("geom", "target", "xy")),
}
"""Places in the world that are labels too, by domain: (kind, name in the model, axes)."""


class LabelTable(mujoco_labels.LabelTable):
    """The labels of one task's model: every joint, and the domain's ``POSITIONS``."""

    def __init__(self, domain: str, model: Any) -> None:
        names = [model.joint(number).name or f"joint{number}" for number in range(model.njnt)]
        columns = [column for number, name in enumerate(names) for column in mujoco_labels.columns_of_joint(model, number, name)]
        self._places: list[tuple[str, int, int]] = []
        for kind, name, axes in POSITIONS.get(domain, ()):
            names = [getattr(model, kind)(number).name for number in range(getattr(model, f"n{kind}"))]
            for axis in axes if name in names else "":
                columns.append(mujoco_labels.Column(f"{name}_{axis}_m", "positions", len(self._places)))
                self._places.append(("xpos" if kind == "body" else f"{kind}_xpos", names.index(name), "xyz".index(axis)))
        super().__init__(columns, model)

    def positions(self, data: Any) -> np.ndarray:
        """float64 [num_positions]: the places in the simulator's present data."""
        return np.array([getattr(data, array)[number, axis] for array, number, axis in self._places], np.float64)


@dataclass(frozen=True)
class Predicate:
    """When a world is where its goal is: the compared labels, their tolerances, and whether angles are equal after full turns."""

    names: tuple[str, ...]
    columns: np.ndarray
    tolerances: np.ndarray
    is_angle: np.ndarray
    is_wrapped: bool = True

    @classmethod
    def of(
        cls, domain: str, success: str | None, label_names: tuple[str, ...], *, tolerance_scale: float = 1.0, is_wrapped: bool = True
    ) -> "Predicate":
        """The domain's predicate called ``success`` (None: its first); ``EnvError`` if there is none of this name."""
        known: Mapping[str, tuple[tuple[str, float], ...]] = GOALS[domain]
        name = next(iter(known)) if success is None else success
        if name not in known:
            raise EnvError(f"success of dmc/{domain} cannot be {name!r}.{did_you_mean(str(name), known)}")
        tolerances: dict[str, float] = {}
        for pattern, tolerance in known[name]:
            for label in fnmatch.filter(label_names, pattern):
                tolerances.setdefault(label, tolerance * tolerance_scale)
        return cls(
            tuple(tolerances),
            np.array([label_names.index(label) for label in tolerances]),
            np.array(list(tolerances.values())),
            np.array([label.endswith("_rad") for label in tolerances]),
            is_wrapped,
        )

    @property
    def readable_names(self) -> tuple[str, ...]:
        """The compared labels as a linear probe can read them: an angle by its sine and cosine."""
        readable = [[name.removesuffix("rad") + part for part in ("sin", "cos")] if name.endswith("_rad") else [name] for name in self.names]
        return tuple(name for names in readable for name in names)

    def distance(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: the largest difference between labels [n, s] and those of the goals, in tolerances; below 1 is solved."""
        difference = np.asarray(labels, np.float64)[:, self.columns] - np.asarray(goal_labels, np.float64)[:, self.columns]
        if self.is_wrapped:
            difference = np.where(self.is_angle, (difference + np.pi) % (2 * np.pi) - np.pi, difference)
        distance: np.ndarray = (np.abs(difference) / self.tolerances).max(-1)
        return distance

    def is_solved(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """Whether within every tolerance, bool [n]."""
        return np.asarray(self.distance(labels, goal_labels) < 1.0)

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n]: 0 far, 1 near (``FAR_TOLERANCES``), -1 solved at the start."""
        distance = self.distance(start_labels, goal_labels)
        return np.where(distance >= 1.0, (distance < FAR_TOLERANCES).astype(np.int64), -1)
