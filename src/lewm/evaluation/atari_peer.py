"""Two encoders on the same frames: the paired difference of their label probes, category by category, with intervals over episodes.

Axes: n test frame, e episode, s label, K value of a label, R resample (row 0 is the data as they are).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lewm.evaluation.atari_labels import CATEGORIES, category
from lewm.evaluation.intervals import resampled_counts

OWN, PEER, FLOOR, CEILING = "lewm", "peer", "untrained", "supervised"
NUM_RESAMPLES = 1000
LEAST_KNOWN = 0.95
"""Share of the resamples in which the ceiling has to lie above the floor for a relative difference to have an interval."""


def compare_peer(reads: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str], episodes: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """Weighted F1 of the run minus its peer's, by category and on average, from values read and true int [n, s] of test frames of episodes int [n].

    ``difference`` is in F1; ``relative`` is (F1 - untrained) / (supervised - untrained) of both with the run's own references, and
    ``relative_difference`` their difference (None without a supervised reference that beats the untrained one). The intervals are percentiles of a
    bootstrap of whole episodes, None if there is a single one.
    """
    counts = _counts(episodes, seed)
    by_label = {name: _f1_of_resamples(reads, labels[:, column], column, episodes, counts) for column, name in enumerate(names)}
    by_category = {}
    for each in CATEGORIES:
        scores = [by_label[name] for name in names if category(name) == each]
        if scores:
            by_category[each] = {encoder: np.mean([score[encoder] for score in scores], axis=0) for encoder in reads}
    mean = {encoder: np.mean([scores[encoder] for scores in by_category.values()], axis=0) for encoder in reads}
    return {
        "mean": _difference(mean, counts.shape[1]),
        "categories": {name: _difference(scores, counts.shape[1]) for name, scores in by_category.items()},
        "num_test_episodes": counts.shape[1],
    }


def _counts(episodes: np.ndarray, seed: int) -> np.ndarray:
    """float64 [R, e]: how often each episode counts; first every one once."""
    num_episodes = len(np.unique(episodes))
    return np.concatenate([np.ones((1, num_episodes)), resampled_counts(seed, NUM_RESAMPLES, num_episodes).astype(np.float64)])


def _f1_of_resamples(
    reads: Mapping[str, np.ndarray], truth: np.ndarray, column: int, episodes: np.ndarray, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """Weighted F1 float64 [R] of one label by each encoder: ``weighted_f1`` of the frames of the drawn episodes."""
    values, codes = np.unique(np.stack([truth, *(read[:, column] for read in reads.values())]), return_inverse=True)
    codes = codes.reshape(1 + len(reads), -1)
    rank = np.unique(episodes, return_inverse=True)[1]
    shape = counts.shape[1], len(values)

    def drawn(code: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        """float64 [R, K]: how many frames have each value."""
        found = np.bincount(rank[rows] * shape[1] + code[rows], minlength=shape[0] * shape[1]).reshape(shape)
        return np.asarray(counts @ found)

    support = drawn(codes[0], slice(None))
    scores = {}
    for name, read in zip(reads, codes[1:], strict=True):
        hits, predicted = drawn(read, read == codes[0]), drawn(read, slice(None))
        f1 = 2 * hits / np.maximum(support + predicted, 1e-9)
        scores[name] = (f1 * support).sum(1) / support.sum(1)
    return scores


def _difference(f1: dict[str, np.ndarray], num_episodes: int) -> dict[str, Any]:
    gain = f1[CEILING] - f1[FLOOR] if CEILING in f1 else np.zeros_like(f1[FLOOR])
    relative = None
    if gain[0] > 0:
        relative = {name: float((f1[name][0] - f1[FLOOR][0]) / gain[0]) for name in (OWN, PEER)}
    return {
        "f1": {name: float(scores[0]) for name, scores in f1.items()},
        "difference": _estimate(f1[OWN] - f1[PEER], np.ones(len(gain), bool), num_episodes),
        "relative": relative,
        "relative_difference": None
        if relative is None
        else _estimate((f1[OWN] - f1[PEER]) / np.where(gain > 0, gain, np.nan), gain > 0, num_episodes),
    }


def _estimate(values: np.ndarray, is_known: np.ndarray, num_episodes: int) -> dict[str, float | None]:
    """The value of row 0 with the 95 % interval of the resamples in which it is known, if they and the episodes are enough for one."""
    resamples = values[1:][is_known[1:]]
    low = high = None
    if num_episodes > 1 and len(resamples) >= LEAST_KNOWN * (len(values) - 1):
        low, high = (float(end) for end in np.quantile(resamples, [0.025, 0.975]))
    return {"value": float(values[0]), "low": low, "high": high}
