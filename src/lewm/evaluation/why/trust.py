"""What an agent's promises are worth: hallucinations, calibrated confidence and abstention.

Axes: n pair, f feature.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.evaluation.arrivals import MEANING, hallucination_rate
from lewm.evaluation.intervals import separation, wilson
from lewm.evaluation.why.calibration import abstention, judged_confidence, reliability
from lewm.evaluation.why.watching import FEATURES, Promise

MIN_PAIRS = 8
"""Fewer give no curve."""


def hallucination(promises: Sequence[Sequence[Promise]], is_solved: np.ndarray, threshold: float) -> dict[str, Any]:
    """How often an episode fails although one of its plans imagined to arrive; JSON-ready. ``rate`` is None where no plan did."""
    claims = np.array([any(plan.end <= threshold for plan in plans) for plans in promises], bool)
    found, others = hallucination_rate([claims], [is_solved]), int((~claims).sum())
    return {
        "threshold": threshold,
        "meaning": MEANING,
        **{name: found[name] for name in ("n", "num_failed", "rate")},
        "failed_without_claim": wilson(int((~claims & ~is_solved).sum()), others) if others else None,
    }


def trust(promises: Sequence[Sequence[Promise]], is_solved: np.ndarray) -> dict[str, Any]:
    """A confidence from each episode's first plan, its reliability, and what abstaining by it saves; JSON-ready.

    Fitted on every other pair and judged on those between, of which the second is the first: ``confidence`` has theirs. ``reliability`` and
    ``abstention`` are None for fewer than ``MIN_PAIRS`` pairs, the latter also where no judged pair or every one failed.
    """
    if len(is_solved) < MIN_PAIRS:
        return {"features": list(FEATURES), "confidence": None, "reliability": None, "abstention": None, "separation": None}
    confidence = judged_confidence(np.array([plans[0].features() for plans in promises]), is_solved)
    is_solved = is_solved[1::2]
    is_mixed = bool(is_solved.any() and not is_solved.all())
    return {
        "features": list(FEATURES),
        "confidence": confidence.tolist(),
        "reliability": reliability(confidence, is_solved),
        "abstention": abstention(confidence, is_solved) if is_mixed else None,
        "separation": separation(confidence, is_solved) if is_mixed else None,
    }
