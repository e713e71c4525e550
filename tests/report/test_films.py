import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lewm.checkpoint import load_checkpoint
from lewm.config import PlannerConfig
from lewm.planning.mpc import MPCPolicy
from lewm.report.evidence import Evidence
from lewm.report.films import FAILED_COLOR, GOAL_COLOR, NUM_HELD_FRAMES, draw_moment, episode_film, gif_bytes, grid_film
from lewm.report.latents import LabelledLatents, sample_latents
from lewm.report.replays import Replay, replay_episodes


@pytest.fixture(scope="module")
def replays(evidence: Evidence) -> list[Replay]:
    """Every episode of the first result, with what the model imagined."""
    checkpoint = load_checkpoint(evidence.run)
    latents = sample_latents(checkpoint, num_episodes=4)
    result = evidence.results["success"][0]
    policy = MPCPolicy(checkpoint.model, checkpoint.config.planner)
    return replay_episodes(result, [episode["pair"] for episode in result["episodes"]], policy, latents.probe())


def test_a_film_shows_exactly_the_episode_that_was_counted(evidence: Evidence, replays: list[Replay]) -> None:
    for replay, episode in zip(replays, evidence.results["success"][0]["episodes"], strict=True):
        assert len(replay.frames) == episode["num_env_steps"] + 1
        assert replay.positions is not None
        distances = np.linalg.norm(replay.positions - replay.goal_position, axis=-1)
        is_near = distances < replay.goal_radius
        assert not is_near[:-1].any()
        assert bool(is_near[-1]) == episode["solved"]


def test_a_dot_is_where_its_marker_says(replays: list[Replay]) -> None:
    replay = replays[0]
    assert replay.positions is not None
    side = replay.frames.shape[1]
    for frame, (x, y) in zip(replay.frames, replay.positions, strict=True):
        redness = frame[..., 0].astype(int) - frame[..., 1]
        row, column = np.unravel_index(redness.argmax(), redness.shape)
        assert abs(column + 0.5 - x * side) <= 1
        assert abs(row + 0.5 - y * side) <= 1


def test_imagined_places_change_only_when_the_policy_plans(evidence: Evidence, replays: list[Replay]) -> None:
    planner = PlannerConfig(**evidence.settings["planner"])
    longest = max(replays, key=lambda replay: len(replay.frames))
    places = [moment for moment in longest.imagined if moment is not None]
    assert len(places) == len(longest.frames)
    assert all(moment.shape == (planner.horizon_model_steps, 2) for moment in places)
    period = planner.replan_every_model_steps * evidence.settings["data"]["action_block"]
    changes = [step for step in range(1, len(places)) if not np.array_equal(places[step], places[step - 1])]
    assert changes == list(range(period, len(places), period))


def test_without_a_model_an_episode_is_replayed_without_imagination(evidence: Evidence, replays: list[Replay]) -> None:
    result = evidence.results["success"][0]
    (plain,) = replay_episodes(result, [replays[0].pair])
    assert np.array_equal(plain.frames, replays[0].frames)
    assert plain.imagined == [None] * len(plain.frames)


def test_the_border_of_the_last_frame_says_how_an_episode_ended(replays: list[Replay]) -> None:
    last = len(replays[0].frames) - 1
    for first_hit, color in ((last, GOAL_COLOR), (None, FAILED_COLOR)):
        shown = replace(replays[0], first_hit=first_hit)
        assert draw_moment(shown, last, 128).getpixel((0, 0)) == color
        assert draw_moment(shown, 0, 128).getpixel((0, 0)) != color


def test_a_world_without_places_is_shown_without_markers(replays: list[Replay]) -> None:
    bare = replace(replays[0], positions=None, goal_position=None, goal_radius=None)
    enlarged = Image.fromarray(bare.frames[0]).resize((128, 128), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(draw_moment(bare, 0, 128)), np.asarray(enlarged))


def test_a_gif_loops_and_holds_its_end(replays: list[Replay]) -> None:
    with Image.open(io.BytesIO(gif_bytes(episode_film(replays[0], side_px=64)))) as film:
        duration = 0
        for index in range(film.n_frames):
            film.seek(index)
            duration += film.info["duration"]
        assert film.info["loop"] == 0
        assert film.size == (2 * 64 + 8, 64)
    assert duration == 110 * (len(replays[0].frames) + NUM_HELD_FRAMES)  # equal frames may be merged


def test_a_grid_runs_until_its_longest_episode_is_over(replays: list[Replay]) -> None:
    images = grid_film(replays, num_columns=3, side_px=32, gutter=4)
    assert len(images) == max(len(replay.frames) for replay in replays) + NUM_HELD_FRAMES
    assert images[0].size == (3 * 32 + 4 * 4, 2 * 32 + 3 * 4)


def test_principal_components_find_the_widest_directions() -> None:
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.standard_normal((8, 8)))[0]
    hidden = generator.standard_normal((4000, 8)) * np.array([5, 3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    latents = LabelledLatents(latents=(hidden @ basis.T).astype(np.float32), labels=hidden[:, :1].astype(np.float32), label_names=("width",))
    points, shares = latents.principal_components()
    assert points.std(0) == pytest.approx([5, 3], rel=0.05)
    assert shares == pytest.approx([25 / 34, 9 / 34], abs=0.02)
    assert abs(np.corrcoef(points[:, 0], latents.column("width"))[0, 1]) > 0.99


def test_latents_at_one_point_have_components_too() -> None:
    latents = LabelledLatents(latents=np.ones((10, 4), np.float32), labels=np.zeros((10, 1), np.float32), label_names=("x",))
    points, shares = latents.principal_components()
    assert np.abs(points).max() == 0
    assert shares.tolist() == [0, 0]


def test_the_same_frames_are_sampled_every_time(evidence: Evidence) -> None:
    checkpoint = load_checkpoint(evidence.run)
    first, second = (sample_latents(checkpoint, num_episodes=2) for _ in range(2))
    assert np.array_equal(first.latents, second.latents)
    assert np.array_equal(first.labels, second.labels)
    assert first.labels[:, :2].std() > 5  # the agent moves
