"""What an OGBench environment can be told."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.envs.mujoco.options import MujocoOptions
from lewm.errors import EnvError

FAST_MESH_GRID_M = 0.01
"""A frame of 64 px shows about a metre, so this is two thirds of a pixel: the arm is drawn ten times as fast."""


@dataclass(frozen=True, kw_only=True)
class OgbenchOptions(MujocoOptions):
    """Success predicates are those of ``lewm.envs.ogbench.goals``."""

    mesh_grid_m: float | None = None
    """Width of the grid on which vertices of large meshes are merged before they are drawn, 0 for meshes as they come; None: 1 cm with
    ``rendering`` ``fast``, 0 with ``shipped``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        grid = self.mesh_grid_m
        is_number = isinstance(grid, int | float | np.floating) and not isinstance(grid, bool) and math.isfinite(grid)
        if grid is not None and not (is_number and (grid == 0 or 0.0005 <= grid <= 0.1)):
            raise EnvError(f"mesh_grid_m must be 0 or in [0.0005, 0.1] metres, got {grid!r}")

    def renderer_settings(self) -> dict[str, Any]:
        """How frames are drawn, as ``SceneRenderer`` takes it."""
        own = FAST_MESH_GRID_M if self.rendering == "fast" else 0.0
        return super().renderer_settings() | {"mesh_grid_m": own if self.mesh_grid_m is None else float(self.mesh_grid_m)}
