"""How the two-room agent moves: the legal space of its centre, and one env step in it.

Axes: E episode, 2 (x, y). Lengths in px of the 224 x 224 arena, float64, so that a state continues exactly.

The agent is a disk. Walls are grown by its radius, with square corners (never more permissive than the disk), so that its centre is a point that
moves in three rectangles: the two rooms and, between them, the doorway. Edges belong to the legal space.
"""

from dataclasses import dataclass

import numpy as np

from lewm.envs.two_room.layout import ARENA_PX, BORDER_PX, WALL_X_PX

OFFICIAL_DOOR_MARGIN_PX = 1.75
OFFICIAL_PUSH_BACK_PX = 0.5


@dataclass(frozen=True)
class LegalSpace:
    """Where the centre of the agent may be, float64 [E] each: rooms from ``low`` to ``high`` on both axes, minus the wall but for the doorway."""

    low: np.ndarray
    high: np.ndarray
    wall_low: np.ndarray
    """x where the left room ends and the wall, grown by the radius, begins."""
    wall_high: np.ndarray
    """x where the grown wall ends and the right room begins."""
    door_low: np.ndarray
    """y range of the doorway."""
    door_high: np.ndarray

    @classmethod
    def of(cls, moments: np.ndarray) -> "LegalSpace":
        """The legal space of each moment's layout."""
        radius = moments["agent_radius_px"]
        wall_half = moments["wall_thickness_px"] / 2 + radius
        door_half = moments["door_half_size_px"] - radius
        return cls(
            BORDER_PX + radius,
            ARENA_PX - BORDER_PX - radius,
            WALL_X_PX - wall_half,
            WALL_X_PX + wall_half,
            moments["door_y_px"] - door_half,
            moments["door_y_px"] + door_half,
        )

    def is_in_arena(self, positions: np.ndarray) -> np.ndarray:
        """Whether positions [E, 2] keep clear of the border, bool [E]."""
        is_clear = (positions >= self.low[:, None]) & (positions <= self.high[:, None])
        return np.asarray(is_clear.all(-1))

    def is_legal(self, positions: np.ndarray) -> np.ndarray:
        """Whether positions [E, 2] are in a room or in the doorway, bool [E]."""
        x, y = positions.T
        is_in_room = (x <= self.wall_low) | (x >= self.wall_high)
        return np.asarray(self.is_in_arena(positions) & (is_in_room | ((y >= self.door_low) & (y <= self.door_high))))


def room_positions(moments: np.ndarray, is_right: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Positions [E, 2] in the left or right rooms; uniform there if ``unit`` [E, 2] is uniform in [0, 1)."""
    space = LegalSpace.of(moments)
    x_low, x_high = np.where(is_right, space.wall_high, space.low), np.where(is_right, space.high, space.wall_low)
    return np.stack([x_low + unit[:, 0] * (x_high - x_low), space.low + unit[:, 1] * (space.high - space.low)], -1)


def move_swept(positions: np.ndarray, displacements: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Where agents at legal ``positions`` [E, 2] end that try to move by ``displacements`` [E, 2] at constant speed.

    Exact for any length. Motion into a wall loses its blocked component and slides along the wall with the other one; the blocked component
    resumes as soon as the wall ends, as when an agent slides into the doorway. Every point on the way is legal.
    """
    space = LegalSpace.of(moments)
    x, y = positions[:, 0], positions[:, 1]
    dx, dy = displacements[:, 0], displacements[:, 1]
    is_in_room = (x <= space.wall_low) | (x >= space.wall_high)
    # 1. In a room: up to the moment (share of the step) at which the agent enters the doorway, or to the end of the step.
    wall_edge = np.where(x <= space.wall_low, space.wall_low, space.wall_high)
    is_towards_wall = is_in_room & (dx * (WALL_X_PX - x) > 0)
    contact = np.where(is_towards_wall, _share(wall_edge - x, dx), np.inf)
    to_low, to_high = _share(space.door_low - y, dy), _share(space.door_high - y, dy)
    is_level = (dy == 0) & (y >= space.door_low) & (y <= space.door_high)
    door_first, door_last = np.where(is_level, 0.0, np.minimum(to_low, to_high)), np.where(is_level, np.inf, np.maximum(to_low, to_high))
    enter = np.maximum(contact, door_first)
    is_entering = (enter <= door_last) & (enter < 1.0)
    # The limits below are applied to x itself, as rounding in the shares must not leave an agent a hair inside the wall.
    x_room = np.where(is_towards_wall, np.where(dx > 0, np.minimum(x + dx, wall_edge), np.maximum(x + dx, wall_edge)), x + dx)
    y_room = y + dy
    # 2. In the doorway, entered or started in: y is confined to it until x has left the wall behind; then 3. y is free again.
    start = np.where(is_entering, enter, 0.0)
    x_door = np.where(is_entering, wall_edge, x)
    y_door = np.where(is_entering, np.clip(y + start * dy, space.door_low, space.door_high), y)
    exit_edge = np.where(dx > 0, space.wall_high, space.wall_low)
    leave = np.where(dx == 0, 1.0, np.minimum(start + _share(exit_edge - x_door, dx), 1.0))
    y_out = np.clip(y_door + (leave - start) * dy, space.door_low, space.door_high) + (1.0 - leave) * dy
    x_out = x_door + (1.0 - start) * dx
    x_out = np.where(leave < 1.0, np.where(dx > 0, np.maximum(x_out, exit_edge), np.minimum(x_out, exit_edge)), x_out)
    is_via_door = is_entering | ~is_in_room
    moved = np.stack([np.where(is_via_door, x_out, x_room), np.where(is_via_door, y_out, y_room)], -1)
    return np.asarray(np.clip(moved, space.low[:, None], space.high[:, None]))


def move_official(positions: np.ndarray, displacements: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The same by the rule of the paper's code: only the end point is looked at.

    An end point in or beyond the grown wall, seen from the side of the start, is put back in front of it unless its y is within the door and a
    margin of 1.75 px. A path may therefore cut through the wall's corners.
    """
    space = LegalSpace.of(moments)
    moved = np.clip(positions + displacements, space.low[:, None], space.high[:, None])
    is_left = positions[:, 0] < WALL_X_PX
    is_past_edge = np.where(is_left, moved[:, 0] > space.wall_low, moved[:, 0] < space.wall_high)
    is_at_door = np.abs(moved[:, 1] - moments["door_y_px"]) <= moments["door_half_size_px"] + OFFICIAL_DOOR_MARGIN_PX
    put_back_x = np.where(is_left, space.wall_low - OFFICIAL_PUSH_BACK_PX, space.wall_high + OFFICIAL_PUSH_BACK_PX)
    moved[:, 0] = np.where(is_past_edge & ~is_at_door, put_back_x, moved[:, 0])
    return np.asarray(moved)


def _share(distance: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """The share of the step after which ``distance`` is covered; infinite for no displacement."""
    is_moving = displacement != 0
    return np.where(is_moving, distance / np.where(is_moving, displacement, 1.0), np.inf)
