"""Differences between methods over training seeds, and pairs that are the first of others."""

import itertools

import numpy as np
import pytest

from lewm.errors import ConfigError
from lewm.evaluation.intervals import mcnemar_p, paired_difference_over_seeds, sign_flip_p
from lewm.evaluation.prepared_pairs import prepare_pairs
from lewm.planner_lab.cells import SIMULATOR
from lewm.planner_lab.summary import difference_to

GENERATOR_SEED = 4


def random_outcomes(*shape: int, rate: float, seed: int = GENERATOR_SEED) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < rate


def test_with_one_seed_the_sign_flip_test_is_mcnemars() -> None:
    for seed in range(20):
        first, second = random_outcomes(2, 30, rate=0.6, seed=seed)
        assert sign_flip_p(first.astype(int) - second) == pytest.approx(mcnemar_p(first, second), abs=1e-12)


def test_the_sign_flip_test_counts_every_choice_of_signs() -> None:
    differences = np.array([2, -1, 3, 0, 1, 2])
    sums = [abs(int(np.dot(signs, differences))) for signs in itertools.product((-1, 1), repeat=len(differences))]
    assert sign_flip_p(differences) == pytest.approx(np.mean(np.array(sums) >= abs(differences.sum())))


def test_equal_methods_do_not_differ() -> None:
    outcomes = random_outcomes(3, 40, rate=0.7)
    assert paired_difference_over_seeds(outcomes, outcomes) == {"rate": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_training_seeds_that_disagree_make_the_interval_wider() -> None:
    worse = np.zeros((2, 40), bool)
    agreeing, disagreeing = np.zeros((2, 40), bool), np.zeros((2, 40), bool)
    agreeing[:, ::2] = True
    disagreeing[0] = True
    narrow, wide = paired_difference_over_seeds(agreeing, worse), paired_difference_over_seeds(disagreeing, worse)
    assert narrow["rate"] == wide["rate"] == 0.5
    assert wide["high"] - wide["low"] > narrow["high"] - narrow["low"]


def test_outcomes_of_different_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs outcomes \[seeds, n\] of the same shape"):
        paired_difference_over_seeds(np.ones((2, 3), bool), np.ones((2, 4), bool))


def test_a_method_on_fewer_pairs_is_compared_on_those() -> None:
    baseline = {"a": np.array([True, False, False, False])}
    found = difference_to({"a": np.array([True, True])}, baseline)
    assert found is not None
    assert (found["rate"], found["n"], found["num_seeds"]) == (0.5, 2, 1)


def test_a_scripted_policy_stands_beside_each_run() -> None:
    baseline = {"a": np.array([True, False]), "b": np.array([False, False])}
    found = difference_to({SIMULATOR: np.array([True, True])}, baseline)
    assert found is not None
    assert (found["rate"], found["num_seeds"]) == (0.75, 2)


def test_a_policy_of_other_runs_has_no_paired_p() -> None:
    baseline = {"a": random_outcomes(20, rate=0.5)}
    found = difference_to({"policy-x": random_outcomes(20, rate=0.9), "policy-y": random_outcomes(20, rate=0.8)}, baseline)
    assert found is not None
    assert (found["p"], found["num_seeds"]) == (None, 2)


def test_only_runs_that_both_have_are_compared() -> None:
    found = difference_to({"b": np.array([True, True])}, {"a": np.array([False, False]), "b": np.array([True, False])})
    assert found is not None
    assert (found["rate"], found["num_seeds"]) == (0.5, 1)


def test_without_a_baseline_there_is_no_difference() -> None:
    assert difference_to({"a": np.array([True])}, {}) is None


def test_the_first_of_prepared_pairs_are_those_that_asking_for_fewer_gives() -> None:
    more, fewer = (prepare_pairs("two-room", {"size_px": 32}, distances=(10, 15), num_pairs=count, seed=2) for count in (4, 2))
    assert more.first(2).manifest == fewer.manifest
    assert more.first(2).references == fewer.references


def test_more_pairs_than_there_are_cannot_be_the_first() -> None:
    prepared = prepare_pairs("two-room", {"size_px": 32}, distances=(10,), num_pairs=2, strata=("same-room",))
    with pytest.raises(ConfigError, match="the first 3 of 2 prepared pairs: ask for 1 to 2"):
        prepared.first(3)
