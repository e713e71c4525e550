"""Where a recording is surprising: every step of it, on its own clock, on data of a world and on plain videos."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

from lewm.checkpoint import save_checkpoint
from lewm.cli import main
from lewm.config import Config
from lewm.config_files import from_dict, load_preset
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.store import open_store
from lewm.data.formats.video_encoding import VideoWriter
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.evaluation.surprise import evaluate_surprise
from lewm.evaluation.surprise_signals import measure
from lewm.evaluation.surprise_timeline import evaluate_episode
from lewm.models.world_model import WorldModel
from lewm.schema import Clip, Observation

SIDE_PX = 16


@pytest.fixture(scope="module")
def config() -> Config:
    settings = {"data": {"validation_fraction": 0.4, "action_block": 2}, "encoder": {"channels": [4, 8], "kernel_sizes": [4, 4], "strides": [2, 2]}}
    return from_dict(settings, load_preset("laptop"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return collect("two-room", tmp_path_factory.mktemp("timeline") / "data", episodes=8, max_env_steps=31, env_options={"size_px": SIDE_PX})


@pytest.fixture(scope="module")
def model(store: EpisodeStore, config: Config) -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(config, store.observation_spec, store.action_spec).eval()


def film(num_frames: int, seed: int) -> np.ndarray:
    """A bright square that goes steadily to the right, uint8 [n, Y, X, 3]."""
    frames = np.full((num_frames, 32, 32, 3), 40, np.uint8)
    for number in range(num_frames):
        left = (number + 5 * seed) % 24
        frames[number, 8:16, left : left + 8] = (220, 200, 60)
    return frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 45 frames, without anything beside them."""
    folder = tmp_path_factory.mktemp("videos") / "films"
    folder.mkdir()
    for seed in range(6):
        writer = VideoWriter(folder / f"film-{seed}.mp4", height_px=32, width_px=32, fps=10)
        writer.append(film(45, seed))
        writer.close()
    return folder


def asked(model: WorldModel, store: Any, config: Config, episode: int, **options: Any) -> dict[str, Any]:
    return evaluate_episode(model, store, config=config, episode=episode, num_clips=16, seed=0, **options)


def test_the_surprise_of_a_recording_is_that_of_its_steps_in_one_long_clip(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    result = asked(model, store, config, 3)
    episode = store.episode(3)
    assert episode.actions is not None
    blocks = store.action_spec.as_blocks(episode.actions[None, :30], 2)
    number = np.zeros(1, np.int64)
    signals = measure(model, Clip(Observation(episode.observations.frames[None, :31:2]), blocks, None, None, number, number))
    about = result["calibration"]
    np.testing.assert_allclose(result["steps"]["surprise"], (signals.prediction[0] - about["mean"]) / about["std"], atol=2e-3)
    assert result["steps"]["end_env_step"] == list(range(2, 31, 2))
    assert result["num_env_steps"] == 31


def test_a_recording_read_in_parts_gives_the_same_surprise(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    whole, parts = asked(model, store, config, 3), asked(model, store, config, 3, batch_size=4)
    for name in ("surprise", "persistence", "frame_difference"):
        np.testing.assert_allclose(whole["steps"][name], parts["steps"][name], atol=2e-3)


@pytest.mark.parametrize("signal", ["persistence", "frame_difference"])
def test_a_frame_from_elsewhere_shows_in_the_steps_to_it_and_away_from_it(
    store: EpisodeStore, model: WorldModel, config: Config, tmp_path: Path, signal: str
) -> None:
    with EpisodeWriter(tmp_path / "data", store.meta) as writer:
        for number in range(len(store)):
            episode = store.episode(number)
            frames = episode.observations.frames.copy()
            if number == 1:
                frames[20] = 255 - frames[20]
            writer.append(replace(episode, observations=Observation(frames)))
    steps = asked(model, EpisodeStore(tmp_path / "data"), config, 1)["steps"]
    largest = np.argsort(steps[signal])[-2:]
    assert set(np.array(steps["end_env_step"])[largest].tolist()) == {20, 22}


@pytest.mark.parametrize(("num_episodes", "fraction", "source"), [(8, 0.4, "the held-out episodes"), (3, 0.0, "the other episodes")])
def test_the_result_says_which_episodes_are_normal(
    store: EpisodeStore, model: WorldModel, tmp_path: Path, num_episodes: int, fraction: float, source: str
) -> None:
    config = from_dict({"data": {"validation_fraction": fraction, "action_block": 2}}, load_preset("laptop"))
    with EpisodeWriter(tmp_path / "data", store.meta) as writer:
        for number in range(num_episodes):
            writer.append(store.episode(number))
    assert asked(model, EpisodeStore(tmp_path / "data"), config, 1)["calibrated_on"] == source


def test_an_only_recording_is_its_own_measure_of_what_is_normal(store: EpisodeStore, model: WorldModel, config: Config, tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "data", store.meta) as writer:
        writer.append(store.episode(0))
    result = asked(model, EpisodeStore(tmp_path / "data"), config, 0)
    assert result["calibrated_on"] == "this episode itself"
    assert np.mean(result["steps"]["surprise"]) == pytest.approx(0, abs=1e-3)


def test_episodes_that_are_not_there_and_violations_in_one_are_refused(store: EpisodeStore, model: WorldModel, config: Config) -> None:
    with pytest.raises(DataError, match="has episodes 0 to 7, got 8"):
        evaluate_surprise(model, store, config=config, episode=8)
    with pytest.raises(ConfigError, match="ask for one of the two"):
        evaluate_surprise(model, store, config=config, episode=1, violations=("freeze",))


@pytest.fixture(scope="module")
def film_run(videos: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = open_store(videos)
    torch.manual_seed(0)
    model = WorldModel(config, store.observation_spec, store.action_spec)
    return save_checkpoint(tmp_path_factory.mktemp("film") / "step-00000001", model, config, step=1, env={}, provenance={})


def test_videos_without_actions_or_labels_are_asked_about_what_can_be_made_of_them(
    film_run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "surprise", str(film_run), "--data", str(videos), "--num-clips", "16"]
    assert main([*words, "--json", str(tmp_path / "s.json"), "--figure", str(tmp_path / "s.png")]) == 0
    written = json.loads((tmp_path / "s.json").read_text())
    assert set(written["violations"]) == {"teleport", "freeze", "reverse", "colour-change", "appearance"}
    assert "not made: action-flip: the model takes no actions" in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / "s.png").std() > 0.05


def test_the_command_shows_where_one_video_is_surprising(film_run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "surprise", str(film_run), "--data", str(videos), "--episode", "2", "--num-clips", "16"]
    assert main([*words, "--json", str(tmp_path / "e.json"), "--figure", str(tmp_path / "e.png")]) == 0
    written = json.loads((tmp_path / "e.json").read_text())
    assert len(written["steps"]["surprise"]) == 22
    shown = capsys.readouterr().out
    first = written["most_surprising_env_steps"][0]
    assert f"env steps {first - 2} to {first}: surprise {max(written['steps']['surprise']):+.2f}" in shown
    assert matplotlib.image.imread(tmp_path / "e.png").std() > 0.05


def test_a_figure_that_is_no_picture_is_refused_before_any_work(film_run: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "surprise", str(film_run), "--data", str(videos), "--figure", "s.gif"]) == 1
    assert "a figure is a file that ends in .png, .svg, .pdf, got 's.gif'" in capsys.readouterr().err
