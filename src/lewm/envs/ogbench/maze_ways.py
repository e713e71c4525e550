"""How far many places of a maze are from a few goals: shortest ways, looked up in tables.

Axes: n place, g point of the grid. Places are (x, y) in metres.
"""

import numpy as np

from lewm.envs.ogbench.maze_map import CELL_M, OFFSET_M, MazeMap

POINTS_PER_CELL = 8
MAX_TABLES = 256
"""Goals whose tables are kept."""


class WayTables:
    """Lengths of shortest ways, exact where the goal can be seen and to half the distance of two points of a grid elsewhere.

    A place in a wall, or nearer to one than the body gets, counts as the nearest free point of the grid.
    """

    def __init__(self, maze: MazeMap) -> None:
        self._maze = maze
        rows, columns = (POINTS_PER_CELL * count for count in maze.cells.shape)
        y, x = np.mgrid[:rows, :columns]
        self._shape = rows, columns
        points = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) * CELL_M / POINTS_PER_CELL - CELL_M / 2 - OFFSET_M
        is_free = maze.is_free(points) & maze.is_straight(points, points)  # nearer to a wall than the body gets, no way leads
        self._free = points[is_free]
        self._nearest = np.cumsum(is_free) - 1  # of a point of the grid: which free point is nearest
        for number in np.flatnonzero(~is_free):
            self._nearest[number] = np.square(self._free - points[number]).sum(-1).argmin()
        self._tables: dict[tuple[float, float], np.ndarray] = {}

    def lengths_m(self, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """float64 [n]: between places [n, 2]; a table is made for each different goal."""
        starts, goals = (np.asarray(places, np.float64) for places in (starts, goals))
        different, goal_of = np.unique(goals, axis=0, return_inverse=True)
        tables = np.stack([self._table(goal) for goal in different])
        around = tables[goal_of.reshape(-1), self._free_point(starts)]
        is_seen = self._maze.is_free(starts) & self._maze.is_free(goals) & self._maze.is_straight(starts, goals)
        return np.asarray(np.where(is_seen, np.linalg.norm(goals - starts, axis=-1), around))

    def _table(self, goal: np.ndarray) -> np.ndarray:
        """float64 [g]: from every free point to a goal."""
        key = (float(goal[0]), float(goal[1]))
        if key not in self._tables:
            if len(self._tables) >= MAX_TABLES:
                self._tables.clear()
            is_clear = self._maze.is_free(goal[None])[0] and self._maze.is_straight(goal[None], goal[None])[0]
            end = goal if is_clear else self._free[self._free_point(goal[None])[0]]
            self._tables[key] = self._maze.path_m(self._free, np.broadcast_to(end, self._free.shape))
        return self._tables[key]

    def _free_point(self, places: np.ndarray) -> np.ndarray:
        """int64 [n]: the free point of the grid that stands for each place."""
        columns, rows = np.floor((places + OFFSET_M + CELL_M / 2) * POINTS_PER_CELL / CELL_M).astype(np.int64).T
        rows, columns = np.clip(rows, 0, self._shape[0] - 1), np.clip(columns, 0, self._shape[1] - 1)
        return np.asarray(self._nearest[rows * self._shape[1] + columns])
