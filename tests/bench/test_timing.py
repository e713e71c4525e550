"""The stopwatch of the benchmarks: turns, spreads, ratios and targets."""

import time

import pytest
import torch

from lewm.bench.timing import Contender, Row, Spread, milliseconds, per_second, relative_difference, take_turns


def row(ours: float, reference: float, **changes: object) -> Row:
    settings = {"case": "a", "unit": "ms", "better": "lower", "reference_is": "plain"} | changes
    return Row(ours=Spread.of([ours]), reference=Spread.of([reference]), **settings)


def test_contenders_take_turns_after_everybody_has_warmed_up():
    calls = []
    contenders = {name: Contender(lambda name=name: calls.append(name)) for name in "ABC"}
    seconds = take_turns(contenders, num_rounds=3, num_warmups=2)
    assert "".join(calls) == "ABC" * 5
    assert {name: len(values) for name, values in seconds.items()} == {"A": 3, "B": 3, "C": 3}


def test_warm_up_rounds_are_not_measured():
    first = [True]

    def slow_at_first() -> None:
        time.sleep(0.05 if first.pop() else 0)
        first.append(False)

    seconds = take_turns({"A": Contender(slow_at_first)}, num_rounds=3)
    assert max(seconds["A"]) < 0.04


def test_time_is_given_per_unit_of_amount():
    contenders = {"A": Contender(lambda: time.sleep(0.02)), "B": Contender(lambda: time.sleep(0.02), amount=10)}
    seconds = take_turns(contenders, num_rounds=3)
    assert min(seconds["A"]) >= 0.02
    assert 0.002 <= min(seconds["B"]) < 0.01


def test_a_spread_is_the_median_and_the_quartiles_in_any_order():
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0)
    assert Spread.of([7.0]) == Spread(median=7.0, low=7.0, high=7.0)


def test_seconds_become_milliseconds_or_rates():
    assert milliseconds([0.001, 0.002, 0.003]).median == pytest.approx(2.0)
    assert per_second([0.5, 0.25, 0.125]) == Spread(median=4.0, low=3.0, high=6.0)


def test_the_ratio_says_how_many_times_better_ours_is_whichever_way_is_up():
    assert row(2.0, 10.0).ratio == 5.0
    assert row(2.0, 10.0, better="higher").ratio == 0.2


def test_a_target_bounds_the_ratio_or_the_value_from_the_good_side():
    assert row(2.0, 10.0).reaches(5)
    assert not row(2.0, 10.0).reaches(5.1)
    assert row(2.0, 10.0, target_of="ours").reaches(2)
    assert not row(2.0, 10.0, target_of="ours").reaches(1.9)
    assert row(2.0, 10.0, target_of="ours", better="higher").reaches(1.9)
    assert not row(2.0, 10.0, target_of="ours", better="higher").reaches(2.1)


def test_a_difference_is_relative_to_the_largest_value():
    assert relative_difference(torch.tensor([1.0, -4.0]), torch.tensor([1.5, -4.0])) == pytest.approx(0.125)
    assert relative_difference(torch.tensor([0.25]), torch.zeros(1)) == 0.25
