"""Nuisances over frames: what they change, what they leave, and that they can be told from their labels."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lewm.data.collect import collect
from lewm.data.convert import convert
from lewm.data.episodes import EpisodeStore
from lewm.envs.base import GoalEnvBatch, make_batch
from lewm.envs.stress import STRESSES, make_stress
from lewm.errors import ConfigError, UnknownNameError

SIDE = 64
PAINTED = ("corner-tag", "distractor", "video", "pixel-noise")


def batches(kind: str, seeds: list[int]) -> tuple[GoalEnvBatch, GoalEnvBatch]:
    """The world with and without the nuisance, after the same three env steps."""
    pair = (make_batch(f"stress/{kind}/two-room", len(seeds)), make_batch("two-room", len(seeds)))
    actions = np.random.default_rng(0).uniform(-1, 1, (3, len(seeds), 2)).astype(np.float32)
    for batch in pair:
        batch.reset(seeds)
        for action in actions:
            batch.step(action)
    return pair


def test_the_world_below_a_nuisance_moves_as_without_it():
    for kind in PAINTED:
        stressed, plain = batches(kind, [1, 2])
        np.testing.assert_array_equal(stressed.labels()[:, :3], plain.labels())
        assert stressed.label_names[:3] == plain.label_names
        assert (stressed.observe().frames != plain.observe().frames).any()


def test_a_tag_keeps_its_colour_within_an_episode_and_covers_its_corner_only():
    stressed, plain = batches("corner-tag", [1, 2])
    frames, clean = stressed.observe().frames, plain.observe().frames
    is_changed = (frames != clean).any(axis=(0, 1, 4))
    assert is_changed[:5, :5].all()
    assert not is_changed[5:].any()
    assert not is_changed[:, 5:].any()
    colours = np.round(255 * stressed.labels()[:, 3:]).astype(np.uint8)
    np.testing.assert_array_equal(frames[:, 0, 2, 2], colours)
    assert (colours[0] != colours[1]).any()
    stressed.step(np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(stressed.observe().frames[:, 0, 2, 2], colours)


def test_a_distractor_is_where_its_labels_say_and_goes_round_at_an_even_pace():
    stressed, _ = batches("distractor", [3])
    places = []
    for _ in range(4):
        places.append(stressed.labels()[0, 3:])
        x, y = (SIDE * places[-1]).astype(int)
        np.testing.assert_array_equal(stressed.observe().frames[0, 0, y, x], (255, 0, 255))
        stressed.step(np.zeros((1, 2), np.float32))
    angles = np.unwrap(np.arctan2(*(np.array(places) - 0.5).T[::-1]))
    np.testing.assert_allclose(np.diff(angles, 2), 0, atol=1e-5)
    assert np.abs(np.diff(angles)).min() > 0.02


def test_a_background_is_half_of_every_pixel_and_its_phases_advance_evenly():
    stressed, plain = batches("video", [3])
    difference = stressed.observe().frames.astype(float) - plain.observe().frames / 2
    assert (difference >= -0.5).all()
    assert (difference <= 128).all()
    assert difference.std() > 10
    phases = []
    for _ in range(4):
        waves = stressed.labels()[0, 3:].reshape(3, 2)
        np.testing.assert_allclose(np.square(waves).sum(1), 1, atol=1e-5)
        phases.append(np.arctan2(waves[:, 1], waves[:, 0]))
        stressed.step(np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(np.diff(np.unwrap(phases, axis=0), 2, axis=0), 0, atol=1e-5)


def test_noise_is_new_at_every_env_step_and_has_its_std():
    grey, again, other = (np.full((1, SIDE, SIDE, 3), 128, np.uint8) for _ in range(3))
    noise = make_stress("pixel-noise")
    noise.draw(grey, 7, 3)
    noise.draw(again, 7, 3)
    noise.draw(other, 7, 4)
    np.testing.assert_array_equal(grey, again)
    assert np.corrcoef(grey.ravel(), other.ravel())[0, 1] < 0.05
    assert grey.std() == pytest.approx(25.5, rel=0.02)


def test_only_the_first_number_of_an_action_reaches_a_low_dimensional_world():
    with closing(make_batch("stress/low-dimension/two-room", 2)) as batch:
        batch.reset([5, 5])
        for _ in range(3):
            batch.step(np.array([[0.3, 1.0], [0.3, -1.0]], np.float32))
        labels = batch.labels()
    np.testing.assert_array_equal(labels[0], labels[1])


def test_a_goal_looks_as_it_did_where_it_was_taken():
    stressed, _ = batches("distractor", [3])
    state, frames = stressed.get_states(), stressed.observe().frames
    for _ in range(5):
        stressed.step(np.zeros((1, 2), np.float32))
    stressed.set_goals(state)
    np.testing.assert_array_equal(stressed.observe_goals().frames, frames)


@pytest.mark.parametrize("kind", PAINTED)
def test_a_dataset_that_is_given_a_nuisance_is_the_one_that_would_have_been_collected(kind: str, tmp_path: Path):
    settings = {"episodes": 3, "max_env_steps": 8, "policy": "random"}
    collect("two-room", tmp_path / "plain", **settings)
    convert(tmp_path / "plain", tmp_path / "converted", stress=kind)
    collected = collect(f"stress/{kind}/two-room", tmp_path / "collected", **settings)
    converted = EpisodeStore(tmp_path / "converted")
    assert converted.env == collected.env
    assert converted.label_names == collected.label_names
    for number in range(3):
        one, other = converted.episode(number), collected.episode(number)
        np.testing.assert_array_equal(one.observations.frames, other.observations.frames)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.actions, other.actions)


def test_what_is_no_nuisance_or_none_of_frames_is_refused(tmp_path: Path):
    with pytest.raises(UnknownNameError, match=r"unknown env 'stress/tag/two-room'.*Did you mean 'stress/"):
        make_batch("stress/tag/two-room", 1)
    with pytest.raises(UnknownNameError, match="unknown env 'stress/video/two-rom'"):
        make_batch("stress/video/two-rom", 1)
    with pytest.raises(UnknownNameError, match="unknown stress 'vidoe'"):
        make_stress("vidoe")
    collect("two-room", tmp_path / "plain", episodes=1, max_env_steps=4)
    with pytest.raises(ConfigError, match="low-dimension changes what actions do"):
        convert(tmp_path / "plain", tmp_path / "out", stress="low-dimension")
    assert set(PAINTED) | {"low-dimension"} == set(STRESSES)
