"""The agent of two-room and the walls."""

import numpy as np
import pytest

from lewm.envs.two_room.layout import MOMENT, PERTURBATIONS
from lewm.envs.two_room.physics import LegalSpace, move_official, move_swept, room_positions

NUM_MOVES = 200_000
TOLERANCE_PX = 1e-9


def random_layouts(count: int, generator: np.random.Generator) -> np.ndarray:
    moments = np.zeros(count, MOMENT)
    for name in ("agent_radius_px", "door_y_px", "wall_thickness_px"):
        moments[name] = generator.uniform(PERTURBATIONS[name].low[0], PERTURBATIONS[name].high[0], count)
    moments["door_half_size_px"] = generator.uniform(np.maximum(8, 1.1 * moments["agent_radius_px"]), 21)
    return moments


def default_layouts(count: int) -> np.ndarray:
    moments = np.zeros(count, MOMENT)
    for name in ("agent_radius_px", "door_y_px", "wall_thickness_px", "door_half_size_px"):
        moments[name] = PERTURBATIONS[name].default[0]
    return moments


def gap_to_walls(positions: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Distance from the centre to the nearest wall, from the rectangles themselves: independent of ``LegalSpace``."""
    x, y = positions.T
    half, door_low = moments["wall_thickness_px"] / 2, moments["door_y_px"] - moments["door_half_size_px"]
    door_high = moments["door_y_px"] + moments["door_half_size_px"]
    across = np.maximum(np.abs(x - 112) - half, 0)
    to_upper, to_lower = np.hypot(across, np.maximum(y - door_low, 0)), np.hypot(across, np.maximum(door_high - y, 0))
    return np.minimum.reduce([to_upper, to_lower, x - 14, 210 - x, y - 14, 210 - y])


def random_starts(moments: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Starts in the rooms, many of them near the door, and in the doorway."""
    count, space = len(moments), LegalSpace.of(moments)
    starts = room_positions(moments, generator.random(count) < 0.5, generator.random((count, 2)))
    near = np.stack([generator.uniform(80, 144, count), moments["door_y_px"] + generator.uniform(-40, 40, count)], -1)
    is_near = space.is_legal(near)
    return np.where(is_near[:, None], near, starts)


def test_a_swept_move_of_any_length_is_a_continuous_legal_path():
    generator = np.random.default_rng(0)
    num_samples = 16
    for _ in range(10):
        moments = random_layouts(NUM_MOVES // 10, generator)
        starts = random_starts(moments, generator)
        displacements = generator.normal(0, 1, starts.shape) * generator.choice([3.0, 15.0, 60.0], (len(starts), 1))
        previous = starts
        for sample in range(1, num_samples + 1):
            # At constant speed, the point reached after a share of the move is the end of that share of the displacement.
            point = move_swept(starts, displacements * (sample / num_samples), moments)
            assert (gap_to_walls(point, moments) >= moments["agent_radius_px"] - TOLERANCE_PX).all()
            assert (np.abs(point - previous) <= np.abs(displacements) / num_samples + TOLERANCE_PX).all()
            previous = point


def test_a_swept_move_ends_where_many_tiny_moves_would():
    generator = np.random.default_rng(1)
    num_tiny = 1000
    moments = random_layouts(4000, generator)
    space, starts = LegalSpace.of(moments), random_starts(moments, generator)
    displacements = generator.uniform(-30, 30, starts.shape)
    positions = starts.copy()
    for _ in range(num_tiny):
        for axis in (0, 1):
            tried = positions.copy()
            tried[:, axis] += displacements[:, axis] / num_tiny
            positions = np.where(space.is_legal(tried)[:, None], tried, positions)
    difference = np.abs(positions - move_swept(starts, displacements, moments)).max(-1)
    # Tiny moves stop up to one of them short of a wall; which way a path goes that grazes a corner is decided by less than that.
    assert np.mean(difference <= 3 * 30 / num_tiny) >= 0.995


def test_an_end_of_a_swept_move_is_exactly_legal_and_can_be_moved_on_from():
    generator = np.random.default_rng(2)
    moments = random_layouts(20_000, generator)
    positions = random_starts(moments, generator)
    for _ in range(60):
        positions = move_swept(positions, generator.uniform(-5, 5, positions.shape), moments)
        assert LegalSpace.of(moments).is_legal(positions).all()


def test_an_agent_slides_along_the_wall_and_into_the_door():
    moments = default_layouts(3)
    starts = np.array([[98.0, 150.0], [98.0, 38.0], [98.0, 49.0]])
    ends = move_swept(starts, np.array([[5.0, 5.0], [5.0, 5.0], [5.0, 0.0]]), moments)
    # Contact at x = 112 - 5 - 7 = 100; the doorway spans y = 49 -+ 7, reached after 4 of 5 px down, which leaves 1/5 of the step in x.
    np.testing.assert_allclose(ends, [[100.0, 155.0], [101.0, 43.0], [103.0, 49.0]])


def test_the_door_lets_the_agent_through_in_both_directions():
    moments = default_layouts(2)
    positions = np.array([[60.0, 49.0], [164.0, 49.0]])
    for _ in range(25):
        positions = move_swept(positions, np.array([[5.0, 0.0], [-5.0, 0.0]]), moments)
    np.testing.assert_allclose(positions, [[185.0, 49.0], [39.0, 49.0]])


def test_the_official_rule_stops_half_a_pixel_before_contact_and_admits_agents_beside_the_door():
    starts, displacements = np.array([[98.0, 150.0], [98.0, 64.0]]), np.array([[5.0, 0.0], [5.0, 0.0]])
    moments = default_layouts(2)
    np.testing.assert_allclose(move_official(starts, displacements, moments), [[99.5, 150.0], [103.0, 64.0]])


def test_walls_can_be_crossed_by_the_official_rule_and_not_by_the_swept_one():
    moments, steps = default_layouts(1), np.array([[5.0, 0.0]])
    official = swept = np.array([[90.0, 64.5]])  # the door ends at y = 63: the agent's centre goes through the wall itself
    for _ in range(10):
        official, swept = move_official(official, steps, moments), move_swept(swept, steps, moments)
    np.testing.assert_allclose(official, [[140.0, 64.5]])
    np.testing.assert_allclose(swept, [[100.0, 64.5]])


@pytest.mark.parametrize("move", [move_swept, move_official])
def test_the_border_stops_the_agent_at_its_radius(move):
    ends = move(np.array([[23.0, 23.0], [201.0, 201.0]]), np.array([[-5.0, -5.0], [5.0, 5.0]]), default_layouts(2))
    np.testing.assert_allclose(ends, [[21.0, 21.0], [203.0, 203.0]])
