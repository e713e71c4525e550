"""Confidence, reliability and abstention against answers that are known."""

import numpy as np
import pytest

from lewm.errors import ConfigError
from lewm.evaluation.why.calibration import abstention, crossed_confidence, fit_confidence, reliability, risk_coverage

GENERATOR = np.random.default_rng(0)
FEATURES = GENERATOR.standard_normal((4000, 2))
PROBABILITY = 1 / (1 + np.exp(-(1.5 * FEATURES[:, 0] - 0.5)))
SOLVED = GENERATOR.random(4000) < PROBABILITY


def test_the_logistic_fit_finds_the_probabilities_that_made_the_outcomes():
    assert np.abs(fit_confidence(FEATURES, SOLVED).of(FEATURES) - PROBABILITY).mean() < 0.02


def test_a_confidence_that_is_the_true_probability_has_almost_no_calibration_error():
    found = reliability(PROBABILITY, SOLVED)
    assert found["ece"] < 0.03
    assert found["ece"] < 2 * found["ece_if_perfect"]


def test_a_confidence_that_is_always_sure_has_the_failure_rate_as_its_error():
    found = reliability(np.ones(4000), SOLVED)
    assert found["ece"] == pytest.approx(1 - SOLVED.mean())
    assert found["ece_if_perfect"] == 0


def test_the_confidence_of_a_pair_does_not_depend_on_how_its_own_half_ended():
    other = SOLVED.copy()
    other[::2] = ~other[::2]
    before, after = crossed_confidence(FEATURES, SOLVED), crossed_confidence(FEATURES, other)
    assert np.array_equal(before[::2], after[::2])
    assert not np.allclose(before[1::2], after[1::2])


def test_pairs_that_all_succeeded_make_a_confidence_near_one_but_not_certainty():
    confidence = fit_confidence(FEATURES[:20], np.ones(20, bool)).of(FEATURES[:20])
    assert ((confidence > 0.9) & (confidence < 1)).all()


def test_the_risk_at_full_coverage_is_the_failure_rate_and_rises_to_it_where_failures_are_trusted_least():
    solved = np.array([True, True, True, False])
    assert risk_coverage(np.array([0.9, 0.8, 0.7, 0.1]), solved).tolist() == [0, 0, 0, 0.25]
    assert risk_coverage(np.array([0.1, 0.2, 0.3, 0.9]), solved)[0] == 1


def test_equal_confidences_are_no_better_than_abstaining_at_random():
    found = abstention(np.full(40, 0.7), SOLVED[:40])
    assert found["aurc"] == pytest.approx(found["aurc_random"]) == pytest.approx(1 - SOLVED[:40].mean())
    assert found["gain"] == pytest.approx({"rate": 0, "low": 0, "high": 0})


def test_knowing_the_outcome_is_the_best_that_abstaining_can_do_and_a_true_probability_lies_between():
    known, probable = abstention(SOLVED[:200].astype(float), SOLVED[:200]), abstention(PROBABILITY[:200], SOLVED[:200])
    assert known["aurc"] == known["aurc_best"] < probable["aurc"] < probable["aurc_random"]
    assert probable["gain"]["low"] > 0


def test_features_that_are_not_numbers_are_refused():
    with pytest.raises(ConfigError, match=r"finite features \[n, f\]"):
        fit_confidence(np.full((9, 1), np.inf), np.ones(9, bool))
