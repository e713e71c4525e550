"""Two encoders on the same test frames: their difference is that of their scores, and its interval resamples episodes."""

import numpy as np
import pytest

from lewm.evaluation.atari_labels import score_labels
from lewm.evaluation.atari_peer import NUM_RESAMPLES, compare_peer
from lewm.evaluation.classification import weighted_f1
from lewm.evaluation.intervals import resampled_counts

NAMES = ("player_x", "player_y", "ball_x")
NUM_EPISODES = 12


def answers() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Of frames of 12 episodes of unequal length: answers that are right more or less often, the truth, and the episodes."""
    generator = np.random.default_rng(0)
    episodes = np.repeat(np.arange(NUM_EPISODES) * 3, generator.integers(10, 40, NUM_EPISODES))
    truth = generator.integers(0, 6, (len(episodes), len(NAMES)))
    shares = {"lewm": 0.7, "untrained": 0.3, "peer": 0.55, "supervised": 0.95}
    wrong = generator.integers(0, 6, truth.shape)
    return {name: np.where(generator.random(truth.shape) < share, truth, wrong) for name, share in shares.items()}, truth, episodes


def test_differences_are_those_of_the_scores_that_stand_in_the_table() -> None:
    reads, truth, episodes = answers()
    found = compare_peer(reads, truth, NAMES, episodes)
    scores = {name: score_labels(read, truth, NAMES) for name, read in reads.items()}
    assert found["mean"]["difference"]["value"] == pytest.approx(scores["lewm"]["mean_f1"] - scores["peer"]["mean_f1"])
    for each, one in found["categories"].items():
        f1 = {name: score["categories"][each]["f1"] for name, score in scores.items()}
        assert one["f1"] == pytest.approx(f1)
        assert one["relative"]["peer"] == pytest.approx((f1["peer"] - f1["untrained"]) / (f1["supervised"] - f1["untrained"]))
        assert one["relative_difference"]["value"] == pytest.approx(one["relative"]["lewm"] - one["relative"]["peer"])


def test_the_interval_is_the_bootstrap_of_the_paired_difference_over_episodes() -> None:
    reads, truth, episodes = answers()
    found = compare_peer(reads, truth, NAMES, episodes)["categories"]["small_object_localization"]["difference"]
    rows_of = [np.flatnonzero(episodes == episode) for episode in np.unique(episodes)]
    resamples = []
    for counts in resampled_counts(0, NUM_RESAMPLES, NUM_EPISODES):
        rows = np.concatenate([np.tile(rows, count) for rows, count in zip(rows_of, counts, strict=True)])
        own, peer = (weighted_f1(reads[name][rows, 2], truth[rows, 2]) for name in ("lewm", "peer"))
        resamples.append(own - peer)
    np.testing.assert_allclose([found["low"], found["high"]], np.quantile(resamples, [0.025, 0.975]), atol=1e-9)
    assert 0 < found["low"] < found["value"] < found["high"]


def test_a_run_beside_itself_differs_by_nothing() -> None:
    reads, truth, episodes = answers()
    found = compare_peer(reads | {"peer": reads["lewm"]}, truth, NAMES, episodes)
    assert found["mean"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_without_a_reference_that_gains_there_is_no_relative_difference() -> None:
    reads, truth, episodes = answers()
    for references in ({}, {"supervised": reads["untrained"]}):
        others = {name: read for name, read in reads.items() if name != "supervised"}
        found = compare_peer(others | references, truth, NAMES, episodes)["mean"]
        assert found["relative"] is None
        assert found["relative_difference"] is None
        assert found["difference"]["low"] is not None


def test_a_single_test_episode_gives_no_interval() -> None:
    reads, truth, episodes = answers()
    found = compare_peer(reads, truth, NAMES, np.zeros_like(episodes))["mean"]
    assert found["difference"]["value"] > 0
    assert (found["difference"]["low"], found["relative_difference"]["high"]) == (None, None)
