"""Violations change what they say and nothing before it; what tells them apart is counted as it should be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm.config import Config
from lewm.config_files import from_dict, load_preset
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.evaluation.surprise import VIOLATIONS, _compared, evaluate_surprise, surprise_table
from lewm.evaluation.surprise_signals import Calibration, Signals
from lewm.evaluation.violations import (
    CLIP_STEPS,
    FRAME_VIOLATIONS,
    NUM_STEPS,
    VIOLATION_STEP,
    action_flip,
    appearance,
    colour_change,
    freeze,
    reverse,
    shortened,
    teleport,
)
from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, Clip, Episode, Observation, ObservationSpec

B, SIDE = 6, 20


def clip() -> Clip[np.ndarray]:
    """Frame t of clip b is full of 10 b + t, so that every frame says which it is."""
    number = 10 * np.arange(B)[:, None] + np.arange(CLIP_STEPS + 1)
    frames = np.broadcast_to(number[:, :, None, None, None, None], (B, CLIP_STEPS + 1, 1, SIDE, SIDE, 3)).astype(np.uint8)
    blocks = (number[:, :-1, None] + np.array([0.25, 0.5])).astype(np.float32)
    return Clip(Observation(frames), blocks, None, None, np.arange(B), np.zeros(B, np.int64))


def times(changed: Clip[np.ndarray]) -> np.ndarray:
    """Which frame of its clip is shown at each step, in clip 0."""
    return changed.observations.frames[0, :, 0, 0, 0, 0]


GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, (_, sizes) in FRAME_VIOLATIONS.items() for size in sizes])
def test_nothing_changes_before_the_violation_and_something_at_its_step(name: str, size: float) -> None:
    changed, before = FRAME_VIOLATIONS[name][0](clip(), size, np.random.default_rng(0)), shortened(clip())
    assert changed.observations.frames.shape == before.observations.frames.shape == (B, NUM_STEPS + 1, 1, SIDE, SIDE, 3)
    np.testing.assert_array_equal(changed.observations.frames[:, : VIOLATION_STEP + 1], before.observations.frames[:, : VIOLATION_STEP + 1])
    np.testing.assert_array_equal(changed.blocks[:, :VIOLATION_STEP], before.blocks[:, :VIOLATION_STEP])
    if name != "colour-change":  # these frames are grey: see below
        assert (changed.observations.frames[:, VIOLATION_STEP + 1] != before.observations.frames[:, VIOLATION_STEP + 1]).any()


def test_times_are_shown_in_the_order_that_each_violation_says() -> None:
    assert times(teleport(clip(), 4, GENERATOR)).tolist() == [0, 1, 2, 3, 8, 9, 10]
    assert teleport(clip(), 4, GENERATOR).blocks[0, :, 0].tolist() == [0.25, 1.25, 2.25, 3.25, 8.25, 9.25]
    assert times(freeze(clip(), 1, GENERATOR)).tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert times(freeze(clip(), 3, GENERATOR)).tolist() == [0, 1, 2, 3, 3, 3, 3]
    assert times(reverse(clip(), 3, GENERATOR)).tolist() == [0, 1, 2, 3, 2, 1, 0]
    assert reverse(clip(), 3, GENERATOR).blocks[0, :, 0].tolist() == [0.25, 1.25, 2.25, 2.25, 1.25, 0.25]
    assert times(reverse(clip(), 1, GENERATOR)).tolist() == [0, 1, 2, 3, 2, 3, 4]
    assert reverse(clip(), 1, GENERATOR).blocks[0, :, 0].tolist() == [0.25, 1.25, 2.25, 2.25, 2.25, 3.25]


def test_colours_turn_by_their_share_and_a_square_has_its_size() -> None:
    red = clip()
    frames = np.zeros_like(red.observations.frames)
    frames[..., 0] = 200
    red = Clip(Observation(frames), red.blocks, None, None, red.episode, red.start_env_step)
    assert colour_change(red, 0.3, GENERATOR).observations.frames[0, -1, 0, 0, 0].tolist() == [140, 60, 0]
    square = appearance(red, 0.2, GENERATOR).observations.frames[0, -1, 0]
    assert (square != (200, 0, 0)).any(-1).sum() == round(0.2 * SIDE) ** 2


def test_a_flipped_action_goes_its_share_of_the_way_to_its_mirror_image() -> None:
    spec, mean = ActionSpec(kind="continuous", low=(-1.0,), high=(1.0,)), np.array([1.0, 2.0], np.float32)
    before, half, full = shortened(clip()), action_flip(clip(), spec, mean, 0.5), action_flip(clip(), spec, mean, 1.0)
    np.testing.assert_allclose(half.blocks[:, VIOLATION_STEP], np.broadcast_to(mean, (B, 2)))
    np.testing.assert_allclose(full.blocks[:, VIOLATION_STEP] - mean, mean - before.blocks[:, VIOLATION_STEP])
    np.testing.assert_array_equal(np.delete(full.blocks, VIOLATION_STEP, 1), np.delete(before.blocks, VIOLATION_STEP, 1))
    np.testing.assert_array_equal(full.observations.frames, before.observations.frames)
    discrete = Clip(
        before.observations,
        np.tile(np.eye(3, dtype=np.float32)[[0, 2]].reshape(1, 1, 6), (B, CLIP_STEPS, 1)),
        None,
        None,
        before.episode,
        before.episode,
    )
    flipped = action_flip(
        Clip(clip().observations, discrete.blocks, None, None, before.episode, before.episode), ActionSpec(kind="discrete", num_choices=3), mean, 1.0
    )
    np.testing.assert_array_equal(flipped.blocks[0, VIOLATION_STEP].reshape(2, 3), np.eye(3)[[1, 0]])


def test_a_violation_is_compared_with_the_same_step_of_the_same_clips() -> None:
    generator = np.random.default_rng(0)
    normal = Signals(**{name: generator.normal(size=(200, NUM_STEPS)) for name in Signals.__dataclass_fields__})
    prediction, persistence = normal.prediction.copy(), normal.persistence.copy()
    prediction[:, VIOLATION_STEP] += 1.5
    persistence[:, VIOLATION_STEP] += 0.5
    found = _compared(
        normal, Signals(prediction=prediction, persistence=persistence, frame_difference=normal.frame_difference), Calibration.of(normal.prediction)
    )
    assert found["auroc"]["rate"] == pytest.approx(0.856, abs=0.04)  # two unit Gaussians 1.5 apart
    assert found["persistence_auroc"]["rate"] == pytest.approx(0.638, abs=0.05)
    assert found["frame_difference_auroc"]["rate"] == 0.5
    assert found["floor"] == "persistence"
    assert found["over_floor"] == pytest.approx(found["auroc"]["rate"] - found["persistence_auroc"]["rate"])
    assert found["surprise"] == pytest.approx(1.5, abs=0.2)
    assert found["sign_test_p"] < 1e-30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return collect("two-room", tmp_path_factory.mktemp("surprise") / "data", episodes=12, max_env_steps=80, env_options={"size_px": 32})


@pytest.fixture(scope="module")
def config() -> Config:
    return from_dict(
        {"data": {"validation_fraction": 0.4}, "encoder": {"channels": [4, 8], "kernel_sizes": [4, 4], "strides": [2, 2]}}, load_preset("laptop")
    )


@pytest.fixture(scope="module")
def model(store: EpisodeStore, config: Config) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(config, store.observation_spec, store.action_spec)


def test_a_model_is_asked_about_every_violation_and_about_the_wall(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    result = evaluate_surprise(model, store, config=config, num_clips=16)
    assert set(result["violations"]) | set(result["left_out"]) == set(VIOLATIONS)
    assert set(VIOLATIONS) - set(result["violations"]) <= {"wall-matched"}
    assert all(0 <= found["auroc"]["rate"] <= 1 for sizes in result["violations"].values() for found in sizes.values())
    assert result["violations"]["freeze"]["3"]["frame_difference_auroc"]["rate"] < 0.1, "a world that stands still changes less"
    assert result == evaluate_surprise(model, store, config=config, num_clips=16)
    assert "false alarms" in surprise_table(result)
    with pytest.raises(ConfigError, match="num_clips must be at least 8, got 7"):
        evaluate_surprise(model, store, config=config, num_clips=7)


def test_only_the_violations_that_were_asked_for_are_made_and_give_the_same_numbers(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    every, two = (evaluate_surprise(model, store, config=config, num_clips=16, violations=names) for names in (None, ("reverse", "appearance")))
    assert set(two["violations"]) == {"reverse", "appearance"}
    assert two["violations"]["appearance"] == every["violations"]["appearance"]
    assert two["left_out"] == {}


def test_a_timeline_has_every_step_of_the_largest_size_and_of_the_clips_as_they_were(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    timeline = evaluate_surprise(model, store, config=config, num_clips=16, violations=("teleport", "wall"))["timelines"]
    assert (timeline["teleport"]["size"], timeline["wall"]["size"]) == ("8", "64")
    before, after = timeline["teleport"]["normal"], timeline["teleport"]["violated"]
    assert [len(after[name]) for name in ("median", "low", "high", "persistence")] == [NUM_STEPS] * 4
    assert after["median"][:VIOLATION_STEP] == before["median"][:VIOLATION_STEP]
    assert after["median"][VIOLATION_STEP] != before["median"][VIOLATION_STEP]
    assert timeline["wall"]["normal"] != before, "runs through the wall stand beside runs through the door"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("telport",), "unknown violation 'telport'. Did you mean 'teleport'"),
        (("freeze", "wall"), "violation 'wall' cannot be made here: only two-room has such a wall, these data come from no known world"),
        (("action-flip",), "violation 'action-flip' cannot be made here: the model takes no actions"),
        (("colour-change",), "violation 'colour-change' cannot be made here: the frames are grey"),
    ],
)
def test_a_violation_that_cannot_be_made_is_refused_by_name(grey: EpisodeStore, config: Config, names: tuple[str, ...], message: str) -> None:
    film_model = WorldModel(config, grey.observation_spec, grey.action_spec)
    with pytest.raises(ConfigError, match=message):
        evaluate_surprise(film_model, grey, config=config, num_clips=8, violations=names)


def test_runs_through_the_wall_that_cannot_be_matched_are_refused_by_their_number(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    with pytest.raises(ConfigError, match=r"violation 'wall-matched' cannot be made here: of 8 runs through the wall, \d move the latent as far"):
        evaluate_surprise(model, store, config=config, num_clips=8, violations=("wall-matched",))


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """A grey recording without actions, labels or a world; 40 env steps are 8 model steps."""
    meta = DatasetMeta(observation_spec=ObservationSpec(height_px=16, width_px=16), action_spec=ActionSpec(kind="none"))
    path = tmp_path_factory.mktemp("grey") / "data"
    with EpisodeWriter(path, meta) as writer:
        for seed in range(6):
            frames = np.repeat(np.random.default_rng(seed).integers(0, 256, (41, 1, 16, 16, 1), dtype=np.uint8), 3, axis=-1)
            writer.append(Episode(observations=Observation(frames), actions=None, seed=seed))
    return EpisodeStore(path)


def test_episodes_too_short_for_the_largest_teleports_leave_those_out_and_say_so(grey: EpisodeStore, config: Config) -> None:
    result = evaluate_surprise(WorldModel(config, grey.observation_spec, grey.action_spec), grey, config=config, num_clips=16)
    assert set(result["violations"]) == {"teleport", "freeze", "reverse", "appearance"}
    assert set(result["violations"]["teleport"]) == {"1", "2"}
    assert set(result["left_out"]) == {"teleport 4", "teleport 8", "colour-change", "action-flip", "wall", "wall-matched"}
    assert "not made: teleport 8: the longest held-out episode has 8 model steps, this needs 14" in surprise_table(result)


def test_a_model_with_actions_can_be_asked_about_recordings_without(store: EpisodeStore, model: WorldModel, config: Config, tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "data", replace(store.meta, action_spec=ActionSpec(kind="none"), env={})) as writer:
        for number in range(len(store)):
            writer.append(replace(store.episode(number), actions=None))
    result = evaluate_surprise(model, EpisodeStore(tmp_path / "data"), config=config, num_clips=8)
    assert result["left_out"]["action-flip"] == "the recordings have no actions"
    assert np.isfinite(result["calibration"]["mean"])


def test_episodes_that_are_too_short_are_refused(tmp_path: Path, config: Config) -> None:
    short = collect("two-room", tmp_path / "data", episodes=8, max_env_steps=25, env_options={"size_px": 32})
    with pytest.raises(
        DataError, match="the longest has 25 env steps, and 6 model steps are 30; use longer episodes, or look at one with --episode N"
    ):
        evaluate_surprise(WorldModel(config, short.observation_spec, short.action_spec), short, config=config)
