"""Tables of shortest ways through a maze, against the ways themselves."""

import numpy as np

from lewm.envs.ogbench.maze_map import MazeMap
from lewm.envs.ogbench.maze_ways import WayTables

CELLS = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
MAZE = MazeMap(CELLS, 0.45)
CENTRES = np.array([MAZE.centre(cell) for cell in MAZE.free_cells])


def test_looked_up_ways_are_within_half_a_grid_diagonal_of_the_exact_ones():
    starts = np.repeat(CENTRES, len(CENTRES), axis=0) + np.random.default_rng(0).uniform(-1, 1, (len(CENTRES) ** 2, 2))
    goals = np.tile(CENTRES, (len(CENTRES), 1))
    exact = MAZE.path_m(starts, goals)
    assert np.isfinite(exact).all()
    assert np.abs(WayTables(MAZE).lengths_m(starts, goals) - exact).max() <= 0.25 * np.sqrt(2)


def test_a_place_in_a_wall_counts_as_the_nearest_free_one():
    goals = np.repeat(CENTRES[-1:], 2, axis=0)
    wall = MAZE.centre((2, 1)) - np.array([0, 1.9])  # just inside the wall below the first free row
    in_wall, beside = WayTables(MAZE).lengths_m(np.array([wall, wall - np.array([0, 0.6])]), goals)
    assert abs(in_wall - beside) < 0.5
    outside = WayTables(MAZE).lengths_m(np.array([[-1e3, -1e3]]), CENTRES[-1:])
    assert np.isfinite(outside).all()
