"""The plan of a maze: which cells are free, what can be seen from where, and how long the shortest way is.

Axes: n place, W wall, K corner. Places are (x, y) in metres; cells are (row, column), whose row counts along y.
"""

import functools

import numpy as np

from lewm.errors import EnvError

CELL_M, OFFSET_M = 4.0, 4.0
"""Side of a cell, and how far the centre of cell (0, 0) lies from the origin, both ways: as the package has them."""
MARGIN_M = 1e-6
"""Ways turn this far off the corners, so that rounding does not make them touch."""


class MazeMap:
    """``cells`` int [rows, columns] (1 is a wall); ``clearance_m``: how far the middle of the body stays from walls."""

    def __init__(self, cells: np.ndarray, clearance_m: float) -> None:
        self.cells, self.clearance_m = np.asarray(cells), clearance_m
        walls = np.argwhere(self.cells == 1)
        self._centres = walls[:, ::-1] * CELL_M - OFFSET_M  # W 2
        self._half = CELL_M / 2 + clearance_m

    @property
    def free_cells(self) -> np.ndarray:
        """int64 [n, 2]: (row, column) of every free cell."""
        return np.argwhere(self.cells == 0)

    def centre(self, cell: tuple[int, int] | np.ndarray) -> np.ndarray:
        """float64 [2]: the middle of a cell."""
        return np.array([cell[1], cell[0]]) * CELL_M - OFFSET_M

    def is_free(self, places: np.ndarray) -> np.ndarray:
        """Whether places [n, 2] lie in free cells, bool [n]; outside of the plan nothing is free."""
        columns, rows = np.floor((np.asarray(places, np.float64) + OFFSET_M) / CELL_M + 0.5).astype(np.int64).T
        is_inside = (rows >= 0) & (rows < self.cells.shape[0]) & (columns >= 0) & (columns < self.cells.shape[1])
        free = np.zeros(len(rows), bool)
        free[is_inside] = self.cells[rows[is_inside], columns[is_inside]] == 0
        return free

    def is_straight(self, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Whether the straight line between places [n, 2] keeps clear of all walls, bool [n]."""
        starts, goals = (np.asarray(places, np.float64) for places in (starts, goals))
        clear = np.ones(len(starts), bool)
        for centre in self._centres:  # one wall at a time: lines are many, walls few
            clear &= ~_crosses_box(starts - centre, goals - starts, self._half)
        return clear

    def path_m(self, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """float64 [n]: lengths of the shortest ways between places [n, 2] that keep clear of all walls; infinite where there is none.

        ``EnvError`` for a place in a wall.
        """
        starts, goals = (np.asarray(places, np.float64) for places in (starts, goals))
        for place in np.concatenate([starts, goals]):
            if not self.is_free(place[None])[0]:
                raise EnvError(f"({place[0]:.2f}, {place[1]:.2f}) lies in a wall of this maze: no way leads there; choose a place in a free cell")
        legs = [self._to_corners(places) for places in (starts, goals)]  # n K
        around: np.ndarray = (legs[0][:, :, None] + self._corner_lengths + legs[1][:, None]).min((1, 2), initial=np.inf)
        return np.where(self.is_straight(starts, goals), np.linalg.norm(goals - starts, axis=-1), around)

    @functools.cached_property
    def _corners(self) -> np.ndarray:
        """float64 [K, 2]: where shortest ways can turn, which is at corners of walls grown by the clearance."""
        signs = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
        corners = (self._centres[:, None] + signs * (self._half + MARGIN_M)).reshape(-1, 2)
        is_clear = (np.abs(corners[:, None] - self._centres).max(-1) >= self._half).all(-1) & self.is_free(corners)
        return np.unique(corners[is_clear], axis=0)

    @functools.cached_property
    def _corner_lengths(self) -> np.ndarray:
        """float64 [K, K]: shortest ways between the corners (Floyd and Warshall)."""
        lengths = self._to_corners(self._corners)
        for middle in range(len(lengths)):
            lengths = np.minimum(lengths, lengths[:, middle, None] + lengths[middle])
        return lengths

    def _to_corners(self, places: np.ndarray) -> np.ndarray:
        """float64 [n, K]: how far the corners are from places [n, 2], infinite where a wall is in between."""
        corners = self._corners
        ends = (np.broadcast_to(points, (len(places), len(corners), 2)).reshape(-1, 2) for points in (places[:, None], corners))
        sees = self.is_straight(*ends).reshape(len(places), len(corners))
        return np.where(sees, np.linalg.norm(corners - places[:, None], axis=-1), np.inf)


def _crosses_box(starts: np.ndarray, steps: np.ndarray, half: float) -> np.ndarray:
    """Whether lines from ``starts`` along ``steps`` [n, 2] pass through the inside of a square of side 2 ``half`` around the origin, bool [n]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-half - starts) / steps, (half - starts) / steps
    is_still = steps == 0
    is_within = np.abs(starts) < half
    enter = np.where(is_still, np.where(is_within, -np.inf, np.inf), np.minimum(first, second)).max(-1)
    leave = np.where(is_still, np.where(is_within, np.inf, -np.inf), np.maximum(first, second)).min(-1)
    crosses: np.ndarray = np.maximum(enter, 0.0) < np.minimum(leave, 1.0)
    return crosses
