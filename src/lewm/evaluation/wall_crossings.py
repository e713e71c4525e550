"""Runs through the wall of two-room, beside the same runs through its door.

Axes: B run, T model step, V view, Y X image. Lengths in px of the 224 x 224 arena.

Agents run along x at full speed; the step ``VIOLATION_STEP`` leads from one side of the wall to the other. Layouts, directions, actions and every x
are the same in both runs of a pair, so frames change as much; only the height differs, and at its height the one may pass and the other may not.
"""

from contextlib import closing
from typing import Any

import numpy as np

from lewm.envs.two_room.batch import TwoRoomBatch
from lewm.envs.two_room.layout import PERTURBATIONS, SPEED_PX, WALL_X_PX, TwoRoomOptions
from lewm.envs.two_room.physics import OFFICIAL_DOOR_MARGIN_PX, LegalSpace
from lewm.evaluation.violations import NUM_STEPS, VIOLATION_STEP
from lewm.schema import Clip, Observation

SIZES_PX = (2, 4, 8, 16, 64)
"""How far beside the nearest height at which the wall can be passed; nearly every layout has room for 64 px above its door or below."""
MATCHED_PX = (2.0, 10.0)
"""Heights of the runs that are matched with runs through the door: far enough to be illegal, near enough for latents that change alike."""
CALIPER = 0.02
"""Matched runs differ by no more than this in the logarithm of how far the latent moves (2 %)."""
Pair = tuple[Clip[np.ndarray], Clip[np.ndarray]]


def wall_crossings(num_runs: int, action_block: int, options: dict[str, Any], beside_px: tuple[float, float], seed: int) -> Pair:
    """Runs through the door, and runs through the wall at heights beside the door: uniform within ``beside_px`` of where it can be passed."""
    generator = np.random.default_rng([seed, num_runs])
    stride = SPEED_PX * action_block
    with closing(TwoRoomBatch(num_runs, **options)) as envs:
        envs.reset(generator.integers(2**62, size=num_runs).tolist())
        signs = generator.choice([-1.0, 1.0], num_runs)
        starts = WALL_X_PX - signs * stride * (VIOLATION_STEP + 0.5)
        heights = _door_heights(envs.moments, generator), _wall_heights(envs.moments, envs.options, beside_px, generator)
        control, crossing = (_run(envs, starts, height, signs * stride) for height in heights)
    blocks = np.zeros((num_runs, NUM_STEPS, 2 * action_block), np.float32)
    blocks[:, :, ::2] = signs[:, None, None]
    number = np.zeros(num_runs, np.int64)
    return (Clip(Observation(control), blocks, None, None, number, number), Clip(Observation(crossing), blocks, None, None, number, number))


def why_no_crossings(options: dict[str, Any], action_block: int) -> str | None:
    """Why agents of such a world cannot be put on both sides of its wall by one step; None if they can."""
    spec = TwoRoomBatch(1, **options).options
    radius, thickness = (
        PERTURBATIONS[name].high[0] if name in spec.vary else getattr(spec, name) for name in ("agent_radius_px", "wall_thickness_px")
    )
    stride, needed = SPEED_PX * action_block, thickness + 2 * radius
    return None if stride >= needed else f"a model step of {stride:g} px cannot lead from one side of the wall to the other ({needed:g} px)"


def matched(control: np.ndarray, crossing: np.ndarray, groups: np.ndarray, caliper: float = CALIPER) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of runs, int64 [n] each, so that ``control`` [B] and ``crossing`` [B] of a pair are nearly equal; none comes twice.

    A pair is of one group (the direction of the run) and differs by at most ``caliper``; the nearest two are paired first.
    """
    apart = np.where(groups[:, None] == groups, np.abs(control[:, None] - crossing), np.inf)
    first, second = np.unravel_index(np.argsort(apart, axis=None, kind="stable")[: np.count_nonzero(apart <= caliper)], apart.shape)
    is_free = np.ones((2, len(control)), bool)
    pairs = []
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if is_free[0, i] and is_free[1, j]:
            is_free[0, i] = is_free[1, j] = False
            pairs.append((i, j))
    found = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _door_heights(moments: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Uniform heights at which the agent passes the door."""
    space = LegalSpace.of(moments)
    heights: np.ndarray = space.door_low + generator.random(len(moments)) * (space.door_high - space.door_low)
    return heights


def _wall_heights(moments: np.ndarray, options: TwoRoomOptions, beside_px: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """Heights in the arena at which the wall cannot be passed, above or below the door."""
    space = LegalSpace.of(moments)
    # The official rule lets the agent overlap the ends of the wall.
    slack = moments["agent_radius_px"] + OFFICIAL_DOOR_MARGIN_PX if options.collision == "official" else 0.0
    room_above, room_below = space.door_low - space.low, space.high - space.door_high
    distance = np.minimum(slack + generator.uniform(*beside_px, len(moments)), np.maximum(room_above, room_below))
    is_above = np.where(np.minimum(room_above, room_below) >= distance, generator.random(len(moments)) < 0.5, room_above > room_below)
    return np.asarray(np.where(is_above, space.door_low - distance, space.door_high + distance))


def _run(envs: TwoRoomBatch, starts: np.ndarray, heights: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """uint8 [B, T+1, 1, Y, X, 3]: agents drawn at even steps along x."""
    frames = []
    for step in range(NUM_STEPS + 1):
        envs.set_states(envs.states_at(np.stack([starts + step * strides, heights], axis=1)))
        frames.append(envs.observe().frames)
    return np.stack(frames, axis=1)
