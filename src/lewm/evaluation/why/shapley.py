"""Who is to blame for a gap: Shapley values of a game whose players are swapped parts, paired over episodes.

Axes: C coalition (2^k of them, bit i of its number says that player i takes part), n pair, k player, R resample.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.errors import ConfigError
from lewm.evaluation.intervals import NUM_RESAMPLES, Estimate, resampled_counts

CONFIDENCE = 0.95
MIN_FAILURES = 5
"""With fewer, a bootstrap over pairs has next to nothing to resample."""


def shapley(values: np.ndarray) -> np.ndarray:
    """float64 [k, n]: each player's Shapley value for each pair, from the values [2^k, n] of all coalitions.

    The mean over all orders of joining of what a player adds. They sum to the difference between all players and none (Shapley 1953).
    """
    values = np.asarray(values, np.float64)
    num_players = _num_players(values)
    shares = np.zeros((num_players, values.shape[1]))
    for player, coalition in itertools.product(range(num_players), range(len(values))):
        if not coalition >> player & 1:
            size = coalition.bit_count()
            weight = math.factorial(size) * math.factorial(num_players - size - 1) / math.factorial(num_players)
            shares[player] += weight * (values[coalition | 1 << player] - values[coalition])
    return shares


@dataclass(frozen=True, kw_only=True)
class Blame:
    """What a game says."""

    verdict: str
    """``part``, ``no part``, ``too few failures`` or ``nothing to explain``."""
    part: str | None
    """The part to blame, where the verdict is ``part``."""
    sentence: str


def attribution(values: np.ndarray, players: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """The gap between nobody and everybody, and each player's share of it, alone and last, with paired bootstrap intervals; JSON-ready.

    ``values`` are float or bool [2^k, n]. ``alone`` is what a player adds to nobody, ``last`` what it adds to all others.
    """
    values = np.asarray(values, np.float64)
    num_players = _num_players(values)
    if len(players) != num_players:
        raise ConfigError(f"{len(values)} coalitions are those of {num_players} players, got the names of {len(players)}")
    counts = resampled_counts(seed, NUM_RESAMPLES, values.shape[1])
    shares, everybody = shapley(values), len(values) - 1

    def estimate(per_pair: np.ndarray) -> Estimate:
        return _estimate(per_pair, counts)

    parts = {
        name: {
            "shapley": estimate(shares[player]),
            "alone": estimate(values[1 << player] - values[0]),
            "last": estimate(values[everybody] - values[everybody ^ 1 << player]),
        }
        for player, name in enumerate(players)
    }
    gap = estimate(values[everybody] - values[0])
    blame = _blame(shares, players, counts, int((values[0] == 0).sum()), gap)
    return {"gap": gap, "parts": parts, "verdict": blame.verdict, "part": blame.part, "sentence": blame.sentence}


def _blame(shares: np.ndarray, players: Sequence[str], counts: np.ndarray, num_failures: int, gap: Estimate) -> Blame:
    """The player with the largest share, if that is above zero and above the next one's in the bootstrap."""
    n = shares.shape[1]
    if num_failures == 0:
        return Blame(verdict="nothing to explain", part=None, sentence=f"nothing to explain: all {n} pairs were solved")
    first, second = np.argsort(-shares.mean(1), kind="stable")[:2]
    share, lead = _estimate(shares[first], counts), _estimate(shares[first] - shares[second], counts)
    about = f"{_signed(share)} of a gap of {_signed(gap)}"
    if num_failures < MIN_FAILURES:
        sentence = f"only {num_failures} of {n} pairs failed, too few to blame a part; the largest share is the {players[first]}'s, {about}"
        return Blame(verdict="too few failures", part=None, sentence=sentence)
    if gap["rate"] <= 0:
        sentence = (
            f"no part stands out: with every part swapped as many of {n} pairs fail as without, so the failures lie elsewhere (budget, horizon)"
        )
        return Blame(verdict="no part", part=None, sentence=sentence)
    if share["low"] > 0 and lead["low"] > 0:
        sentence = f"the {players[first]} is most to blame: {about}, {_signed(lead)} more than the {players[second]}"
        return Blame(verdict="part", part=players[first], sentence=sentence)
    return Blame(
        verdict="no part",
        part=None,
        sentence=f"no part stands out: {players[first]} ({about}) and {players[second]} cannot be told apart with n = {n}",
    )


def _estimate(per_pair: np.ndarray, counts: np.ndarray) -> Estimate:
    resampled = counts @ per_pair / len(per_pair)
    low, high = np.quantile(resampled, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Estimate(rate=float(per_pair.mean()), low=float(low), high=float(high))


def _signed(estimate: Estimate) -> str:
    return f"{estimate['rate']:+.2f} [{estimate['low']:+.2f}, {estimate['high']:+.2f}]"


def _num_players(values: np.ndarray) -> int:
    num_players = len(values).bit_length() - 1
    if values.ndim != 2 or values.shape[1] == 0 or len(values) != 1 << num_players or num_players < 2:
        raise ConfigError(f"a game needs the values [2^k, n] of all coalitions of k >= 2 players for n >= 1 pairs, got shape {values.shape}")
    return num_players
