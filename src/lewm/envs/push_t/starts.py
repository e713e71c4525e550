"""Where Push-T episodes start and what their goals are.

Axes: 2 (x, y). Lengths in px of the 512 x 512 table.
"""

import numpy as np

from lewm.envs.push_t.geometry import REACH_SCALES, distance_to_block, origin_of
from lewm.envs.push_t.goals import Predicate, labels_of
from lewm.envs.push_t.layout import WALL_HIGH_PX, WALL_LOW_PX
from lewm.envs.push_t.physics import Tabletop
from lewm.envs.push_t.states import Past

CLEARANCE_PX = 10.0
"""Between the block, however it is turned, and the walls, and between the pusher and both."""


def draw_start(layout: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """``MOMENT`` []: block and pusher at rest, apart from each other and from the walls; uniform over such places."""
    moment = layout.copy()
    scale, radius = float(layout["block_scale_px"]), float(layout["agent_radius_px"])
    angle = generator.uniform(0, 2 * np.pi)
    moment["block_px"] = origin_of(_place(generator, REACH_SCALES * scale), angle, scale)
    moment["block_rad"] = angle
    while True:
        moment["agent_px"] = _place(generator, radius)
        if distance_to_block(moment["agent_px"][None, :], moment)[0] > radius + CLEARANCE_PX:
            return moment


def draw_goal(start: np.ndarray, generator: np.random.Generator, predicate: Predicate) -> np.ndarray:
    """``MOMENT`` []: another start of the same episode, which ``start`` does not solve."""
    while True:
        goal = draw_start(start, generator)
        for name in ("agent_velocity_px_s", "block_velocity_px_s", "block_velocity_rad_s"):
            goal[name] = 0.0
        if not predicate.is_within(labels_of(start[None]), labels_of(goal[None]))[0]:
            return goal


def draw_gym_past(layout: np.ndarray, generator: np.random.Generator) -> Past:
    """What gym-pusht starts from for the same seed: whole px and an angle, whether or not things overlap."""
    base = layout.copy()
    base["agent_px"] = [generator.integers(50, 450) for _ in range(2)]
    base["block_px"] = [generator.integers(100, 400) for _ in range(2)]
    base["block_rad"] = generator.uniform(-np.pi, np.pi)
    return Past(base, is_start=True)


def moment_of(past: Past) -> np.ndarray:
    """``MOMENT`` []: where a past leads to."""
    moment = past.base.copy()
    tabletop: Tabletop = past.repeated()
    tabletop.write_to(moment)
    return moment


def _place(generator: np.random.Generator, reach_px: float) -> np.ndarray:
    return generator.uniform(WALL_LOW_PX + reach_px + CLEARANCE_PX, WALL_HIGH_PX - reach_px - CLEARANCE_PX, 2)
