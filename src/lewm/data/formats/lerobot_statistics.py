"""The statistics that a LeRobot dataset has of every feature, of each episode and of all of them.

Axes: n row, Y X image.
"""

from collections.abc import Sequence

import numpy as np

Statistics = dict[str, np.ndarray]
"""``min``, ``max``, ``mean``, ``std``, the quantiles [...] and ``count`` [1]."""
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
MAX_FRAMES, MAX_SIDE_PX = 32, 64
"""So much of an episode's frames is looked at."""


def statistics_of(values: np.ndarray) -> Statistics:
    """Of numbers [n] or [n, d]: arrays [d]."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True)),
    }


def frame_statistics(frames: np.ndarray) -> Statistics:
    """Of frames uint8 [n, Y, X, 3], scaled to 0..1, of which a sample is looked at: arrays [3, 1, 1]."""
    steps = [-(-size // most) for size, most in zip(frames.shape[:3], (MAX_FRAMES, MAX_SIDE_PX, MAX_SIDE_PX), strict=True)]
    sample = frames[:: steps[0], :: steps[1], :: steps[2]]
    found = statistics_of(sample.reshape(-1, 3) / 255.0)
    return {name: np.array([len(sample)]) if name == "count" else value[:, None, None] for name, value in found.items()}


def combined(parts: Sequence[Statistics]) -> Statistics:
    """Of everything together. Quantiles of the parts do not tell those of the whole: their weighted mean stands for them, as in LeRobot."""
    counts = np.array([float(part["count"][0]) for part in parts])
    means, stds = (np.stack([part[name] for part in parts]) for name in ("mean", "std"))
    weights = (counts / counts.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (weights * means).sum(0)
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt((weights * (stds**2 + (means - mean) ** 2)).sum(0)),
        "count": np.array([int(counts.sum())]),
        **{name: (weights * np.stack([part[name] for part in parts])).sum(0) for name in QUANTILES},
    }
