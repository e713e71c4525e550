"""Clips in which something happens that the world does not do, at graded size; everything up to then is left as it was.

Axes: B batch, T model step, V view, Y X image, A action block. A violation changes what is seen from observation ``VIOLATION_STEP + 1`` on, or the
action taken at ``VIOLATION_STEP``. ``action-flip`` and runs through walls (``wall_crossings.py``) move everything as far as a normal step does; the
others may be given away by the difference of frames alone, which is why that is a floor.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

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
    """Time runs backwards for ``size`` model steps, each with the action that once led over it, and then on again."""
    after = np.arange(1, STEPS_AFTER + 2)
    seen, done = np.arange(NUM_STEPS + 1), np.arange(NUM_STEPS)
    seen[VIOLATION_STEP + 1 :] = VIOLATION_STEP + np.where(after <= size, -after, after - 2 * int(size))
    done[VIOLATION_STEP:] = np.minimum(seen[VIOLATION_STEP:-1], seen[VIOLATION_STEP + 1 :])
    return _reordered(clip, seen, done)


def colour_change(clip: Clip[np.ndarray], size: float, generator: np.random.Generator) -> Clip[np.ndarray]:
    """Colours turn towards their neighbours (red to green, green to blue, blue to red) by the share ``size``; greys stay as they are."""
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
    "reverse": (reverse, (1, 3)),
    "colour-change": (colour_change, (0.1, 0.3, 1.0)),
    "appearance": (appearance, (0.05, 0.1, 0.2)),
}
"""Of any recording: name -> what changes, and its sizes."""
ACTION_FLIP = "action-flip"
ACTION_SIZES = (0.5, 1.0)


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
