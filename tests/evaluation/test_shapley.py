"""Shapley values against games whose answer is known, and what may be said about a gap."""

import itertools

import numpy as np
import pytest

from lewm.errors import ConfigError
from lewm.evaluation.why.shapley import attribution, shapley

PLAYERS = ("encoder", "predictor", "cost", "search")


def game(worth: "dict[int, np.ndarray]", n: int) -> np.ndarray:
    """The values [16, n] of a game in which each player adds what it is worth, whoever else is there."""
    values = np.zeros((16, n))
    for coalition, player in itertools.product(range(16), worth):
        values[coalition] += (coalition >> player & 1) * worth[player]
    return values


def test_players_of_an_additive_game_get_exactly_what_they_add():
    worth = {player: np.random.default_rng(player).standard_normal(5) for player in range(4)}
    assert np.allclose(shapley(game(worth, 5)), np.stack(list(worth.values())), atol=1e-12)


def test_shares_sum_to_the_gap_in_any_game():
    values = np.random.default_rng(0).standard_normal((16, 7))
    assert np.allclose(shapley(values).sum(0), values[15] - values[0], atol=1e-12)


def test_two_players_who_are_only_good_together_share_alike_and_the_others_get_nothing():
    values = np.array([[float(coalition & 0b0011 == 0b0011)] for coalition in range(16)])
    assert np.allclose(shapley(values)[:, 0], [0.5, 0.5, 0, 0])


def test_shares_are_the_mean_over_all_orders_of_joining():
    values = np.random.default_rng(1).standard_normal((16, 3))
    expected = np.zeros((4, 3))
    for order in itertools.permutations(range(4)):
        joined = 0
        for player in order:
            expected[player] += (values[joined | 1 << player] - values[joined]) / 24
            joined |= 1 << player
    assert np.allclose(shapley(values), expected, atol=1e-12)


def test_a_part_that_alone_makes_the_difference_is_named_with_intervals_around_its_share():
    solved = np.array([[coalition >> 2 & 1] * 12 + [1] * 3 for coalition in range(16)])
    found = attribution(solved, PLAYERS)
    assert found["part"] == "cost"
    assert found["sentence"].startswith("the cost is most to blame: +0.80 [+0.60, +1.00] of a gap of +0.80")
    assert found["parts"]["cost"]["shapley"]["low"] <= 0.8 <= found["parts"]["cost"]["shapley"]["high"]
    assert found["parts"]["encoder"] == {column: {"rate": 0, "low": 0, "high": 0} for column in ("shapley", "alone", "last")}


def test_parts_that_mend_different_pairs_equally_often_do_not_stand_out():
    solved = np.array([[coalition & 1] * 6 + [coalition >> 1 & 1] * 6 for coalition in range(16)])
    found = attribution(solved, PLAYERS)
    assert (found["verdict"], found["part"]) == ("no part", None)
    assert "cannot be told apart with n = 12" in found["sentence"]


def test_four_failures_are_too_few_to_blame_anybody():
    solved = np.array([[coalition & 1] * 4 + [1] * 20 for coalition in range(16)])
    found = attribution(solved, PLAYERS)
    assert (found["verdict"], found["part"]) == ("too few failures", None)
    assert found["sentence"].startswith("only 4 of 24 pairs failed")


def test_without_a_gap_or_without_failures_no_part_is_blamed():
    assert attribution(np.zeros((16, 9)), PLAYERS)["verdict"] == "no part"
    assert "the failures lie elsewhere" in attribution(np.zeros((16, 9)), PLAYERS)["sentence"]
    assert attribution(np.ones((16, 9)), PLAYERS)["verdict"] == "nothing to explain"


@pytest.mark.parametrize("values", [np.zeros((15, 3)), np.zeros((16, 0)), np.zeros(16), np.zeros((2, 3))], ids=str)
def test_values_that_are_no_game_are_refused(values):
    with pytest.raises(ConfigError, match=r"all coalitions of k >= 2 players"):
        shapley(values)


def test_a_game_with_too_few_names_is_refused():
    with pytest.raises(ConfigError, match="those of 4 players, got the names of 3"):
        attribution(np.zeros((16, 3)), PLAYERS[:3])
