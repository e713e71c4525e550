"""Lengths of the shortest legal ways of two-room, for any two points.

Axes: n pair of points. Lengths in px of the 224 x 224 arena.
"""

import numpy as np

from lewm.envs.two_room.layout import WALL_X_PX

NUM_ROUNDS = 8
"""Each round straightens the string at both ends of the doorway; it moves the length by less than 0.1 px after the fourth."""


def path_lengths_px(starts: np.ndarray, goals: np.ndarray, door_y_px: np.ndarray, *, wall_half_px: float, door_half_px: float) -> np.ndarray:
    """float64 [n]: between points [n, 2], through the doorway where they lie on different sides of the wall.

    ``wall_half_px`` and ``door_half_px`` are those of the space in which the agent's centre moves: the wall grown and the doorway shrunk by its
    radius. A point inside the wall counts as one of the doorway's edge on its side.
    """
    starts, goals = np.asarray(starts, np.float64), np.asarray(goals, np.float64)
    is_leftward = starts[:, 0] > goals[:, 0]
    left, right = np.where(is_leftward[:, None], goals, starts), np.where(is_leftward[:, None], starts, goals)
    is_crossing = (left[:, 0] < WALL_X_PX) & (right[:, 0] >= WALL_X_PX)
    low, high = door_y_px - door_half_px, door_y_px + door_half_px
    entry_x, exit_x = np.maximum(WALL_X_PX - wall_half_px, left[:, 0]), np.minimum(WALL_X_PX + wall_half_px, right[:, 0])
    entry_y = exit_y = np.clip(door_y_px, low, high)
    for _ in range(NUM_ROUNDS):
        entry_y = np.clip(_height(left[:, 0], left[:, 1], exit_x, exit_y, entry_x), low, high)
        exit_y = np.clip(_height(entry_x, entry_y, right[:, 0], right[:, 1], exit_x), low, high)
    through = (
        np.hypot(entry_x - left[:, 0], entry_y - left[:, 1])
        + np.hypot(exit_x - entry_x, exit_y - entry_y)
        + np.hypot(right[:, 0] - exit_x, right[:, 1] - exit_y)
    )
    straight = np.hypot(right[:, 0] - left[:, 0], right[:, 1] - left[:, 1])
    return np.asarray(np.where(is_crossing, through, straight))


def _height(x: np.ndarray, y: np.ndarray, to_x: np.ndarray, to_y: np.ndarray, at_x: np.ndarray) -> np.ndarray:
    """Where the line between two points is at ``at_x``."""
    run = np.maximum(to_x - x, 1e-9)
    return np.asarray(y + (to_y - y) * (at_x - x) / run)
