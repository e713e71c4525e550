"""Does an agent know when it will fail? Confidence fitted on some pairs and judged on others, and what abstaining would save.

Axes: n pair, f feature, R resample.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.errors import ConfigError
from lewm.evaluation.intervals import NUM_RESAMPLES, Estimate, resampled_counts, wilson

RIDGE = 1.0
"""Penalty on the slopes of the logistic fit, in pairs: a feature must earn its slope."""
NUM_NEWTON_STEPS = 25
PAIRS_PER_BIN = 20
MAX_BINS = 10
NUM_PERFECT_DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """A logistic function of features: the probability that an episode is solved."""

    mean: np.ndarray
    std: np.ndarray
    slopes: np.ndarray
    offset: float

    def of(self, features: np.ndarray) -> np.ndarray:
        """float64 [n] in (0, 1), for features [n, f]."""
        return _sigmoid((np.asarray(features, np.float64) - self.mean) / self.std @ self.slopes + self.offset)


def fit_confidence(features: np.ndarray, is_solved: np.ndarray) -> Confidence:
    """Penalised logistic regression of bool [n] on features [n, f], with Platt's smoothed targets, so that pairs of one kind are no certainty."""
    features, is_solved = _checked(features, is_solved)
    num_solved, n = int(is_solved.sum()), len(is_solved)
    targets = np.where(is_solved, (num_solved + 1) / (num_solved + 2), 1 / (n - num_solved + 2))
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 0, std, 1.0)
    design = np.concatenate([(features - mean) / std, np.ones((n, 1))], axis=1)
    penalty = np.diag([RIDGE] * features.shape[1] + [1e-9])
    weights = np.zeros(design.shape[1])
    for _ in range(NUM_NEWTON_STEPS):
        fitted = _sigmoid(design @ weights)
        gradient = design.T @ (fitted - targets) + penalty @ weights
        curvature = (design.T * (fitted * (1 - fitted))) @ design + penalty
        weights = weights - np.linalg.solve(curvature, gradient)
    return Confidence(mean=mean, std=std, slopes=weights[:-1], offset=float(weights[-1]))


def judged_confidence(features: np.ndarray, is_solved: np.ndarray) -> np.ndarray:
    """float64 [n // 2]: the confidence of every other pair, the second first, by a fit on the pairs between them.

    No pair is both fitted on and judged, and all are judged by one fit: with folds, one that holds more failures makes the fit of the others expect
    fewer, so that confidence seems to mean its opposite.
    """
    features, is_solved = _checked(features, is_solved)
    return fit_confidence(features[::2], is_solved[::2]).of(features[1::2])


def reliability(confidence: np.ndarray, is_solved: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """How often pairs of similar confidence are solved, and the expected calibration error over those bins of equal size; JSON-ready.

    ``ece_if_perfect`` is the mean error that a perfect confidence would show with so few pairs, from draws of outcomes that follow it.
    """
    confidence, is_solved = np.asarray(confidence, np.float64), np.asarray(is_solved, bool)
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(MAX_BINS, max(1, len(order) // PAIRS_PER_BIN)))
    drawn = np.random.default_rng(seed).random((NUM_PERFECT_DRAWS, len(confidence))) < confidence
    return {
        "n": len(order),
        "ece": float(_calibration_error(confidence, is_solved[None], bins)[0]),
        "ece_if_perfect": float(_calibration_error(confidence, drawn, bins).mean()),
        "brier": float(np.mean((confidence - is_solved) ** 2)),
        "bins": [
            {"n": len(rows), "confidence": float(confidence[rows].mean()), "solved": wilson(int(is_solved[rows].sum()), len(rows))} for rows in bins
        ],
    }


def risk_coverage(confidence: np.ndarray, is_solved: np.ndarray) -> np.ndarray:
    """float64 [n]: the share of failures among the 1, 2, ... n most confident pairs; pairs of equal confidence fail as often as each other."""
    confidence, failed = np.asarray(confidence, np.float64), ~np.asarray(is_solved, bool)
    levels, level_of = np.unique(-confidence, return_inverse=True)
    sizes, failures = np.bincount(level_of, minlength=len(levels)), np.bincount(level_of, weights=failed, minlength=len(levels))
    expected = np.repeat(failures / sizes, sizes)
    risk: np.ndarray = np.cumsum(expected) / np.arange(1, len(failed) + 1)
    return risk


def abstention(confidence: np.ndarray, is_solved: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """What is saved by not acting on the plans that the agent trusts least; JSON-ready.

    ``aurc`` is the area under the risk-coverage curve: the mean failure rate over all shares of pairs that are acted on. Abstaining at random keeps
    the failure rate as it is, knowing all failures beforehand is ``aurc_best``. ``gain`` is random minus own, with a bootstrap over pairs.
    """
    is_solved = np.asarray(is_solved, bool)
    risk = risk_coverage(confidence, is_solved)
    counts = resampled_counts(seed, NUM_RESAMPLES // 10, len(is_solved))
    gains = []
    for count in counts:
        rows = np.repeat(np.arange(len(is_solved)), count)
        drawn = is_solved[rows]
        gains.append(float((~drawn).mean() - risk_coverage(confidence[rows], drawn).mean()))
    low, high = np.quantile(gains, [0.025, 0.975])
    random = float((~is_solved).mean())
    return {
        "n": len(is_solved),
        "coverage": [(number + 1) / len(risk) for number in range(len(risk))],
        "risk": risk.tolist(),
        "aurc": float(risk.mean()),
        "aurc_random": random,
        "aurc_best": float(risk_coverage(is_solved.astype(np.float64), is_solved).mean()),
        "gain": Estimate(rate=random - float(risk.mean()), low=float(low), high=float(high)),
    }


def _calibration_error(confidence: np.ndarray, outcomes: np.ndarray, bins: list[np.ndarray]) -> np.ndarray:
    """float64 [R]: the mean distance of confidence and outcomes [R, n] over bins, weighted by their sizes."""
    errors = [len(rows) * np.abs(outcomes[:, rows].mean(1) - confidence[rows].mean()) for rows in bins]
    total: np.ndarray = np.sum(errors, axis=0) / outcomes.shape[1]
    return total


def _checked(features: np.ndarray, is_solved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, is_solved = np.asarray(features, np.float64), np.asarray(is_solved, bool)
    if features.ndim != 2 or len(features) != len(is_solved) or len(is_solved) < 2 or not np.isfinite(features).all():
        raise ConfigError(f"a confidence needs finite features [n, f] and outcomes [n] of n >= 2 pairs, got {features.shape} and {is_solved.shape}")
    return features, is_solved


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
