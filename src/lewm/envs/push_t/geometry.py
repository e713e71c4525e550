"""The shape of the T: two rectangles, where their edges and its centre of mass are, and how far a point is from it.

Axes: E episode (or any leading axes), P point, 2 (x, y). Lengths in px of the 512 x 512 table. In the block's own frame the bar lies along x from the
origin and the stem goes down from it; the origin is the middle of the bar's upper edge.
"""

import numpy as np

CENTER_SCALES = 1.5
"""The centre of mass lies this many thicknesses below the origin."""
REACH_SCALES = float(np.hypot(0.5, 2.5))
"""From the centre of mass to the farthest corner, in thicknesses."""
OUTLINE_SCALES = np.array([[-2, 0], [2, 0], [2, 1], [0.5, 1], [0.5, 4], [-0.5, 4], [-0.5, 1], [-2, 1]], np.float64)
"""The eight corners of the T in order, in thicknesses."""
BAR_SCALES, STEM_SCALES = ((-2.0, 0.0), (2.0, 1.0)), ((-0.5, 1.0), (0.5, 4.0))
"""Opposite corners of the two rectangles, in thicknesses."""


def rotated(points: np.ndarray, angle_rad: np.ndarray | float) -> np.ndarray:
    """float64 [..., 2]: points turned by an angle from x towards y."""
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    x, y = points[..., 0], points[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], -1)


def block_centers(moments: np.ndarray) -> np.ndarray:
    """float64 [..., 2]: where the blocks' centres of mass are."""
    return np.asarray(moments["block_px"] + rotated(_center_offset(moments["block_scale_px"]), moments["block_rad"]))


def origin_of(center_px: np.ndarray, angle_rad: float, scale_px: float) -> np.ndarray:
    """float64 [2]: the block's origin, for its centre of mass and its angle."""
    return np.asarray(center_px - rotated(_center_offset(np.array(scale_px)), angle_rad))


def corners(moments: np.ndarray) -> np.ndarray:
    """float64 [..., 8, 2]: the corners of the blocks."""
    own = OUTLINE_SCALES * moments["block_scale_px"][..., None, None]
    return np.asarray(moments["block_px"][..., None, :] + rotated(own, moments["block_rad"][..., None]))


def to_block_frame(points: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """float64 [..., P, 2]: points of the table [..., P, 2] as the block sees them."""
    return rotated(points - moments["block_px"][..., None, :], -moments["block_rad"][..., None])


def distance_to_block(points: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """float64 [..., P]: how far points [..., P, 2] are from the blocks of moments [...]; negative inside."""
    own = to_block_frame(points, moments)
    scale = moments["block_scale_px"][..., None]
    bar, stem = (rectangle_distance(own[..., 0], own[..., 1], corners, scale) for corners in (BAR_SCALES, STEM_SCALES))
    return np.asarray(np.minimum(bar, stem))


def rectangle_distance(
    x: np.ndarray, y: np.ndarray, corners_scales: tuple[tuple[float, float], tuple[float, float]], scale: np.ndarray | float
) -> np.ndarray:
    """Signed distance of points to a rectangle whose opposite corners are given in thicknesses: negative inside."""
    (x_low, y_low), (x_high, y_high) = corners_scales
    beyond_x = np.abs(x - scale * ((x_low + x_high) / 2)) - scale * ((x_high - x_low) / 2)
    beyond_y = np.abs(y - scale * ((y_low + y_high) / 2)) - scale * ((y_high - y_low) / 2)
    outside = np.hypot(np.maximum(beyond_x, 0), np.maximum(beyond_y, 0))
    return np.asarray(outside + np.minimum(np.maximum(beyond_x, beyond_y), 0))


def _center_offset(scale_px: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(scale_px), CENTER_SCALES * scale_px], -1)
