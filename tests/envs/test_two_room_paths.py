"""Shortest ways of two-room, against a search over all ways through the doorway."""

import numpy as np

from lewm.envs.two_room.batch import TwoRoomBatch
from lewm.envs.two_room.paths import path_lengths_px

GENERATOR = np.random.default_rng(0)
PLACES = GENERATOR.uniform(25, 199, (2, 60, 2))
DOOR_PX, WALL_HALF_PX, DOOR_HALF_PX = 49.0, 12.0, 7.0


def lengths(starts, goals):
    return path_lengths_px(starts, goals, np.full(len(starts), DOOR_PX), wall_half_px=WALL_HALF_PX, door_half_px=DOOR_HALF_PX)


def test_a_way_through_the_door_is_as_short_as_the_shortest_of_a_fine_grid_of_ways():
    starts, goals = PLACES[0] * [0.4, 1], PLACES[1] * [0.4, 1] + [119.4, 0]  # from left of the wall to right of it
    heights = np.linspace(DOOR_PX - DOOR_HALF_PX, DOOR_PX + DOOR_HALF_PX, 141)
    entry, leave = (np.stack(np.broadcast_arrays(x, heights), -1) for x in (112 - WALL_HALF_PX, 112 + WALL_HALF_PX))
    before = np.linalg.norm(starts[:, None] - entry, axis=-1)[:, :, None]
    between = np.linalg.norm(entry[:, None] - leave, axis=-1)
    after = np.linalg.norm(goals[:, None] - leave, axis=-1)[:, None]
    grid = (before + between + after).min((1, 2))
    assert np.abs(lengths(starts, goals) - grid).max() < 0.1  # px: the grid's heights are 0.1 px apart


def test_ways_within_a_room_are_straight_and_ways_back_are_as_long():
    starts, goals = PLACES
    assert np.allclose(lengths(starts, goals), lengths(goals, starts))
    is_same_room = (starts[:, 0] < 112) == (goals[:, 0] < 112)
    straight = np.linalg.norm(goals - starts, axis=-1)
    assert np.allclose(lengths(starts, goals)[is_same_room], straight[is_same_room])
    assert (lengths(starts, goals) >= straight - 1e-9).all()


def test_a_batch_measures_ways_through_the_door_that_the_labels_name():
    envs = TwoRoomBatch(1)
    starts, goals = np.array([[60, 150, 49], [60, 150, 150]]), np.array([[160, 150, 49], [160, 150, 150]])
    high, level = envs.path_lengths(starts, goals)
    assert level == 100
    assert high > 200
