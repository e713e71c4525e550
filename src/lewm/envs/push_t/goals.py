"""What is true of a Push-T world, and when it is where it should be: labels, success predicates, kinds of pair.

Axes: E episode (or any number of rows n), s label.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

STRATA = ("block-moves", "agent-only")
LABEL_NAMES = (
    "agent_x_px",
    "agent_y_px",
    "block_x_px",
    "block_y_px",
    "block_rad",
    "block_sin",
    "block_cos",
    "agent_velocity_x_px_s",
    "agent_velocity_y_px_s",
    "block_velocity_x_px_s",
    "block_velocity_y_px_s",
    "block_velocity_rad_s",
)
"""``block_x_px``, ``block_y_px``: the block's origin, in the middle of its bar's outer edge, as in gym-pusht. ``block_rad`` is in [0, 2 pi)."""


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """When a world is where its goal is: within a distance and an angle (the short way round), for some env steps on end."""

    position_px: float
    """The goal is reached nearer than this (strictly)."""
    angle_rad: float
    is_agent_compared: bool
    """Whether the distance is that of (agent, block), a vector of four, or that of the block alone."""
    hold_env_steps: int = 1
    """How many env steps on end must be within the tolerances."""

    @property
    def goal_label_names(self) -> tuple[str, ...]:
        """The labels that decide, as a linear probe can read them."""
        return (LABEL_NAMES[:2] if self.is_agent_compared else ()) + ("block_x_px", "block_y_px", "block_sin", "block_cos")

    def scaled(self, factor: float) -> "Predicate":
        """The same with its tolerances multiplied."""
        return replace(self, position_px=factor * self.position_px, angle_rad=factor * self.angle_rad)

    def distance(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: how far labels [n, s] are from the goals', in tolerances: the larger of position and angle; below 1 is within."""
        apart = _distance(labels, goal_labels, 0 if self.is_agent_compared else 2, 4)
        return np.maximum(apart / self.position_px, _turn(labels, goal_labels) / self.angle_rad)

    def is_within(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """Whether labels [n, s] are within the tolerances of the goals', bool [n]."""
        first = 0 if self.is_agent_compared else 2
        return np.asarray((_distance(labels, goal_labels, first, 4) < self.position_px) & (_turn(labels, goal_labels) < self.angle_rad))

    def strata(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n]: 0 if the goal cannot be reached without moving the block, 1 if the pusher alone can, -1 if it is reached already."""
        is_block_there = (_distance(labels, goal_labels, 2, 4) < self.position_px) & (_turn(labels, goal_labels) < self.angle_rad)
        return np.where(self.is_within(labels, goal_labels), -1, is_block_there.astype(np.int64))


_OFFICIAL = Predicate(position_px=20.0, angle_rad=np.pi / 9, is_agent_compared=True)
PREDICATES: Mapping[str, Predicate] = {
    "official": _OFFICIAL,
    "heldout": _OFFICIAL,
    "clear-moderate": _OFFICIAL,
    "clear-strict": Predicate(position_px=10.0, angle_rad=np.deg2rad(10), is_agent_compared=False, hold_env_steps=3),
}
"""``official``: LeWorldModel's and DINO-WM's; they, too, take angles the short way round. ``heldout`` and ``clear-moderate`` are the same predicate
with other pairs, which is a matter of the protocol. ``clear-strict``: CLEAR-LeWM's, the block alone."""


def labels_of(moments: np.ndarray) -> np.ndarray:
    """float32 [E, s]: ``LABEL_NAMES`` of moments [E]."""
    angle = moments["block_rad"]
    wrapped = (angle % (2 * np.pi)).astype(np.float32)
    wrapped = np.where(wrapped >= np.float32(2 * np.pi), np.float32(0), wrapped)  # float32 may round up to a full turn
    columns = [
        moments["agent_px"],
        moments["block_px"],
        wrapped[:, None],
        np.sin(angle)[:, None],
        np.cos(angle)[:, None],
        moments["agent_velocity_px_s"],
        moments["block_velocity_px_s"],
        moments["block_velocity_rad_s"][:, None],
    ]
    return np.concatenate(columns, -1).astype(np.float32)


def _distance(labels: np.ndarray, goal_labels: np.ndarray, first: int, last: int) -> np.ndarray:
    difference = np.asarray(labels, np.float64)[:, first:last] - np.asarray(goal_labels, np.float64)[:, first:last]
    return np.asarray(np.sqrt(np.square(difference).sum(-1)))


def _turn(labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
    column = LABEL_NAMES.index("block_rad")
    difference = np.asarray(labels, np.float64)[:, column] - np.asarray(goal_labels, np.float64)[:, column]
    return np.asarray(np.abs((difference + np.pi) % (2 * np.pi) - np.pi))
