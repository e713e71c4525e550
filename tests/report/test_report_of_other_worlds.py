"""The same commands and the same page for a world with discrete actions, wide frames, two cameras, proprioception and episodes that end."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lewm.checkpoint import load_checkpoint
from lewm.cli import main
from lewm.errors import ConfigError
from lewm.evaluation.workflow import evaluate
from lewm.report.evidence import read_evidence
from lewm.report.films import NUM_HELD_FRAMES, draw_moment, episode_film, grid_film
from lewm.report.latents import sample_latents
from lewm.report.replays import Replay, replay_episodes
from lewm.report.sections import header
from toy_world import ToyWalkBatch

SETTINGS = """
[data]
action_block = 2
[encoder]
name = "conv"
channels = [4]
kernel_sizes = [4]
strides = [4]
[model]
latent_dimension = 8
projector_width = 16
action_embedding_width = 8
[predictor]
width = 16
num_layers = 1
num_heads = 2
head_width = 8
mlp_width = 16
[objective]
num_directions = 16
[train]
num_steps = 4
batch_size = 4
monitor_every_steps = 2
[planner]
horizon_model_steps = 2
replan_every_model_steps = 2
num_candidates = 4
num_elites = 2
num_iterations = 1
"""
WORLD = ("--env-option", "size_px=16")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the toy world, evaluated with every option of the pairs and reported."""
    root = tmp_path_factory.mktemp("toy")
    (root / "settings.toml").write_text(SETTINGS)
    run, data = root / "run", str(root / "data")
    collect = ["collect", "toy-walk", "--out", data, "--policy", "random", "--episodes", "24", "--max-env-steps", "60", *WORLD]
    assert main(collect) == 0
    assert main(["train", "--data", data, "--out", str(run), "--config", str(root / "settings.toml")]) == 0
    pairs = ["--distances", "10", "--episodes", "4", "--strata", "near,far", "--data-policy", "block-random", "--rest-start"]
    result = str(run / "results" / "success.json")
    assert main(["eval", "success", *pairs, str(run), "--env-option", "action_repeat=2", "--json", result]) == 0
    assert main(["verify", result]) == 0
    assert main(["report", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def replays(run: Path) -> list[Replay]:
    (result,) = read_evidence(run).results["success"]
    return replay_episodes(result, [episode["pair"] for episode in result["episodes"]])


def test_the_options_of_the_pairs_reach_the_result(run: Path) -> None:
    result = json.loads((run / "results" / "success.json").read_text())
    manifest = result["manifest"]
    assert manifest["env_options"] == {"size_px": 16, "action_repeat": 2}
    assert (manifest["data_policy"], manifest["is_rest_start"], manifest["action_repeat"]) == ("block-random", True, 2)
    assert manifest["strata"] == ["near", "far"]
    assert result["planner"]["trained_action_repeat"] == 1
    assert result["by_distance"]["10"]["stratum"] == "near"


def test_a_world_with_other_actions_than_the_runs_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"trained on ActionSpec\(kind='discrete'.*env 'toy-walk' has ActionSpec\(kind='continuous'"):
        evaluate(run, env_options={"kind": "continuous"})
    with pytest.raises(ConfigError, match="env 'two-room' has ActionSpec"):
        evaluate(run, env="two-room")


def test_a_switch_before_the_run_does_not_hide_the_runs_planner_settings(run: Path) -> None:
    result = json.loads((run / "results" / "success.json").read_text())
    assert result["planner"]["num_candidates"] == 4


def test_the_page_shows_numbers_films_and_latents(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert "of near goals" in text
    assert "rest start, action repeat 2, pairs of policy block-random" in text
    assert "Left: what happens. Right: the goal." in text
    assert "Green circle" not in text
    assert "coloured by place" in text
    assert 'class="hint"' in text  # nothing else was measured
    assert "arena" not in text


def test_settings_from_a_result_file_are_shown_as_text(run: Path) -> None:
    evidence = read_evidence(run)
    evidence.results["success"][0]["manifest"]["data_policy"] = "<script>"
    assert "pairs of policy &lt;script&gt;." in header(evidence)


def test_a_film_keeps_the_shape_of_the_frames(run: Path, replays: list[Replay]) -> None:
    tall = replace(replays[0], frames=np.zeros((3, 210, 160, 3), np.uint8), goal_frame=np.zeros((210, 160, 3), np.uint8))
    assert draw_moment(tall, 0, 210).size == (160, 210)
    assert episode_film(tall, side_px=105)[0].size == (2 * 80 + 8, 105)
    assert draw_moment(replays[0], 0, 170).size == (170, 160)
    with Image.open(io.BytesIO((run / "rollout.gif").read_bytes())) as film:
        width, height = film.size
    (first, *_) = grid_film(replays[:4])
    assert (width, height) == first.size


def test_a_grid_without_markers_shows_each_goal_beside_its_episode(replays: list[Replay]) -> None:
    side, gutter = 34, 4
    images = grid_film(replays[:2], num_columns=2, side_px=side, gutter=gutter)
    assert len(images) == max(len(replay.frames) for replay in replays[:2]) + NUM_HELD_FRAMES
    for column, replay in enumerate(replays[:2]):
        x = gutter + column * (2 * side // 2 + gutter // 2 + gutter)
        seen, goal = images[0].getpixel((x + 8, gutter + 8)), images[0].getpixel((x + side // 2 + gutter // 2 + 8, gutter + 8))
        assert seen == tuple(replay.frames[0, 0, 0])
        assert goal == tuple(replay.goal_frame[0, 0])
        assert seen != goal


def test_a_film_follows_the_first_camera_until_the_episode_is_over(run: Path, replays: list[Replay]) -> None:
    (result,) = read_evidence(run).results["success"]
    for replay, episode in zip(replays, result["episodes"], strict=True):
        assert replay.positions is None
        assert len(replay.frames) == episode["num_env_steps"] + 1
        assert replay.frames.shape[1:] == (16, 17, 3)
        places = replay.frames[:, 0, 0, 0]
        assert (places[:-1] != replay.goal_frame[0, 0, 0]).all()
        assert (places[-1] == replay.goal_frame[0, 0, 0]) == episode["solved"]
        assert (replay.frames[..., 2] == replay.frames[0, 0, 0, 2]).all()


def test_latents_are_sampled_from_running_episodes_only(run: Path) -> None:
    before = ToyWalkBatch.num_open
    latents = sample_latents(load_checkpoint(run), num_episodes=64)
    assert (latents.column("place") < 15).all()
    assert 64 < len(latents.latents) < 64 * 25, "without ended episodes this test would say nothing"
    assert ToyWalkBatch.num_open == before
