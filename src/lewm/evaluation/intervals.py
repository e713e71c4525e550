"""How sure a rate is: intervals for one run, for a paired comparison and across training seeds.

Axes: n episode, R resample. The random bits come straight from a counter-based bit generator, whose stream numpy guarantees, so that a result
file can be recomputed with another version of numpy.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypedDict

import numpy as np

from lewm.errors import ConfigError

NUM_RESAMPLES = 10_000


class Estimate(TypedDict):
    """A rate (or a difference of rates) with the ends of its interval, all as fractions."""

    rate: float
    low: float
    high: float


class PairedDifference(Estimate):
    """An estimate of a difference between two policies on the same pairs, with its exact p-value."""

    mcnemar_p: float


class SeedDifference(Estimate):
    """An estimate of a difference between two methods on the same training seeds and pairs, with a p-value that takes the seeds as given."""

    p: float


def wilson(num_successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """The rate of ``num_successes`` in ``n`` with its Wilson score interval (Wilson 1927), which stays within [0, 1] and is sane at 0 and n."""
    _require_confidence(confidence)
    if n < 1 or not 0 <= num_successes <= n:
        raise ConfigError(f"a rate needs 0 <= successes <= n and n >= 1, got {num_successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = num_successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At 0 and n one end is the rate itself; rounding must not push it past.
    low = 0.0 if num_successes == 0 else max(0.0, centre - half)
    high = 1.0 if num_successes == n else min(1.0, centre + half)
    return Estimate(rate=rate, low=low, high=high)


def not_narrower(estimate: Estimate, plain: Estimate) -> Estimate:
    """The estimate, its interval widened to hold that of ``plain`` as well: a bootstrap of nothing but successes has no width."""
    return Estimate(rate=estimate["rate"], low=min(estimate["low"], plain["low"]), high=max(estimate["high"], plain["high"]))


def mcnemar_p(outcomes: np.ndarray, floor_outcomes: np.ndarray) -> float:
    """Two-sided exact McNemar test: how likely discordant pairs this uneven are if both policies were equally good.

    Both arguments are bool [n], for the same pairs in the same order.
    """
    first, second = _paired(outcomes, floor_outcomes)
    wins, losses = int((first & ~second).sum()), int((~first & second).sum())
    discordant = wins + losses
    tail = sum(math.comb(discordant, k) for k in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def paired_difference(
    outcomes: np.ndarray, floor_outcomes: np.ndarray, *, seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> PairedDifference:
    """How much more often the first policy solves than the second, with a percentile bootstrap over pairs.

    Both arguments are bool [n], for the same pairs in the same order; resampling keeps each pair together.
    """
    first, second = _paired(outcomes, floor_outcomes)
    difference = first.astype(np.float64) - second
    resampled = difference[_indices(seed, 0, num_resamples, len(difference))].mean(1)
    estimate = _percentile_estimate(float(difference.mean()), resampled, confidence)
    return PairedDifference(**estimate, mcnemar_p=mcnemar_p(first, second))


def hierarchical_bootstrap(
    outcomes: Sequence[np.ndarray], *, seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> Estimate:
    """The rate over training seeds with an interval that counts both the spread between seeds and that between episodes.

    ``outcomes`` holds one bool [n] per training seed, all for the same pairs in the same order. Each resample draws seeds and, once for all of them,
    pairs, with replacement: a pair that is hard for one seed is hard for the others, so that more seeds are not more pairs.
    """
    if not outcomes or len({len(each) for each in outcomes}) > 1 or len(outcomes[0]) == 0:
        raise ConfigError("a hierarchical bootstrap needs at least one training seed, and for each the outcomes of the same pairs, one or more")
    solved = np.stack([np.asarray(each, np.float64) for each in outcomes])  # [seeds, n]
    pair_weights = _indices_as_weights(seed, 0, num_resamples, solved.shape[1])
    resampled = ((_indices_as_weights(seed, 1, num_resamples, len(solved)) @ solved) * pair_weights).sum(1)
    return _percentile_estimate(float(solved.mean()), resampled, confidence)


def hierarchical_ratio(
    parts: Sequence[np.ndarray], wholes: Sequence[np.ndarray], *, seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> Estimate:
    """How often ``parts`` are so among ``wholes``, with seeds and pairs drawn as in ``hierarchical_bootstrap``.

    Both hold one bool [n] per training seed, all for the same pairs in the same order, with at least one whole among them; a resample without any is
    left out.
    """
    part, whole = (np.stack([np.asarray(each, np.float64) for each in side]) for side in (parts, wholes))  # [seeds, n]
    if part.shape != whole.shape or whole.sum() == 0:
        raise ConfigError(f"a ratio needs parts and at least one whole of the same pairs, got shapes {part.shape} and {whole.shape}")
    pair_weights = _indices_as_weights(seed, 0, num_resamples, whole.shape[1])
    seed_weights = _indices_as_weights(seed, 1, num_resamples, len(whole))
    parts_drawn, wholes_drawn = (((seed_weights @ each) * pair_weights).sum(1) for each in (part, whole))
    is_there = wholes_drawn > 0
    return _percentile_estimate(float(part.sum() / whole.sum()), parts_drawn[is_there] / wholes_drawn[is_there], confidence)


def hierarchical_difference(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> Estimate:
    """How much more often the first method solves than the second, over the training seeds of both, on the same pairs.

    Each holds one bool [n] per training seed, all for the same pairs in the same order. Each resample draws the seeds of either method and, once for
    all of them, the pairs, with replacement.
    """
    sides = [np.stack([np.asarray(each, np.float64) for each in side]) for side in (first, second)]  # [seeds, n]
    if sides[0].ndim != 2 or sides[0].shape[1:] != sides[1].shape[1:] or sides[0].shape[1] == 0:
        raise ConfigError(f"a paired comparison needs outcomes for the same pairs, got shapes {sides[0].shape} and {sides[1].shape}")
    num_pairs = sides[0].shape[1]
    pair_weights = _indices_as_weights(seed, 0, num_resamples, num_pairs)
    rates = [
        ((_indices_as_weights(seed, stream, num_resamples, len(side)) @ side) * pair_weights).sum(1) for stream, side in enumerate(sides, start=1)
    ]
    return _percentile_estimate(float(sides[0].mean() - sides[1].mean()), rates[0] - rates[1], confidence)


def paired_difference_over_seeds(
    first: np.ndarray, second: np.ndarray, *, seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> SeedDifference:
    """How much more often the first method solves than the second, where both were tried with the same training seeds on the same pairs.

    Both are bool [seeds, n], in the same order. Each resample draws training seeds, for both methods together, and, once for all of them, pairs.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 2 or first.size == 0:
        raise ConfigError(f"a paired comparison over seeds needs outcomes [seeds, n] of the same shape, got {first.shape} and {second.shape}")
    difference = first.astype(np.float64) - second
    num_seeds, num_pairs = difference.shape
    pair_weights = _indices_as_weights(seed, 0, num_resamples, num_pairs)
    resampled = ((_indices_as_weights(seed, 1, num_resamples, num_seeds) @ difference) * pair_weights).sum(1)
    estimate = _percentile_estimate(float(difference.mean()), resampled, confidence)
    return SeedDifference(**estimate, p=sign_flip_p(difference.sum(0).astype(np.int64)))


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided exact sign-flip test: how likely a sum this far from 0 is if each pair's difference could as well have the other sign.

    int [n]: per pair, summed over training seeds. With one seed it is the McNemar test.
    """
    sizes = np.abs(np.asarray(differences, np.int64))
    reach = int(sizes.sum())
    probabilities = np.zeros(2 * reach + 1)  # of the sums -reach..reach
    probabilities[reach] = 1.0
    for size in sizes[sizes > 0]:
        probabilities = (np.roll(probabilities, size) + np.roll(probabilities, -size)) / 2  # what would wrap around is still 0
    far = abs(int(np.sum(differences)))
    return min(1.0, float(probabilities[np.abs(np.arange(-reach, reach + 1)) >= far].sum()))


def separation(
    scores: np.ndarray, is_positive: np.ndarray, *, seed: int = 0, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> Estimate:
    """AUROC: how often a positive scores above a negative, ties counting half, with a percentile bootstrap within each class.

    float [n] and bool [n], with at least one of each class.
    """
    scores, is_positive = np.asarray(scores, np.float64), np.asarray(is_positive, bool)
    positives, negatives = scores[is_positive], scores[~is_positive]
    if scores.shape != is_positive.shape or scores.ndim != 1 or len(positives) == 0 or len(negatives) == 0:
        raise ConfigError(f"separation needs scores of both classes, got {len(positives)} positives and {len(negatives)} negatives")
    wins = (positives[:, None] > negatives).astype(np.float64) + 0.5 * (positives[:, None] == negatives)
    rows, columns = (resampled_counts(seed, num_resamples, count, stream=stream) for stream, count in ((0, len(positives)), (1, len(negatives))))
    # Sums of halves are exact, so weighting each pair by how often it is drawn gives the very mean over the drawn pairs.
    resampled = ((rows.astype(np.float64) @ wins) * columns).sum(1) / wins.size
    return _percentile_estimate(float(wins.mean()), resampled, confidence)


def resampled_counts(seed: int, num_resamples: int, n: int, *, stream: int = 0) -> np.ndarray:
    """int64 [num_resamples, n]: how often each of n items is drawn when n are drawn with replacement."""
    drawn = _indices(seed, stream, num_resamples, n) + np.arange(num_resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=num_resamples * n).reshape(num_resamples, n)


def _indices_as_weights(seed: int, stream: int, num_rows: int, n: int) -> np.ndarray:
    """float64 [num_rows, n]: how often each of n items is drawn when n are drawn with replacement, as shares that sum to 1."""
    drawn = _indices(seed, stream, num_rows, n) + np.arange(num_rows)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=num_rows * n).reshape(num_rows, n) / n


def _percentile_estimate(rate: float, resampled: np.ndarray, confidence: float) -> Estimate:
    _require_confidence(confidence)
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(rate=rate, low=float(low), high=float(high))


def _indices(seed: int, stream: int, num_rows: int, n: int) -> np.ndarray:
    """int64 [num_rows, n]: uniform indices below ``n``."""
    bits = np.random.Philox(key=[seed, stream]).random_raw(num_rows * n)
    # The top 32 bits times n, shifted back: no modulo bias worth the name, and no dependence on how a numpy version draws bounded integers.
    return ((bits >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64).reshape(num_rows, n)


def _paired(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise ConfigError(f"a paired comparison needs two outcome vectors for the same pairs, got shapes {first.shape} and {second.shape}")
    return first, second


def _require_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence must be in (0, 1), got {confidence:g}")
