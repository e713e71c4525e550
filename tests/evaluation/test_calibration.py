"""Confidence, reliability and abstention against answers that are known."""

import numpy as np
import pytest

from lewm.errors import ConfigError
from lewm.evaluation.intervals import separation
from lewm.evaluation.why.calibration import abstention, fit_confidence, judged_confidence, reliability, risk_coverage

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


def test_the_pairs_that_a_confidence_is_judged_on_do_not_change_it_and_the_others_do():
    before = judged_confidence(FEATURES, SOLVED)
    judged, fitted = SOLVED.copy(), SOLVED.copy()
    judged[1::2], fitted[::2] = ~judged[1::2], ~fitted[::2]
    assert np.array_equal(judged_confidence(FEATURES, judged), before)
    assert not np.allclose(judged_confidence(FEATURES, fitted), before)


def test_where_features_say_nothing_confidence_is_the_success_rate_and_not_its_opposite():
    solved = np.random.default_rng(1).random(400) < 0.4
    confidence = judged_confidence(FEATURES[:400], solved)
    assert np.abs(confidence - 0.4).max() < 0.2
    assert 0.4 < separation(confidence, solved[1::2])["rate"] < 0.6


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
