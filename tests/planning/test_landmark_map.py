"""The map of landmarks: where its landmarks are, how long its edges, and which ways it knows."""

import numpy as np
import pytest
import torch

from lewm.errors import PlanningError
from lewm.planning.landmark_map import LandmarkMap, Ways, build_map, representatives, travelled, visits


def line(*episodes: list[float], **settings) -> LandmarkMap:
    """A map of one-dimensional episodes in which every different number is a landmark."""
    latents = torch.tensor([number for episode in episodes for number in episode])[:, None]
    settings = {"num_landmarks": 50, "most_env_steps": 3, "seed": 0} | settings
    return build_map(latents, [len(episode) for episode in episodes], **settings)


def edges(found: LandmarkMap) -> dict[tuple[float, float], float]:
    """Env steps by the numbers that an edge joins."""
    numbers = found.latents[:, 0].tolist()
    return {(numbers[start], numbers[end]): took for start, end, took in zip(found.starts, found.ends, found.env_steps, strict=True)}


def at(found: LandmarkMap, number: float) -> int:
    return int(found.nearest(torch.tensor([[number]]))[0])


def test_an_edge_takes_the_median_of_the_env_steps_that_episodes_took_in_its_direction():
    found = line([0.0, 9.0, 1.0, 0.0], [0.0, 1.0, 9.0, 0.0], [0.0, 1.0, 0.0], most_env_steps=2)
    assert edges(found) == {(0.0, 9.0): 1.5, (9.0, 1.0): 1.0, (0.0, 1.0): 1.0, (9.0, 0.0): 1.5, (1.0, 0.0): 1.0, (1.0, 9.0): 1.0}


def test_an_episode_comes_by_where_it_is_nearest():
    visited, moments = visits(np.array([4, 4, 4, 7, 7, 4]), np.array([3.0, 1.0, 2.0, 5.0, 0.0, 9.0]))
    assert visited.tolist() == [4, 7, 4]
    assert moments.tolist() == [1, 4, 5]


def test_edges_are_no_longer_than_they_may_be_and_never_cross_the_end_of_an_episode():
    starts, ends, env_steps = travelled(np.array([0, 1, 2, 3, 4]), np.zeros(5), np.array([3, 2]), most_env_steps=1)
    assert list(zip(starts.tolist(), ends.tolist(), env_steps.tolist(), strict=True)) == [(0, 1, 1.0), (1, 2, 1.0), (3, 4, 1.0)]


def test_a_way_uses_pieces_of_episodes_that_meet_in_a_landmark():
    found = line([0.0, 1.0, 2.0, 1.0, 0.0], [2.0, 3.0, 4.0, 3.0, 2.0])
    route = found.ways_to(at(found, 4.0)).route(at(found, 0.0))
    assert route is not None
    assert found.ways_to(at(found, 4.0)).env_steps[at(found, 0.0)] == 4.0
    assert found.latents[route[0], 0] == 0
    assert found.latents[route[-1], 0] == 4


def test_there_is_no_way_between_what_no_episodes_join():
    found = line([0.0, 1.0, 0.0, 1.0], [8.0, 9.0, 8.0, 9.0])
    assert found.ways_to(at(found, 9.0)).route(at(found, 0.0)) is None
    assert found.ways_to(at(found, 1.0)).route(at(found, 0.0)) == [at(found, 0.0), at(found, 1.0)]


def test_a_way_that_was_made_longer_is_left_for_another():
    found = line([0.0, 1.0, 5.0, 1.0, 0.0], [0.0, 2.0, 2.5, 5.0, 2.5, 2.0, 0.0], most_env_steps=1)
    start, goal = at(found, 0.0), at(found, 5.0)
    assert at(found, 1.0) in (found.ways_to(goal).route(start) or [])
    factors = np.where((found.starts == start) & (found.ends == at(found, 1.0)), 4.0, 1.0)
    assert found.ways_to(goal, factors).route(start) == [start, at(found, 2.0), at(found, 2.5), goal]


def test_landmarks_that_nobody_leaves_or_comes_to_are_left_out():
    found = line([7.0, 0.0, 1.0, 0.0, 1.0, 8.0])
    assert sorted(found.latents[:, 0].tolist()) == [0.0, 1.0]
    assert found.rows.max() <= 4


def test_a_distance_replaces_what_episodes_did():
    found = line([0.0, 1.0, 0.0], [2.0, 3.0, 2.0], most_env_steps=20, distance=lambda here, there: 10 * (here - there).abs().sum(-1))
    assert edges(found)[1.0, 2.0] == pytest.approx(10)
    assert (0.0, 3.0) not in edges(found)


def shown_elsewhere(*episodes: list[float], **settings) -> LandmarkMap:
    """The same map, whose frames look as if they were 100 further on when they are shown as goals."""
    latents = torch.tensor([number for episode in episodes for number in episode])[:, None]
    return line(*episodes, still=latents + 100, **settings)


def test_goals_belong_to_the_landmark_that_looks_like_them_as_a_goal_and_the_present_to_the_one_that_was_seen_so():
    found = shown_elsewhere([0.0, 1.0, 2.0, 1.0, 0.0])
    for number in (0.0, 1.0, 2.0):
        assert found.latents[found.nearest_to_goals(torch.tensor([[100 + number]])), 0].tolist() == [number]
        assert found.latents[found.nearest(torch.tensor([[number]])), 0].tolist() == [number]


def test_a_distance_is_asked_how_far_landmarks_are_as_goals():
    episodes, settings = ([0.0, 1.0, 0.0], [2.0, 3.0, 2.0]), {"most_env_steps": 20}
    there = shown_elsewhere(*episodes, **settings, distance=lambda here, there: 10 * (here + 100 - there).abs().sum(-1))
    assert edges(there) == edges(line(*episodes, **settings, distance=lambda here, there: 10 * (here - there).abs().sum(-1)))


def test_landmarks_are_spread_over_what_was_seen_and_depend_on_the_seed_alone():
    cloud = torch.cat([centre + 0.01 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) for centre in torch.eye(2)])
    first = representatives(cloud, 6, seed=1)
    assert torch.equal(first, representatives(cloud, 6, seed=1))
    assert {int(row) // 200 for row in first} == {0, 1}
    assert len(first) <= 6


def test_a_latent_belongs_to_the_same_landmark_whoever_else_is_asked_for():
    latents = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    found = build_map(latents, [300], num_landmarks=20, most_env_steps=5, seed=0)
    np.testing.assert_array_equal(found.nearest(latents), [found.nearest(one[None])[0] for one in latents])


def test_a_map_without_ways_is_refused():
    with pytest.raises(PlanningError, match="have no ways between them within 3 env steps"):
        line([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])


def test_a_dimension_that_never_varies_does_no_harm():
    latents = torch.cat([torch.arange(8.0).repeat(2)[:, None], torch.full((16, 1), 3.0)], dim=1)
    found = build_map(latents, [16], num_landmarks=4, most_env_steps=8, seed=0)
    assert torch.isfinite(found.std).all()
    assert len(found.starts) > 0


def test_the_way_from_the_goal_to_itself_is_the_goal():
    assert Ways(env_steps=np.array([0.0, np.inf]), following=np.array([-1, -1])).route(0) == [0]
