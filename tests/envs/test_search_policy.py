"""Search on the true dynamics: what it reaches, and that it leaves the world as it was."""

from contextlib import closing

import numpy as np
import pytest

import lewm
from lewm.envs.base import MeasuresGoals, make_batch
from lewm.envs.search import SearchPolicy
from lewm.errors import EnvError
from lewm.evaluation.outcomes import run_scripted

SMALL = {"num_candidates": 24, "num_elites": 4, "num_iterations": 3, "horizon_model_steps": 3}
WORLDS = ("two-room", "push-t", pytest.param("dmc/point_mass-easy", marks=pytest.mark.mujoco))


def reached(env: str, seeds: list[int], num_env_steps: int, **options: int) -> list[int | None]:
    with closing(make_batch(env, len(seeds), size_px=16)) as batch:
        batch.reset(seeds)
        return [outcome.first_hit for outcome in run_scripted(batch, SearchPolicy(**SMALL | options), seeds, num_env_steps)]


@pytest.mark.parametrize("env", WORLDS)
def test_a_distance_of_one_is_the_edge_of_success(env):
    with closing(make_batch(env, 8, size_px=16)) as batch:
        batch.reset(range(8))
        assert isinstance(batch, MeasuresGoals)
        assert (batch.goal_distance() > 1).all()
        assert not batch.is_solved().any()
        batch.set_goals(batch.get_states())
        np.testing.assert_allclose(batch.goal_distance(), 0, atol=1e-9)


def test_goals_in_the_same_room_are_reached():
    with closing(make_batch("two-room", 12, size_px=16)) as batch:
        batch.reset(range(12))
        starts = batch.get_states()
        generator = np.random.default_rng(0)
        for _ in range(15):
            batch.step(np.repeat(generator.uniform(-1, 1, (1, 2)), 12, 0).astype(np.float32))
        batch.set_goals(batch.get_states())
        ends = batch.get_states()
        batch.set_states(starts)
        batch.set_goals(ends)
        hits = [outcome.first_hit for outcome in run_scripted(batch, SearchPolicy(**SMALL), range(12), 30)]
    assert sum(hit is not None for hit in hits) >= 10  # random actions in a small room seldom do


def test_an_episode_is_searched_alike_alone_and_in_any_batch():
    assert reached("two-room", [3, 4, 5], 20)[1] == reached("two-room", [4], 20)[0]


@pytest.mark.parametrize("env", WORLDS)
def test_the_world_stays_as_it_is_while_candidates_are_tried(env):
    with closing(make_batch(env, 2, size_px=16)) as batch:
        batch.reset([1, 2])
        policy = SearchPolicy(**SMALL)
        policy.reset(batch, [1, 2], 10)
        before = batch.get_states()
        actions = policy.act(batch)
        assert batch.get_states() == before
        assert actions.shape == (2, batch.action_spec.dimension)
        assert (actions >= batch.action_spec.low).all()
        assert (actions <= batch.action_spec.high).all()


@pytest.mark.atari
def test_a_game_is_refused():
    with closing(lewm.make_batch("atari/pong", 1)) as batch:
        batch.reset([0])
        with pytest.raises(EnvError, match="'search' needs continuous actions and a world that measures how far its goal is"):
            SearchPolicy().reset(batch, [0], 10)
