"""Frames of the two-room world, many at once and at any size.

Axes: E episode, Y X image, P side of the patch around the dot, L distinct layout.

What does not move, the floor and the walls, is drawn once per layout: each pixel holds exactly the share of its area that the walls leave free.
A frame is its layout's background plus a small patch with the dot, a Gaussian sampled at pixel centres, so its bytes depend on its moment alone.
"""

import numpy as np

from lewm.envs.canvas import add_noise, checked_out, patches_of
from lewm.envs.two_room.layout import ARENA_PX, BORDER_LINE_PX, BORDER_PX, WALL_X_PX

DOT_REACH_STD = 3.6
"""Beyond this many std the dot changes no pixel: 255 * exp(-3.6^2 / 2) = 0.39 grey levels, rounded away."""
LAYOUT_FIELDS = ["background_color", "door_y_px", "door_half_size_px", "wall_thickness_px"]
CHUNK_VALUES = 1 << 17
"""Patch values blended together: keeps the float32 intermediates in the processor's cache."""


def draw_background(moment: np.void, size_px: int) -> np.ndarray:
    """uint8 [Y, X, 3]: floor and black walls of one layout, anti-aliased by exact area coverage."""
    near, far = BORDER_PX - BORDER_LINE_PX, ARENA_PX - BORDER_PX
    floor = 1.0 - _coverage(near, near + BORDER_LINE_PX, size_px) - _coverage(far, far + BORDER_LINE_PX, size_px)
    wall_half = moment["wall_thickness_px"] / 2
    wall = _coverage(WALL_X_PX - wall_half, WALL_X_PX + wall_half, size_px)
    door = _coverage(moment["door_y_px"] - moment["door_half_size_px"], moment["door_y_px"] + moment["door_half_size_px"], size_px)
    # Free area = inside the border lines, less the wall but for its door; each term is a product of a function of x and one of y.
    free = np.outer(floor, floor) - np.outer(floor - door, wall)
    frame: np.ndarray = np.rint(free[..., None] * moment["background_color"]).astype(np.uint8)
    return frame


def _coverage(low: float | np.ndarray, high: float | np.ndarray, size_px: int) -> np.ndarray:
    """float64 [size_px]: the share of each pixel's width within [low, high] px of the arena."""
    edges = np.arange(size_px)
    scale = size_px / ARENA_PX
    covered: np.ndarray = np.clip(high * scale - edges, 0, 1) - np.clip(low * scale - edges, 0, 1)
    return covered


class Canvas:
    """Draws moments of prepared layouts; holds one background per distinct layout."""

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px
        self._backgrounds = np.zeros((0, size_px, size_px, 3), np.uint8)
        self._background_of = np.zeros(0, np.intp)

    def prepare(self, moments: np.ndarray) -> None:
        """Draw the backgrounds of ``moments`` [E]; call again whenever a layout changes."""
        layouts = np.concatenate([moments[name].reshape(len(moments), -1) for name in LAYOUT_FIELDS], axis=-1)
        _, first, background_of = np.unique(layouts, axis=0, return_index=True, return_inverse=True)
        self._backgrounds = np.stack([draw_background(moment, self.size_px) for moment in moments[first]])
        self._background_of = background_of.reshape(-1)

    def draw(self, moments: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [E, 1, Y, X, 3], in ``out`` if given: the frames of ``moments``, whose layouts must be the prepared ones."""
        out = checked_out(out, (len(moments), 1, self.size_px, self.size_px, 3))
        frames = out[:, 0]
        if len(self._backgrounds) == 1:
            frames[...] = self._backgrounds[0]
        else:
            # mode="clip" writes into the frames directly; "raise" would go through a copy.
            np.take(self._backgrounds, self._background_of, axis=0, out=frames, mode="clip")
        self._draw_dots(frames, moments)
        for episode in np.flatnonzero(moments["pixel_noise_std"]):
            add_noise(frames[episode], moments[episode])
        return out

    def _draw_dots(self, frames: np.ndarray, moments: np.ndarray) -> None:
        scale = self.size_px / ARENA_PX
        center, std = moments["position_px"] * scale, moments["agent_radius_px"][:, None] * scale  # [E, 2], [E, 1] in px of the frame
        side = min(int(np.ceil(2 * DOT_REACH_STD * std.max())) + 2, self.size_px)
        # A patch that would stick out of the frame is moved inside: it still covers all of the dot that can be seen.
        corner = np.clip(np.floor(center - DOT_REACH_STD * std), 0, self.size_px - side)
        offset = corner[..., None] + (np.arange(side) + 0.5) - center[..., None]  # [E, 2, P]
        profile = np.exp(-0.5 * np.square(offset / std[..., None])).astype(np.float32)
        across = np.repeat(profile[:, 0], 3, axis=-1)  # [E, 3P]: interleaved colours, so that inner loops are long
        color = np.tile(moments["agent_color"].astype(np.float32), side)  # [E, 3P]
        x, y = corner.astype(np.intp).T
        windows = patches_of(frames, side)
        chunk = max(1, CHUNK_VALUES // (3 * side * side))
        for first in range(0, len(moments), chunk):
            rows = np.arange(first, min(first + chunk, len(moments)))
            behind = windows[rows, y[rows], x[rows]].astype(np.float32)  # [e, P, 3P]
            blended = color[rows, None, :] - behind
            blended *= profile[rows, 1, :, None]
            blended *= across[rows, None, :]
            blended += behind
            blended += 0.5
            windows[rows, y[rows], x[rows]] = blended.astype(np.uint8)
