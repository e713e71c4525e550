"""Frames of Push-T, many at once and at any size.

Axes: E episode, Y X image, P side of a patch.

What does not move, the table, its walls and the goal zone, is drawn once. A frame is a copy of that and two small patches, the pusher and over it the
block, whose pixels hold the share of their area that a shape covers, from the distance between the pixel's centre and the shape's edge.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lewm.envs.canvas import add_noise, checked_out, patches_of
from lewm.envs.push_t.geometry import BAR_SCALES, STEM_SCALES, corners
from lewm.envs.push_t.layout import TABLE_PX, WALL_HIGH_PX, WALL_LOW_PX

WALL_COLOR, ZONE_COLOR = (211, 211, 211), (144, 238, 144)
OUTLINE_PX = 2.5
"""Walls and the block's edges are drawn this far to either side: five pixels of 512, as gym-pusht draws them."""
HALF_PIXEL_PX = 0.5
"""What pygame fills reaches to the far side of the pixels on its edge."""
RIM_PX = 4.0
"""Width of the pusher's darker rim."""
LIGHTENING = 1.2
"""A shape's inside is brighter than its edge by this factor."""
SAMPLED_EDGE_PX = 1.0
"""How wide an edge is, in px of 512, that is sampled as sharp as it comes."""
CHUNK_PIXELS = 1 << 12
"""Patch pixels drawn together: keeps the float32 intermediates in the processor's cache."""


@dataclass(frozen=True)
class Paint:
    """What a shape does to the pixels of a patch."""

    whole: np.ndarray
    """float32 [e, P, P]: the share of each pixel that the shape covers."""
    color: np.ndarray
    """float32 [e, 3]."""
    inside: np.ndarray | None = None
    """float32 [e, P, P]: the share that its brighter inside covers; None where it has none."""


class Canvas:
    """Draws moments on prepared tables; holds one table for each distinct look."""

    def __init__(self, size_px: int, *, rendering: str = "smooth", supersampling: int = 1, with_goal_zone: bool = False) -> None:
        self.size_px, self.supersampling, self.with_goal_zone = size_px, supersampling, with_goal_zone
        self._side_px = size_px * supersampling
        self._pixel_px = TABLE_PX / self._side_px
        self._edge_px = np.float32(self._pixel_px if rendering == "smooth" else SAMPLED_EDGE_PX)
        self._centers = ((np.arange(self._side_px) + 0.5) * self._pixel_px - 0.5).astype(np.float32)
        distance = np.maximum(WALL_LOW_PX - self._centers, self._centers - WALL_HIGH_PX)
        across = np.maximum(distance[None, :], distance[:, None])
        self._walls = self._cover(across - OUTLINE_PX) - self._cover(across + OUTLINE_PX)  # [Y, X]
        is_free = (self._walls[self._side_px // 2] == 0) & (distance < 0)
        self._first_free, self._last_free = np.flatnonzero(is_free)[[0, -1]]
        self._tables = np.zeros((0, self._side_px, self._side_px, 3), np.uint8)
        self._table_of = np.zeros(0, np.intp)

    def prepare(self, moments: np.ndarray, goals: np.ndarray) -> None:
        """Draw the tables of ``moments`` [E] whose goals are ``goals`` [E]; call again whenever a look or, with goal zones, a goal changes."""
        looks = [moments["background_color"].astype(np.float64)]
        if self.with_goal_zone:
            looks += [goals["block_px"], goals["block_rad"][:, None], moments["block_scale_px"][:, None]]
        _, first, table_of = np.unique(np.concatenate(looks, -1), axis=0, return_index=True, return_inverse=True)
        self._table_of = table_of.reshape(-1)
        self._tables = np.empty((len(first), self._side_px, self._side_px, 3), np.uint8)
        self._tables[...] = moments["background_color"][first, None, None]
        if self.with_goal_zone:
            zones = goals[first].copy()
            zones["block_scale_px"] = moments["block_scale_px"][first]
            self._draw_blocks(self._tables, zones, self._zone)
        share = self._walls[..., None]
        self._tables[...] = np.rint(self._tables * (1 - share) + np.array(WALL_COLOR, np.float32) * share)

    def draw(self, moments: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [E, 1, Y, X, 3], in ``out`` if given: the frames of ``moments``, whose looks and goals must be the prepared ones."""
        size, factor = self.size_px, self.supersampling
        out = checked_out(out, (len(moments), 1, size, size, 3))
        frames = out[:, 0] if factor == 1 else np.empty((len(moments), self._side_px, self._side_px, 3), np.uint8)
        if len(self._tables) == 1:
            frames[...] = self._tables[0]
        else:
            np.take(self._tables, self._table_of, axis=0, out=frames, mode="clip")  # "raise" would go through a copy
        self._draw_patches(frames, moments, moments["agent_px"], float(moments["agent_radius_px"].max()), self._pusher)
        self._draw_blocks(frames, moments, self._block)
        if factor > 1:
            out[:, 0] = np.rint(frames.reshape(len(moments), size, factor, size, factor, 3).mean((2, 4), dtype=np.float32))
        for episode in np.flatnonzero(moments["pixel_noise_std"]):
            add_noise(out[episode, 0], moments[episode])
        return out

    def _draw_blocks(self, frames: np.ndarray, moments: np.ndarray, painter: "Painter") -> None:
        places = corners(moments)
        low, high = places.min(1), places.max(1)
        self._draw_patches(frames, moments, (low + high) / 2, float((high - low).max()) / 2 + OUTLINE_PX, painter)

    def _draw_patches(self, frames: np.ndarray, moments: np.ndarray, centers: np.ndarray, reach_px: float, painter: "Painter") -> None:
        """Paint a shape that reaches ``reach_px`` around ``centers`` [E, 2] into ``frames``, under the walls."""
        reach = reach_px + float(self._edge_px)
        side = min(int(np.ceil(2 * reach / self._pixel_px)) + 2, self._side_px)
        # A patch that would stick out of the frame is moved inside: it still covers all of the shape that can be seen.
        corner = np.clip(np.floor((centers + 0.5 - reach) / self._pixel_px), 0, self._side_px - side).astype(np.intp)
        x, y = corner.T
        is_near_wall = (corner.min(-1) < self._first_free) | (corner.max(-1) + side - 1 > self._last_free)
        windows, steps = patches_of(frames, side), np.arange(side)
        chunk = max(1, CHUNK_PIXELS // (side * side))
        for first in range(0, len(moments), chunk):
            rows = np.arange(first, min(first + chunk, len(moments)))
            columns, lines = x[rows, None] + steps, y[rows, None] + steps  # [e, P] each
            paint = painter(moments[rows], self._centers[columns][:, None, :], self._centers[lines][:, :, None])
            patch = windows[rows, y[rows], x[rows]].astype(np.float32)  # [e, P, 3P]: interleaved colours, so that inner loops are long
            _blend(patch, paint, self._walls[lines[:, :, None], columns[:, None, :]] if is_near_wall[rows].any() else None)
            windows[rows, y[rows], x[rows]] = patch.astype(np.uint8)

    def _cover(self, distance: np.ndarray) -> np.ndarray:
        """The share of a pixel inside an edge that is ``distance`` away, negative inside."""
        share = distance * np.float32(-1 / self._edge_px)
        share += np.float32(0.5)
        return np.asarray(np.clip(share, 0, 1, out=share))

    def _pusher(self, moments: np.ndarray, x: np.ndarray, y: np.ndarray) -> Paint:
        center, radius = moments["agent_px"].astype(np.float32), moments["agent_radius_px"].astype(np.float32)
        distance = np.sqrt(np.square(x - center[:, 0, None, None]) + np.square(y - center[:, 1, None, None])) - radius[:, None, None]
        return Paint(self._cover(distance), moments["agent_color"].astype(np.float32), self._cover(distance + np.float32(RIM_PX)))

    def _block(self, moments: np.ndarray, x: np.ndarray, y: np.ndarray) -> Paint:
        bar, stem, longer_stem = _block_distances(moments, x, y)
        whole = self._cover(np.minimum(bar, longer_stem) - np.float32(OUTLINE_PX))
        inside = self._cover(bar + np.float32(OUTLINE_PX)) + self._cover(stem + np.float32(OUTLINE_PX))
        return Paint(whole, moments["block_color"].astype(np.float32), inside)

    def _zone(self, moments: np.ndarray, x: np.ndarray, y: np.ndarray) -> Paint:
        bar, _, longer_stem = _block_distances(moments, x, y)
        return Paint(
            self._cover(np.minimum(bar, longer_stem) - np.float32(HALF_PIXEL_PX)), np.tile(np.array(ZONE_COLOR, np.float32), (len(moments), 1))
        )


Painter = Callable[[np.ndarray, np.ndarray, np.ndarray], Paint]
"""Moments [e] and pixel centres x [e, 1, P] and y [e, P, 1], float32 in px of the table -> what is painted."""


def _block_distances(moments: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [e, P, P] each: how far pixels are from the bar, from the stem, and from the stem prolonged through the bar; negative inside.

    Distances are along the block's axes. Together with the bar, the prolonged stem leaves no seam.
    """
    angle, scale = moments["block_rad"], moments["block_scale_px"].astype(np.float32)[:, None, None]
    cosine, sine = (function(angle).astype(np.float32)[:, None, None] for function in (np.cos, np.sin))
    origin_x, origin_y = moments["block_px"].astype(np.float32).T[:, :, None, None]
    x, y = x - origin_x, y - origin_y
    along, across = cosine * x + sine * y, cosine * y - sine * x
    aside = np.abs(along)
    bar_aside, stem_aside = (aside - scale * np.float32(rectangle[1][0]) for rectangle in (BAR_SCALES, STEM_SCALES))
    beyond_bar, beyond_stem, beyond_both = (
        np.abs(across - scale * np.float32((low + high) / 2)) - scale * np.float32((high - low) / 2)
        for low, high in ((BAR_SCALES[0][1], BAR_SCALES[1][1]), (STEM_SCALES[0][1], STEM_SCALES[1][1]), (BAR_SCALES[0][1], STEM_SCALES[1][1]))
    )
    return np.maximum(bar_aside, beyond_bar), np.maximum(stem_aside, beyond_stem), np.maximum(stem_aside, beyond_both)


def _blend(patch: np.ndarray, paint: Paint, walls: np.ndarray | None) -> None:
    """Paint over patches, float32 [e, P, 3P], ready to be cut to whole grey levels; ``walls`` [e, P, P] is the share that lies over the paint."""
    side = patch.shape[1]
    color = np.tile(paint.color, side)[:, None, :]  # [e, 1, 3P]
    lighter = np.tile(np.minimum(LIGHTENING * paint.color, 255).astype(np.float32), side)[:, None, :]
    inside = None if paint.inside is None else np.repeat(paint.inside, 3, axis=-1)
    change = color - patch
    if walls is not None:
        share = np.repeat(walls, 3, axis=-1)
        change += share * (np.tile(np.array(WALL_COLOR, np.float32), side) - color)
        inside = None if inside is None else inside * (1 - share)
    change *= np.repeat(paint.whole, 3, axis=-1)
    patch += change
    if inside is not None:
        inside *= lighter - color
        patch += inside
    patch += np.float32(0.5)
