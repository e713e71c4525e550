"""Goals of decisions: how often each kind is drawn, and that the frames of a batch are those of the decisions and goals that were drawn.

Axes: B decision, V view, Y X image. The toy world's frames say place (channel 0), env step (1) and seed (2).
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lewm.data.episodes import EpisodeStore
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import DataError
from lewm.learned_policies.goals import CURRENT, RANDOM, GoalBatch, GoalMixture, GoalSampler
from lewm.schema import ActionSpec

NUM_DRAWS = 200_000
TOLERANCE = 0.006
"""Five standard deviations of a share of 0.5 in so many draws."""


def drawn(mixture: GoalMixture, remaining: int) -> np.ndarray:
    draws = np.random.default_rng(0).random((NUM_DRAWS, 3))
    return mixture.choose(draws, np.full(NUM_DRAWS, remaining))


def test_goals_are_current_random_and_ahead_as_often_as_asked_for():
    chosen = drawn(GoalMixture(current=0.2, random=0.3, geometric_discount=0.9), 50)
    assert abs((chosen == CURRENT).mean() - 0.2) < TOLERANCE
    assert abs((chosen == RANDOM).mean() - 0.3) < TOLERANCE


def test_uniform_goals_lie_equally_often_at_every_distance_up_to_the_horizon():
    chosen = drawn(GoalMixture(max_ahead=8), 50)
    shares = np.bincount(chosen, minlength=10)[:10] / NUM_DRAWS
    np.testing.assert_allclose(shares, [0, *[1 / 8] * 8, 0], atol=TOLERANCE)


def test_geometric_goals_follow_the_discount_and_the_last_frame_takes_the_rest():
    discount, remaining = 0.8, 6
    shares = np.bincount(drawn(GoalMixture(geometric_discount=discount), remaining), minlength=remaining + 1) / NUM_DRAWS
    expected = [(1 - discount) * discount ** (ahead - 1) for ahead in range(1, remaining)]
    np.testing.assert_allclose(shares[1:], [*expected, 1 - sum(expected)], atol=TOLERANCE)
    assert shares[0] == 0


def test_without_a_discount_every_goal_is_the_next_decision():
    assert (drawn(GoalMixture(geometric_discount=0.0), 5) == 1).all()


def sampler(store: EpisodeStore, **changes: Any) -> GoalSampler:
    settings: dict[str, Any] = {
        "episode_ids": store.episode_ids,
        "action_block": 2,
        "stack_offsets_env_steps": (-1, 0),
        "batch_size": 64,
        "seed": 3,
        "goals": GoalMixture(max_ahead=4),
        "value_goals": GoalMixture(current=0.25, random=0.25),
    }
    return GoalSampler(store, **(settings | changes))


def corner(frames: np.ndarray, channel: int) -> np.ndarray:
    """Int [B, V]: what the frames spell."""
    return frames[:, :, 0, 0, channel].astype(int)


def test_a_batch_shows_what_was_done_and_what_came_of_it(discrete_walks):
    batch = sampler(discrete_walks).batch(0)
    now, later = batch.observations.frames, batch.next_observations.frames
    assert (corner(later, 1)[:, 1] == corner(now, 1)[:, 1] + 2).all()
    assert (corner(later, 2) == corner(now, 2)).all()
    moves = batch.blocks.reshape(64, 2, 3).argmax(-1) - 1
    walked = np.clip(np.clip(corner(now, 0)[:, 1] + moves[:, 0], 0, 15) + moves[:, 1], 0, 15)
    assert (corner(later, 0)[:, 1] == walked).all()


def test_stacked_frames_are_earlier_ones_and_never_from_before_the_start(discrete_walks):
    steps = corner(sampler(discrete_walks, batch_size=256).batch(0).observations.frames, 1)
    assert (steps[:, 0] == np.maximum(steps[:, 1] - 1, 0)).all()
    assert (steps[:, 1] == 0).any()


def test_the_policys_goals_lie_whole_decisions_ahead_in_the_same_episode_and_stand_still(discrete_walks):
    batch = sampler(discrete_walks, batch_size=256).batch(0)
    ahead = corner(batch.goals.frames, 1)[:, 1] - corner(batch.observations.frames, 1)[:, 1]
    assert set(ahead.tolist()) == {2, 4, 6, 8}
    assert (corner(batch.goals.frames, 2) == corner(batch.observations.frames, 2)).all()
    np.testing.assert_array_equal(batch.goals.frames[:, 0], batch.goals.frames[:, 1])


def test_a_goal_is_reached_exactly_where_it_is_the_observation_itself(discrete_walks):
    batch = sampler(discrete_walks, batch_size=512, stack_offsets_env_steps=(0,)).batch(0)
    is_same = (batch.value_goals.frames == batch.observations.frames).all((1, 2, 3, 4))
    np.testing.assert_array_equal(batch.is_reached, is_same)
    assert abs(batch.is_reached.mean() - 0.25) < 0.1  # five standard deviations of 512 draws


def test_random_goals_come_from_other_episodes_too(discrete_walks):
    batch = sampler(discrete_walks, batch_size=512, value_goals=GoalMixture(random=0.999)).batch(0)
    is_other = corner(batch.value_goals.frames, 2)[:, 1] != corner(batch.observations.frames, 2)[:, 1]
    assert is_other.mean() > 0.9


def test_a_batch_is_a_function_of_seed_and_number(discrete_walks):
    def frames(batch: GoalBatch[np.ndarray]) -> bytes:
        return b"".join(part.frames.tobytes() for part in (batch.observations, batch.goals, batch.value_goals))

    first = frames(sampler(discrete_walks).batch(7))
    assert first == frames(sampler(discrete_walks).batch(7))
    assert first != frames(sampler(discrete_walks).batch(8))
    assert first != frames(sampler(discrete_walks, seed=4).batch(7))


def test_a_policy_without_a_value_reads_no_frames_for_one(discrete_walks):
    batch = sampler(discrete_walks, value_goals=None).batch(0)
    assert (batch.next_observations, batch.value_goals, batch.is_reached) == (None, None, None)


def test_data_without_actions_are_refused(discrete_walks, tmp_path):
    episode = replace(discrete_walks.episode(0), actions=None, labels=None, rewards=None)
    meta = DatasetMeta(observation_spec=discrete_walks.observation_spec, action_spec=ActionSpec(kind="none"))
    with EpisodeWriter(tmp_path / "film", meta) as writer:
        writer.append(episode)
    with pytest.raises(DataError, match="has no actions, and a policy learns what was done: use data with actions"):
        sampler(EpisodeStore(tmp_path / "film"))


def test_episodes_without_a_whole_decision_are_refused(discrete_walks):
    with pytest.raises(DataError, match=r"the longest has 30 env steps and a decision takes 31; give a smaller action block, or collect longer"):
        sampler(discrete_walks, action_block=31)
