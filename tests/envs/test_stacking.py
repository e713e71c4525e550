"""Stacked frames in single environments."""

import numpy as np
import pytest

from lewm.envs.base import make_env
from lewm.errors import ConfigError, EnvError


def make(**options):
    return make_env("two-room", size_px=16, **options)


def test_a_stack_shows_the_frames_of_earlier_env_steps_oldest_first():
    plain, stacked = make(), make(stack_offsets_env_steps=(-3, -1, 0))
    frames = [plain.reset(seed=1)[0]["frames"][0]]
    first = stacked.reset(seed=1)[0]["frames"]
    np.testing.assert_array_equal(first, np.stack(frames * 3))
    for step in range(1, 6):
        action = np.array([1.0, 0.5], np.float32)
        frames.append(plain.step(action)[0]["frames"][0])
        seen = stacked.step(action)[0]["frames"]
        np.testing.assert_array_equal(seen, np.stack([frames[max(0, step - 3)], frames[step - 1], frames[step]]))
    assert stacked.observation_space["frames"].shape == seen.shape


def test_a_stacked_state_continues_with_the_same_past():
    env, other = make(stack_offsets_env_steps=(-2, 0)), make(stack_offsets_env_steps=(-2, 0))
    env.reset(seed=2)
    action = np.array([-1.0, 0.0], np.float32)
    for _ in range(3):
        env.step(action)
    other.set_state(env.get_state())
    for _ in range(3):
        np.testing.assert_array_equal(env.step(action)[0]["frames"], other.step(action)[0]["frames"])
        assert env.get_state() == other.get_state()


def test_goals_may_come_from_stacked_and_from_single_states_and_look_at_rest():
    plain, stacked = make(), make(stack_offsets_env_steps=(-1, 0))
    plain.reset(seed=3)
    stacked.reset(seed=4)
    for state in (plain.get_state(), stacked.get_state()):
        stacked.set_goal(state)
        assert stacked.goal_frame().shape == (2, 16, 16, 3)
        np.testing.assert_array_equal(*stacked.goal_frame())
    assert stacked.is_solved()


def test_wrong_offsets_and_states_without_a_past_are_refused():
    with pytest.raises(ConfigError, match="must increase and end in 0"):
        make(stack_offsets_env_steps=(0, -1))
    plain, stacked, longer = make(), make(stack_offsets_env_steps=(-1, 0)), make(stack_offsets_env_steps=(-2, 0))
    for env in (plain, stacked, longer):
        env.reset(seed=5)
    with pytest.raises(EnvError, match="no stacked frames"):
        stacked.set_state(plain.get_state())
    with pytest.raises(EnvError, match="other sizes or offsets"):
        stacked.set_state(longer.get_state())
    with pytest.raises(EnvError, match="not a state of 'two-room'"):
        plain.set_state(stacked.get_state())


def test_a_state_that_is_refused_leaves_the_kept_frames_alone():
    env, other = make(stack_offsets_env_steps=(-1, 0)), make(stack_offsets_env_steps=(-1, 0))
    for seed, each in enumerate((env, other)):
        each.reset(seed=seed)
    before, foreign = env.get_state(), other.get_state()
    with pytest.raises(EnvError, match="not a state of 'two-room'"):
        env.set_state(foreign.replace(b"two-room", b"two-roam", 1))
    assert env.get_state() == before
