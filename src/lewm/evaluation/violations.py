"""Clips in which something happens that the world does not do, at graded size; everything up to then is left as it was.

Axes: B batch, T model step, V view, Y X image, A action block. A violation changes what is seen from observation ``VIOLATION_STEP + 1`` on, or the
action taken at ``VIOLATION_STEP``. ``action-flip`` and ``wall`` move everything as far as a normal step does; the others may be given away by the
difference of frames alone, which is why that is a floor.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from lewm.envs.two_room_batch import TwoRoomBatch
from lewm.envs.two_room_layout import SPEED_PX, WALL_X_PX
from lewm.schema import ActionSpec, Clip, Observation

VIOLATION_STEP, STEPS_AFTER = 3, 2
"""Normal model steps before a violation, and those that are looked at after its own."""
NUM_STEPS = VIOLATION_STEP + 1 + STEPS_AFTER
MAX_TELEPORT = 8
CLIP_STEPS = NUM_STEPS + MAX_TELEPORT
"""Length of the clips that are cut: a teleport goes on from later in the same episode."""
Change = Callable[[Clip[np.ndarray], float, np.random.Generator], Clip[np.ndarray]]


def shortened(clip: Clip[np.ndarray]) -> Clip[np.ndarray]:
    """The first ``NUM_STEPS`` steps: the clip as it was."""
    return _reordered(clip, np.arange(NUM_STEPS + 1), np.arange(NUM_STEPS))


def teleport(clip: Clip[np.ndarray], size: float, generator: np.random.Generator) -> Clip[np.ndarray]:
    """After the step everything is where it was ``size`` model steps later in the episode, and goes on from there."""
    ahead = int(size)
    seen, done = np.arange(NUM_STEPS + 1), np.arange(NUM_STEPS)
    seen[VIOLATION_STEP + 1 :] += ahead
    done[VIOLATION_STEP + 1 :] += ahead
    return _reordered(clip, seen, done)


def freeze(clip: Clip[np.ndarray], size: float, generator: np.random.Generator) -> Clip[np.ndarray]:
    """The world stands still for ``size`` model steps, and then goes on from where it stood (its actions with it)."""
    seen = np.arange(NUM_STEPS + 1)
    seen[VIOLATION_STEP + 1 :] -= np.minimum(int(size), np.arange(1, STEPS_AFTER + 2))
    return _reordered(clip, seen, np.arange(NUM_STEPS))


def reverse(clip: Clip[np.ndarray], size: float, generator: np.random.Generator) -> Clip[np.ndarray]:
    """From the step on time runs backwards: the frames before it come again, last first, with the actions that once led to them."""
    seen, done = np.arange(NUM_STEPS + 1), np.arange(NUM_STEPS)
    seen[VIOLATION_STEP + 1 :] = VIOLATION_STEP - np.arange(1, STEPS_AFTER + 2)
    done[VIOLATION_STEP:] = VIOLATION_STEP - 1 - np.arange(STEPS_AFTER + 1)
    return _reordered(clip, seen, done)


def colour_change(clip: Clip[np.ndarray], size: float, generator: np.random.Generator) -> Clip[np.ndarray]:
    """Colours turn towards their neighbours (red to green, green to blue, blue to red) by the share ``size``."""
    short = shortened(clip)
    frames = short.observations.frames.copy()
    later = frames[:, VIOLATION_STEP + 1 :].astype(np.float32)
    frames[:, VIOLATION_STEP + 1 :] = ((1 - size) * later + size * np.roll(later, 1, axis=-1)).round().astype(np.uint8)
    return _with_frames(short, frames)


def appearance(clip: Clip[np.ndarray], size: float, generator: np.random.Generator) -> Clip[np.ndarray]:
    """A green square of ``size`` of the side appears somewhere and stays."""
    short = shortened(clip)
    frames = short.observations.frames.copy()
    height, width = frames.shape[3:5]
    rows, columns = max(1, round(size * height)), max(1, round(size * width))
    for clip_frames in frames:
        top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
        clip_frames[VIOLATION_STEP + 1 :, :, top : top + rows, left : left + columns] = (0, 160, 0)
    return _with_frames(short, frames)


FRAME_VIOLATIONS: dict[str, tuple[Change, tuple[float, ...]]] = {
    "teleport": (teleport, (1, 2, 4, MAX_TELEPORT)),
    "freeze": (freeze, (1, 3)),
    "reverse": (reverse, (1,)),
    "colour-change": (colour_change, (0.1, 0.3, 1.0)),
    "appearance": (appearance, (0.05, 0.1, 0.2)),
}
"""Of any recording: name -> what changes, and its sizes."""


def action_flip(clip: Clip[np.ndarray], spec: ActionSpec, mean: np.ndarray, size: float) -> Clip[np.ndarray]:
    """Frames as they were, but another action is said to lead over the step: the share ``size`` of the way to its mirror image in ``mean`` [A].

    Discrete actions become the next choice. Nothing in the frames tells.
    """
    short = shortened(clip)
    blocks = short.blocks.copy()
    own = blocks[:, VIOLATION_STEP]
    if spec.kind == "discrete":
        per_step = own.reshape(len(own), -1, spec.num_choices)
        blocks[:, VIOLATION_STEP] = np.roll(per_step, 1, axis=-1).reshape(own.shape)
    else:
        blocks[:, VIOLATION_STEP] = own + size * 2 * (mean - own)
    return replace(short, blocks=blocks)


def wall_crossings(num_clips: int, action_block: int, options: dict[str, Any], seed: int) -> tuple[Clip[np.ndarray], Clip[np.ndarray]]:
    """Two-room: agents that run through the door at full speed, and the same runs beside it, through the wall.

    The step ``VIOLATION_STEP`` leads from one side of the wall to the other. Layouts, directions, actions and every x are the same in both clips, so
    the frames change as much; only the height differs.
    """
    generator = np.random.default_rng([seed, num_clips])
    stride = SPEED_PX * action_block
    with closing(TwoRoomBatch(num_clips, **options)) as envs:
        envs.reset(generator.integers(2**62, size=num_clips).tolist())
        moments = envs.moments
        signs = generator.choice([-1.0, 1.0], num_clips)
        starts = WALL_X_PX - signs * stride * (VIOLATION_STEP + 0.5)
        clear = moments["door_half_size_px"] + moments["agent_radius_px"]
        beside = _away_from(moments["door_y_px"], clear, generator)
        control, crossing = (_run(envs, starts, heights, signs * stride) for heights in (moments["door_y_px"], beside))
    blocks = np.zeros((num_clips, NUM_STEPS, 2 * action_block), np.float32)
    blocks[:, :, ::2] = signs[:, None, None]
    number = np.zeros(num_clips, np.int64)
    return (Clip(Observation(control), blocks, None, None, number, number), Clip(Observation(crossing), blocks, None, None, number, number))


def _run(envs: TwoRoomBatch, starts: np.ndarray, heights: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """uint8 [B, T+1, 1, Y, X, 3]: agents drawn at even steps along x."""
    frames = []
    for step in range(NUM_STEPS + 1):
        envs.set_states(envs.states_at(np.stack([starts + step * strides, heights], axis=1)))
        frames.append(envs.observe().frames)
    return np.stack(frames, axis=1)


def _away_from(door_y: np.ndarray, clear: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Heights in the arena that no door is at, uniform above or below it."""
    low, high = 30.0, 194.0
    above, below = np.maximum(door_y - clear - 6 - low, 0), np.maximum(high - (door_y + clear + 6), 0)
    drawn = generator.random(len(door_y)) * (above + below)
    return np.asarray(np.where(drawn < above, low + drawn, door_y + clear + 6 + drawn - above))


def _reordered(clip: Clip[np.ndarray], seen: np.ndarray, done: np.ndarray) -> Clip[np.ndarray]:
    """The clip with observations ``seen`` and blocks ``done``."""
    return replace(
        clip,
        observations=clip.observations.map(lambda array: array[:, seen]),
        blocks=clip.blocks[:, done],
        rewards=None,
        labels=None if clip.labels is None else clip.labels[:, seen],
    )


def _with_frames(clip: Clip[np.ndarray], frames: np.ndarray) -> Clip[np.ndarray]:
    return replace(clip, observations=Observation(frames, clip.observations.proprioception))
