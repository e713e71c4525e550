"""Experts of reacher, and coloured noise for every continuous world."""

from types import SimpleNamespace

import numpy as np
import pytest

from lewm.envs.base import make_batch
from lewm.envs.dmc.policies import POLICIES, ReacherExpert, ReacherNoiselessExpert
from lewm.envs.policies import OUPolicy
from lewm.errors import EnvError
from lewm.schema import ActionSpec


def roll(policy, seeds, num_env_steps, name="dmc/reacher-easy"):
    """Labels by name [N+1, E] and whether solved [N+1, E]."""
    batch = make_batch(name, len(seeds))
    batch.reset(seeds)
    policy.reset(batch, seeds, num_env_steps)
    labels, is_solved, actions = [batch.labels()], [batch.is_solved()], []
    for _ in range(num_env_steps):
        actions.append(policy.act(batch))
        batch.step(actions[-1])
        labels.append(batch.labels())
        is_solved.append(batch.is_solved())
    return dict(zip(batch.label_names, np.moveaxis(np.stack(labels), -1, 0), strict=True)), np.stack(is_solved), np.stack(actions)


@pytest.mark.mujoco
@pytest.mark.parametrize("name", ["dmc/reacher-easy", "dmc/reacher-hard"])
def test_the_noiseless_expert_reaches_every_goal_within_50_env_steps_and_stays(name):
    _, is_solved, actions = roll(ReacherNoiselessExpert(), range(50), 50, name)
    assert is_solved[-1].all()
    assert (np.abs(actions) <= 1).all()


@pytest.mark.mujoco
def test_the_expert_visits_poses_all_around():
    labels, _, _ = roll(ReacherExpert(), range(10), 200)
    sectors = ((labels["shoulder_rad"] % (2 * np.pi)) // (np.pi / 4)).astype(int)
    assert all(len(set(sectors[:, episode])) >= 6 for episode in range(10))
    assert labels["wrist_rad"].min() < -1.5
    assert labels["wrist_rad"].max() > 1.5


@pytest.mark.mujoco
@pytest.mark.parametrize("name", sorted(POLICIES["reacher"]))
def test_an_expert_acts_the_same_alone_and_in_a_batch(name):
    _, _, together = roll(POLICIES["reacher"][name](), [1, 2, 3], 40)
    _, _, alone = roll(POLICIES["reacher"][name](), [2], 40)
    np.testing.assert_array_equal(together[:, 1:2], alone)


@pytest.mark.mujoco
def test_a_longer_limit_continues_an_expert_episode():
    _, _, short = roll(ReacherExpert(), [1], 10)
    _, _, long = roll(ReacherExpert(), [1], 20)
    np.testing.assert_array_equal(short, long[:10])


@pytest.mark.mujoco
def test_an_expert_refuses_other_worlds_bad_options_and_steps_beyond_its_reset():
    batch = make_batch("dmc/pendulum-swingup", 1)
    with pytest.raises(EnvError, match="drives dmc/reacher-easy and dmc/reacher-hard, not dmc/pendulum-swingup"):
        ReacherExpert().reset(batch, [1], 5)
    with pytest.raises(EnvError, match="action_noise must be at least 0"):
        ReacherExpert(action_noise=float("nan"))
    with pytest.raises(EnvError, match="hold_env_steps must be at least 1"):
        ReacherExpert(hold_env_steps=0)
    with pytest.raises(EnvError, match="hold_env_steps must be a whole number, got '9'"):
        ReacherExpert(hold_env_steps="9")
    batch = make_batch("dmc/reacher-easy", 1)
    batch.reset([1])
    policy = ReacherExpert()
    policy.reset(batch, [1], 1)
    policy.act(batch)
    with pytest.raises(EnvError, match="asked for one more"):
        policy.act(batch)


@pytest.mark.mujoco
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_the_noiseless_expert_undoes_full_turns_only_where_they_count(is_wrapped):
    batch = make_batch("dmc/reacher-easy", 1, is_wrapped=is_wrapped)
    batch.reset([1])
    (state,) = batch.get_states()
    goal = batch._simulator.at_rest(batch._now[0])
    qpos = batch._simulator.part(goal, "qpos").copy()
    batch._take_over_goals([batch._simulator.with_part(goal, qpos=qpos + np.array([4.0, 0.0]))])  # nearer by -2.28 rad
    policy = ReacherNoiselessExpert()
    policy.reset(batch, [1], 60)
    assert np.sign(policy.act(batch)[0, 0]) == (-1 if is_wrapped else 1)
    for _ in range(60):
        batch.step(policy.act(batch))
    assert batch.is_solved().all()
    assert batch.get_states() != [state]


def coloured(num_envs, num_env_steps, low=(-1.0, -4.0), high=(1.0, 0.0), **options):
    """Actions [N, E, a] of coloured noise for a world with these bounds."""
    world = SimpleNamespace(num_envs=num_envs, action_spec=ActionSpec(kind="continuous", low=low, high=high))
    policy = OUPolicy(**options)
    policy.reset(world, range(num_envs), num_env_steps)
    return np.stack([policy.act(world) for _ in range(num_env_steps)])


def test_coloured_noise_has_the_std_and_the_correlation_time_that_it_says():
    actions = coloured(400, 50, std=0.1)
    # 20,000 numbers of correlation 6 env steps: about 3,000 independent ones, so a std is known to 2 %.
    np.testing.assert_allclose(actions.std((0, 1)), [0.1, 0.2], rtol=0.05)
    np.testing.assert_allclose(actions[0].std(0), [0.1, 0.2], rtol=0.15)
    np.testing.assert_allclose(actions.mean((0, 1)), [0, -2], atol=0.02)
    first, later = actions[:-6, :, 0], actions[6:, :, 0]
    np.testing.assert_allclose((first * later).mean() / (first * first).mean(), 0.85**6, atol=0.05)


def test_coloured_noise_stays_within_bounds_that_float32_does_not_know():
    actions = coloured(5, 100, low=(-0.1, -1.1), high=(0.1, 1.1), std=3.0)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions.max((0, 1)), np.array([0.1, 1.1], np.float32))
    np.testing.assert_array_equal(actions.min((0, 1)), -np.array([0.1, 1.1], np.float32))


def test_coloured_noise_refuses_discrete_worlds_and_bad_options():
    world = SimpleNamespace(num_envs=1, action_spec=ActionSpec(kind="discrete", num_choices=3))
    with pytest.raises(EnvError, match="needs continuous actions and this world's are of kind 'discrete'"):
        OUPolicy().reset(world, [1], 5)
    for options, message in (({"theta": 0.0}, r"theta must be in \(0, 1\]"), ({"std": float("nan")}, r"std must be in \(0, 10\]")):
        with pytest.raises(EnvError, match=message):
            OUPolicy(**options)
    with pytest.raises(EnvError, match="call reset first"):
        OUPolicy().act(world)
