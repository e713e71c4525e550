"""Damage to frames: what it leaves alone, what it follows from, and that it grows."""

import itertools

import numpy as np
import pytest

from lewm.envs.base import make_batch
from lewm.errors import ConfigError
from lewm.evaluation.corrupted_policy import CorruptedPolicy
from lewm.evaluation.corruptions import CORRUPTIONS, GOAL_FRAME, corrupt
from lewm.schema import Observation

KEPT = ("brightness", "occlusion", "crop")
"""What follows from the seed alone, whatever the frame."""
GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def frames():
    """Two views of different sides, uint8 [2, 48, 64, 3]: a gradient with edges on it."""
    rows, columns = np.mgrid[:48, :64]
    picture = np.stack([4 * columns % 256, 5 * rows % 256, 2 * (rows + columns)], axis=-1).astype(np.uint8)
    picture[10:20, 15:30] = (255, 0, 0)
    return np.stack([picture, picture[::-1]])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_zero_changes_nothing(name, frames):
    np.testing.assert_array_equal(corrupt(name, frames, 0, seed=3, frame_index=5), frames)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_is_bytes_of_the_same_shape_and_leaves_its_input_as_it_was(name, frames):
    before = frames.copy()
    damaged = corrupt(name, frames, 0.7, seed=3, frame_index=5)
    assert (damaged.dtype, damaged.shape) == (np.uint8, frames.shape)
    np.testing.assert_array_equal(frames, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_follows_from_seed_and_frame_index(name, frames):
    first, second = (corrupt(name, frames, 0.7, seed=2**62 + 1, frame_index=GOAL_FRAME) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_mean_damage_grows_with_severity(name, seed, frames):
    damage = [float(np.abs(corrupt(name, frames, severity, seed=seed, frame_index=0).astype(float) - frames).mean()) for severity in GRID]
    assert all(later > earlier for earlier, later in itertools.pairwise(damage)), damage


@pytest.mark.parametrize("name", ["noise", "brightness", "occlusion"])
def test_no_value_is_damaged_less_at_a_higher_severity(name, frames):
    damage = [np.abs(corrupt(name, frames, severity, seed=1, frame_index=0).astype(int) - frames) for severity in GRID]
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(damage))


def test_noise_is_new_in_every_frame_and_view_and_other_damage_stays(frames):
    views = np.stack([frames[0], frames[0]])
    noisy = [corrupt("noise", views, 1, seed=1, frame_index=index) for index in (0, 1)]
    distinct = {view.tobytes() for frame in noisy for view in frame}
    assert len(distinct) == 4
    for name in KEPT:
        first, later = (corrupt(name, views, 1, seed=1, frame_index=index) for index in (0, 1))
        np.testing.assert_array_equal(first, later)


@pytest.mark.parametrize("name", ["noise", *KEPT])
def test_seeds_differ(name, frames):
    assert len({corrupt(name, frames, 1, seed=seed, frame_index=0).tobytes() for seed in range(8)}) > 1


def test_noise_has_the_std_that_it_says():
    grey = np.full((1, 256, 256, 3), 128, np.uint8)
    noise = corrupt("noise", grey, 0.5, seed=0, frame_index=0).astype(float) - 128
    assert noise.std() == pytest.approx(25.5, rel=0.01)


def test_an_occlusion_covers_a_quarter_of_the_frame_at_severity_one():
    black = np.zeros((1, 64, 64, 3), np.uint8)
    covered = (corrupt("occlusion", black, 1, seed=5, frame_index=0) == 127).all(-1)
    assert covered.mean() == pytest.approx(0.25, abs=0.02)


def test_a_crop_shows_half_of_each_side():
    columns = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None], (1, 64, 64, 3))
    cropped = corrupt("crop", np.ascontiguousarray(columns), 1, seed=2, frame_index=0)
    assert int(cropped.max()) - int(cropped.min()) == pytest.approx(31, abs=1)


def test_an_unknown_corruption_is_refused_with_a_suggestion(frames):
    with pytest.raises(ConfigError, match=r"unknown corruption 'blurr'\. Did you mean 'blur'"):
        corrupt("blurr", frames, 1, seed=0, frame_index=0)


@pytest.mark.parametrize("severity", [-0.1, 1.1, float("nan")])
def test_a_severity_outside_its_range_is_refused(severity, frames):
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\]"):
        corrupt("blur", frames, severity, seed=0, frame_index=0)


class Watcher:
    """Remembers what it was shown; its state is how often it acted, per episode."""

    def __init__(self):
        self.goals, self.shown = None, []

    def reset(self, goals, seeds):
        self.goals = goals.frames
        return np.zeros(len(seeds), int)

    def needs_frame(self, state):
        return bool(state[0] % 2 == 0)

    def act(self, observations, state):
        self.shown.append(None if observations is None else observations.frames)
        return np.zeros((len(state), 2), np.float32), state + 1

    def select(self, state, episodes):
        return state[episodes]


def test_a_policy_sees_each_frame_damaged_as_its_episode_and_env_step_say():
    envs = make_batch("two-room", 3, size_px=16)
    envs.reset([1, 2, 3])
    frames, seeds = envs.observe(), [7, 8, 9]
    watcher = Watcher()
    policy = CorruptedPolicy(watcher, "noise", 0.5, are_goals_corrupted=True)
    state = policy.reset(envs.observe_goals(), seeds)
    expected = [corrupt("noise", goal, 0.5, seed=seed, frame_index=GOAL_FRAME) for goal, seed in zip(envs.observe_goals().frames, seeds, strict=True)]
    np.testing.assert_array_equal(watcher.goals, expected)
    _, state = policy.act(frames, state)
    assert not policy.needs_frame(state)
    _, state = policy.act(None, state)
    state = policy.select(state, np.array([0, 2]))
    policy.act(Observation(frames.frames[[0, 2]]), state)
    expected = [corrupt("noise", frames.frames[row], 0.5, seed=seeds[row], frame_index=2) for row in (0, 2)]
    np.testing.assert_array_equal(watcher.shown[2], expected)


def test_clean_goals_are_shown_as_they_are():
    envs = make_batch("two-room", 2, size_px=16)
    envs.reset([1, 2])
    watcher = Watcher()
    CorruptedPolicy(watcher, "blur", 1, are_goals_corrupted=False).reset(envs.observe_goals(), [1, 2])
    np.testing.assert_array_equal(watcher.goals, envs.observe_goals().frames)
