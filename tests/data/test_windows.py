"""Windows are counted, shuffled and split without a list of them."""

import numpy as np
import pytest

from lewm.data.layout import INDEX_DTYPE
from lewm.data.splits import split_episodes
from lewm.data.windows import WindowIndex, shuffled
from lewm.errors import DataError
from lewm.seeds import episode_seed, hash64


def index_of(lengths: list[int]) -> np.ndarray:
    index = np.zeros(len(lengths), INDEX_DTYPE)
    index["id"] = np.arange(len(lengths))
    index["length"] = lengths
    index["offset"] = np.cumsum([0, *(length + 1 for length in lengths[:-1])])
    return index


@pytest.mark.parametrize("num_windows", [*range(1, 40), 99, 100, 101, 1_023, 1_024, 1_025, 54_321])
def test_each_pass_visits_every_window_exactly_once(num_windows: int) -> None:
    three_passes = shuffled(np.arange(3 * num_windows), num_windows, seed=5).reshape(3, num_windows)
    for one_pass in three_passes:
        np.testing.assert_array_equal(np.sort(one_pass), np.arange(num_windows))


def test_passes_and_seeds_have_orders_of_their_own() -> None:
    orders = [shuffled(np.arange(1000) + 1000 * number, 1000, seed) for seed in (0, 1) for number in (0, 1)]
    for i, left in enumerate(orders):
        for right in orders[:i]:
            assert (left == right).sum() < 12  # 1 expected of independent orders


def test_the_order_looks_uniform() -> None:
    """Where window i stands in 400 passes: mean and spread of a uniform distribution, and no tie between neighbours."""
    num_windows, num_passes = 500, 400
    orders = shuffled(np.arange(num_windows * num_passes), num_windows, seed=1).reshape(num_passes, num_windows)
    places = np.argsort(orders, axis=1) / num_windows
    assert np.abs(places.mean(0) - 0.5).max() < 5 * np.sqrt(1 / 12 / num_passes)
    assert np.abs(places.std(0) - np.sqrt(1 / 12)).max() < 0.05
    assert abs(np.corrcoef(places[:, :-1].ravel(), places[:, 1:].ravel())[0, 1]) < 0.02
    steps = np.diff(orders, axis=1) % num_windows
    assert np.bincount(steps.ravel(), minlength=num_windows)[1:].max() < 2 * num_passes


def test_windows_are_the_starts_that_leave_room_in_their_episode() -> None:
    lengths = [4, 9, 5, 3, 7]
    windows = WindowIndex(index_of(lengths), span_env_steps=5)
    expected = [(episode, start) for episode, length in enumerate(lengths) for start in range(length - 5 + 1)]
    assert windows.num_windows == len(expected)
    found = windows.locate(np.arange(len(expected)))
    assert list(zip(found.episode.tolist(), found.start_env_step.tolist(), strict=True)) == expected
    np.testing.assert_array_equal(found.first_row, index_of(lengths)["offset"][found.episode] + found.start_env_step)


def test_no_episode_long_enough_says_how_long_they_are() -> None:
    with pytest.raises(DataError, match=r"the longest has 14 env steps and a clip needs 15; lower data.num_transitions or data.action_block"):
        WindowIndex(index_of([3, 14, 7]), 15)
    with pytest.raises(DataError, match="no episodes to cut clips from"):
        WindowIndex(index_of([3, 14, 7])[:0], 2)


def test_appending_moves_no_episode_between_the_splits() -> None:
    train, validation = split_episodes(np.arange(1_000), 0.1, seed=3)
    more_train, more_validation = split_episodes(np.arange(5_000), 0.1, seed=3)
    np.testing.assert_array_equal(more_train[more_train < 1_000], train)
    np.testing.assert_array_equal(more_validation[more_validation < 1_000], validation)


def test_a_split_holds_out_about_its_fraction_and_another_seed_others() -> None:
    train, validation = split_episodes(np.arange(20_000), 0.1, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(20_000))
    assert abs(len(validation) - 2_000) < 5 * np.sqrt(20_000 * 0.1 * 0.9)
    _, others = split_episodes(np.arange(20_000), 0.1, seed=1)
    assert len(np.intersect1d(validation, others)) < 300  # 200 expected
    assert len(split_episodes(np.arange(20), 0.0, seed=0)[1]) == 0


def test_a_larger_fraction_only_adds_to_what_is_held_out() -> None:
    _, few = split_episodes(np.arange(3_000), 0.1, seed=0)
    _, many = split_episodes(np.arange(3_000), 0.3, seed=0)
    assert np.isin(few, many).all()


def test_episode_seeds_of_different_namespaces_seeds_and_indices_differ() -> None:
    seeds = {episode_seed(name, seed, index) for name in ("training", "evaluation") for seed in range(20) for index in range(50)}
    assert len(seeds) == 2 * 20 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_seed_of_the_first_training_episode_never_changes() -> None:
    assert episode_seed("training", 0, 0) == 6382940141862050335  # another value would change every dataset


def test_hash64_flips_half_of_the_bits_when_one_changes() -> None:
    values = np.arange(2_000, dtype=np.uint64)
    for other in (hash64(values ^ np.uint64(1), 7), hash64(values, 6)):
        flipped = np.bitwise_count(hash64(values, 7) ^ other)
        assert abs(flipped.mean() - 32) < 0.5


def test_neighbours_are_uniform_among_the_windows_of_the_same_episode() -> None:
    index = WindowIndex(index_of([5, 9, 3, 12]), span_env_steps=4)  # 2, 6, 0 and 9 windows
    draws = hash64(np.arange(6000).reshape(2, 3000), 0)
    first, last = index.in_same_episode(np.array([1, 9]), draws)
    np.testing.assert_allclose(np.bincount(first, minlength=2) / 3000, 1 / 2, rtol=0.1)
    np.testing.assert_allclose(np.bincount(last, minlength=17)[8:] / 3000, 1 / 9, rtol=0.2)
    assert last.min() == 8
    near = index.in_same_episode(np.array([1, 9]), draws, span_env_steps=2)
    assert set(near[0].tolist()) == {0, 1}
    assert set(near[1].tolist()) == {8, 9, 10, 11}


def test_windows_of_a_time_start_at_the_same_env_step_or_are_their_episodes_last() -> None:
    index = WindowIndex(index_of([5, 9, 3, 12]), span_env_steps=4)  # episodes 0, 1 and 3 have 2, 6 and 9 windows
    others = index.locate(index.at_same_env_step(np.array([5]), hash64(np.arange(3000).reshape(1, 3000), 0))[0])  # window 5: env step 3 of episode 1
    for episode, start in ((0, 1), (1, 3), (3, 3)):
        assert set(others.start_env_step[others.episode == episode].tolist()) == {start}
    np.testing.assert_allclose(np.bincount(others.episode, minlength=4) / 3000, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.05)
