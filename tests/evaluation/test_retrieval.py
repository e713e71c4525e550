"""Retrieval of actions: what counts as similar, and which of the similar moments is followed."""

import dataclasses

import numpy as np
import torch

from lewm.data.latents import LatentCache
from lewm.evaluation.retrieval import Retrieval

NOWHERE = torch.zeros(1, 4)


def cache_of(*episodes: list[float]) -> LatentCache:
    """Episodes of one-dimensional latents; the action after row n is (n, -n)."""
    lengths = np.array([len(episode) - 1 for episode in episodes])
    first = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    rows = np.arange(sum(map(len, episodes)), dtype=np.float32)
    latents = np.concatenate(episodes).astype(np.float32)[:, None]
    return LatentCache(latents=latents, actions=np.stack([rows, -rows], -1), first_row=first, length=lengths, sha256="")


def chosen(retrieval: Retrieval, here: float, goal: float, steps_to_goal: int) -> list[float]:
    return retrieval.act(torch.tensor([[here]]), torch.tensor([[goal]]), NOWHERE, steps_to_goal=steps_to_goal)[0, ::2].tolist()


def test_of_the_moments_most_like_the_present_the_one_that_led_nearest_to_the_goal_is_followed():
    retrieval = Retrieval(cache_of([0, 1, 2, 3], [0, -1, -2, -3]), np.array([0, 1]), action_block=2, num_neighbours=2)
    assert chosen(retrieval, 0.0, 3.0, 3) == [0.0, 1.0]
    assert chosen(retrieval, 0.0, -3.0, 3) == [4.0, 5.0]


def test_what_comes_after_the_time_does_not_count():
    retrieval = Retrieval(cache_of([0, -1, 9, 9], [0, 1, 1, 1]), np.array([0, 1]), action_block=1, num_neighbours=2)
    assert chosen(retrieval, 0.0, 9.0, 1) == [4.0]
    assert chosen(retrieval, 0.0, 9.0, 2) == [0.0]


def test_the_last_observation_of_an_episode_which_has_no_action_is_never_followed_and_the_last_action_is_held():
    retrieval = Retrieval(cache_of([0, 1, 2], [5, 6, 7]), np.array([0, 1]), action_block=3, num_neighbours=1)
    assert chosen(retrieval, 2.0, 2.0, 5) == [1.0, 1.0, 1.0]


def test_a_goal_is_compared_with_what_later_frames_look_like_as_goals_and_the_present_with_what_was_seen():
    cache = dataclasses.replace(
        cache_of([0, 1, 2, 3], [0, -1, -2, -3], [50, 51, 52, 53]), still=-cache_of([9, 1, 2, 3], [9, -1, -2, -3], [0, 4, 5, 6]).latents
    )
    retrieval = Retrieval(cache, np.array([0, 1, 2]), action_block=1, num_neighbours=2)
    assert chosen(retrieval, 0.0, 3.0, 3) == [4.0]
    assert chosen(retrieval, 0.0, -3.0, 3) == [0.0]


def test_only_the_named_episodes_are_searched():
    retrieval = Retrieval(cache_of([0, 1, 2], [5, 6, 7]), np.array([1]), action_block=1, num_neighbours=1)
    assert chosen(retrieval, 0.0, 1.0, 5) == [3.0]
