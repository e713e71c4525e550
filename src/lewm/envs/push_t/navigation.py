"""How a pusher gets somewhere without touching the block, and which action takes it there.

Axes: E episode, K corner of the way round, P point of a segment, 2 (x, y). Lengths in px of the 512 x 512 table.

The way round is the block's convex hull, grown by the pusher's radius and a margin. The shortest path goes straight, or straight to one of its
corners, along it, and straight to the destination.
"""

import numpy as np

from lewm.envs.push_t.batch import PushTBatch
from lewm.envs.push_t.geometry import OUTLINE_SCALES, distance_to_block, rotated
from lewm.envs.push_t.layout import ACTION_SCALE_PX, TABLE_PX

NUM_CORNERS = 24
MARGIN_PX, TOUCH_MARGIN_PX = 8.0, 2.0
"""Beyond the pusher's radius: of the way round, and what still counts as not touching."""
STEPS_OF_SEGMENT = np.linspace(0, 1, 14)
SQUEEZE_PX = 150.0
"""Added length of a piece of the way round between block and edge of the table, where the pusher may have to touch the block."""
NO_WAY_PX = 1e5
CORNER_REACHED_PX = 4.0


def waypoints(moments: np.ndarray, destinations_px: np.ndarray) -> np.ndarray:
    """float64 [E, 2]: where each pusher should head now on its shortest way to its destination [E, 2]."""
    agents = moments["agent_px"]
    ring = way_round(moments)  # [E, K, 2]
    is_off = np.asarray(((ring < 0) | (ring > TABLE_PX)).any(-1))
    ring = np.clip(ring, 0, TABLE_PX)
    here, there = np.broadcast_to(agents[:, None], ring.shape), np.broadcast_to(destinations_px[:, None], ring.shape)
    ends = distance_to_block(np.stack([agents, destinations_px], 1), moments)
    limit = np.minimum(moments["agent_radius_px"] + TOUCH_MARGIN_PX, ends.min(-1))[:, None] - 0.5
    first = np.concatenate([destinations_px[:, None], ring], 1)
    is_seen = _is_free(np.broadcast_to(agents[:, None], first.shape), first, moments, limit)  # [E, 1 + K]
    is_seen_there = _is_free(ring, there, moments, limit)
    to_ring = np.linalg.norm(ring - here, axis=-1) + np.where(is_seen[:, 1:], 0, NO_WAY_PX)
    from_ring = np.linalg.norm(there - ring, axis=-1) + np.where(is_seen_there, 0, NO_WAY_PX)
    forward, backward = _along(ring, is_off)
    total = to_ring[:, :, None] + np.minimum(forward, backward) + from_ring[:, None, :]
    rows = np.arange(len(ring))
    corner, last = np.unravel_index(total.reshape(len(ring), -1).argmin(-1), total.shape[1:])
    # Where a pusher stands at a corner already, the next one is due, even if it cannot be reached without touching the block.
    is_reached = (np.linalg.norm(ring[rows, corner] - agents, axis=-1) < CORNER_REACHED_PX) & (corner != last)
    step = np.where(forward[rows, corner, last] <= backward[rows, corner, last], 1, -1)
    corner = np.where(is_reached, (corner + step) % NUM_CORNERS, corner)
    # From the last corner the destination is due.
    is_last = (corner == last) & (np.linalg.norm(ring[rows, corner] - agents, axis=-1) < CORNER_REACHED_PX)
    return np.where(is_seen[:, :1] | is_last[:, None], destinations_px, ring[rows, corner])


def way_round(moments: np.ndarray) -> np.ndarray:
    """float64 [E, K, 2]: corners of the blocks' grown hulls, in order."""
    normals = rotated(np.array([1.0, 0.0]), np.arange(NUM_CORNERS) * (2 * np.pi / NUM_CORNERS))
    outline = moments["block_scale_px"][:, None, None] * OUTLINE_SCALES[(normals @ OUTLINE_SCALES.T).argmax(-1)]
    own = outline + (moments["agent_radius_px"] + MARGIN_PX)[:, None, None] * normals
    return np.asarray(moments["block_px"][:, None] + rotated(own, moments["block_rad"][:, None]))


def actions_towards(batch: PushTBatch, targets_px: np.ndarray) -> np.ndarray:
    """float32 [E, 2]: actions that steer for targets [E, 2], at most 100 px off on either axis."""
    agents = batch.moments["agent_px"]
    way = targets_px - agents
    way /= np.maximum(np.abs(way).max(-1, keepdims=True) / ACTION_SCALE_PX, 1.0)
    if batch.is_absolute:
        return np.asarray(np.clip(agents + way, 0, TABLE_PX), np.float32)
    return np.asarray(np.clip(way / ACTION_SCALE_PX, -1, 1), np.float32)


def _is_free(starts: np.ndarray, ends: np.ndarray, moments: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Whether segments between [E, S, 2] and [E, S, 2] keep at least ``limit`` [E, 1] from the block, bool [E, S]."""
    points = starts[:, :, None] + (ends - starts)[:, :, None] * STEPS_OF_SEGMENT[:, None]  # [E, S, P, 2]
    distance = distance_to_block(points.reshape(len(points), -1, 2), moments).reshape(points.shape[:3])
    return np.asarray((distance >= limit[..., None]).all(-1))


def _along(ring: np.ndarray, is_off: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [E, K, K] each: the way along the ring from one corner to another, forwards and backwards.

    ``is_off`` [E, K] are corners that were moved onto the table.
    """
    piece = np.linalg.norm(np.roll(ring, -1, axis=1) - ring, axis=-1) + SQUEEZE_PX * (is_off | np.roll(is_off, -1, axis=1))
    total = piece.sum(-1)[:, None, None]
    place = np.cumsum(piece, -1) - piece
    forward = (place[:, None, :] - place[:, :, None]) % total
    return forward, (total - forward) % total
