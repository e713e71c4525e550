"""The map of a run: where it is kept, what it is refused for, and what an agent, a plan, a result and a page make of it."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lewm.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lewm.cli import main
from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.store import Store
from lewm.errors import ConfigError, DataError, PlanningError
from lewm.evaluation.agents import agent_of
from lewm.evaluation.landmark_maps import landmark_labels, map_labels, map_of, maps_directory, position_columns, row_places
from lewm.evaluation.landmark_routes import route_between, route_words, row_names
from lewm.evaluation.run_latents import run_latents, training_episodes
from lewm.models.world_model import WorldModel
from lewm.planner_config import PlannerConfig
from lewm.planning.landmark_map import LandmarkMap
from lewm.planning.landmarks import LandmarkPolicy
from lewm.report.landmark_figure import longest_route, places_of

SIZE_PX = 32
TINY = {
    "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
    "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 16},
    "predictor": {"width": 32, "num_layers": 1, "num_heads": 2, "head_width": 16, "mlp_width": 32},
    "planner": {"num_candidates": 8, "num_elites": 2, "num_iterations": 1, "horizon_model_steps": 2, "replan_every_model_steps": 1},
}
FLAGS = ["--planner.name", "landmarks", "--planner.num-landmarks", "60"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "data"
    collect("two-room", path, episodes=12, max_env_steps=40, env_options={"size_px": SIZE_PX})
    return path


@pytest.fixture(scope="module")
def checkpoint(data: Path) -> Checkpoint:
    store, config = EpisodeStore(data), from_dict(TINY)
    torch.manual_seed(0)
    model = WorldModel(config, store.observation_spec, store.action_spec)
    provenance = {"dataset_sha256": store.dataset_sha256, "episode_seeds": []}
    run = data.parent / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.toml").write_text("")
    return load_checkpoint(save_checkpoint(run / "checkpoints" / "step-00000001", model, config, step=1, env=store.env, provenance=provenance))


def settings(**changes) -> PlannerConfig:
    return from_dict(TINY).planner.switched("landmarks", num_landmarks=60, **changes)


def same(first: LandmarkMap, second: LandmarkMap) -> bool:
    return first.sha256 == second.sha256


def test_a_map_is_made_once_of_training_episodes_alone(checkpoint, data):
    first = map_of(checkpoint, settings(), data)
    files = sorted(maps_directory(checkpoint).glob("*.safetensors"))
    before = [file.stat().st_mtime_ns for file in files]
    assert same(first, map_of(checkpoint, settings(landmark_reach_env_steps=7, landmark_patience=3.0), data))
    assert [file.stat().st_mtime_ns for file in files] == before
    episodes = {episode for episode, _step in row_places(EpisodeStore(data), first.rows)}
    assert episodes <= set(training_episodes(checkpoint, EpisodeStore(data)).tolist())


@pytest.fixture(scope="module")
def stacked(data: Path) -> Checkpoint:
    """A run that sees two frames at once."""
    store, config = EpisodeStore(data), from_dict(TINY)
    torch.manual_seed(0)
    model = WorldModel(config, dataclasses.replace(store.observation_spec, stack_offsets_env_steps=(-3, 0)), store.action_spec)
    provenance = {"dataset_sha256": store.dataset_sha256, "episode_seeds": []}
    place = data.parent / "stacked" / "checkpoints" / "step-00000001"
    return load_checkpoint(save_checkpoint(place, model, config, step=1, env=store.env, provenance=provenance))


def test_landmarks_are_also_kept_as_they_look_as_goals_where_frames_are_stacked(stacked, data):
    map_of(stacked, settings(), data)
    found, cache = map_of(stacked, settings(), data), run_latents(stacked, EpisodeStore(data))
    np.testing.assert_array_equal(found.latents, cache.latents[found.rows])
    np.testing.assert_array_equal(found.goals, cache.goals[found.rows])
    assert not torch.equal(found.goals, found.latents)


def test_a_route_to_a_frame_that_is_shown_as_a_goal_ends_at_its_landmark(stacked, data):
    policy = cast(LandmarkPolicy, agent_of(stacked, settings(), data=data))
    landmarks, store = policy.landmarks, EpisodeStore(data)
    goal_of_row = dict(zip(row_names(policy, store, range(len(landmarks.rows))), landmarks.goals, strict=True))
    for goal in landmarks.goals:
        end = route_between(policy, store, landmarks.latents[:1], goal[None])["end_rows"][1]
        assert torch.equal(goal_of_row[end], goal)  # two landmarks may have the same frame


def test_a_map_of_stacks_from_before_it_had_goals_is_not_used(stacked, data):
    map_of(stacked, settings(), data)
    (file,) = maps_directory(stacked).glob("*.safetensors")
    with safe_open(file, framework="np") as content:
        meta = json.loads(content.metadata()["landmarks"])
    arrays = load_file(file)
    del arrays["still"]
    del meta["identity"]["goals"]
    name = hashlib.sha256(json.dumps(meta["identity"], sort_keys=True).encode()).hexdigest()[:32]
    save_file(arrays, file.with_name(f"{name}.safetensors"), metadata={"landmarks": json.dumps(meta)})
    file.unlink()
    assert map_of(stacked, settings(), data).still is not None


def test_landmarks_know_their_labels(checkpoint, data):
    found, store = map_of(checkpoint, settings(), data), EpisodeStore(data)
    episode, step = row_places(store, found.rows)[7]
    np.testing.assert_array_equal(landmark_labels(store, found.rows)[7], store.episode(episode).labels[step])
    labels, names = map_labels(next(iter(maps_directory(checkpoint).glob("*.safetensors"))))
    assert names == store.label_names
    np.testing.assert_array_equal(places_of(found, labels, names)[0], landmark_labels(store, found.rows)[:, :2])


def test_other_settings_make_another_map(checkpoint, data):
    assert not same(map_of(checkpoint, settings(), data), map_of(checkpoint, settings(landmark_seed=1), data))


@pytest.mark.parametrize("content", [b"", b"no map at all", None])
def test_a_damaged_map_is_refused(checkpoint, data, content):
    planner = settings(landmark_seed=3)
    map_of(checkpoint, planner, data)
    file = max(maps_directory(checkpoint).glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if content is None else content)
    with pytest.raises(DataError, match=r"is damaged: .*; delete that file, and it is made again"):
        map_of(checkpoint, planner, data)
    file.unlink()


def test_without_the_training_set_there_is_no_map(checkpoint):
    with pytest.raises(ConfigError, match=r"makes its map of the training data: give --data DIR"):
        agent_of(checkpoint, settings())


def test_another_dataset_is_refused(checkpoint, tmp_path):
    collect("two-room", tmp_path / "other", episodes=3, max_env_steps=20, seed=5, env_options={"size_px": SIZE_PX})
    with pytest.raises(DataError, match=r"the run was trained on .* so give that dataset"):
        agent_of(checkpoint, settings(), data=tmp_path / "other")


def test_a_head_that_the_run_does_not_have_cannot_measure_edges(checkpoint, data):
    with pytest.raises(ConfigError, match=r"has no distance: .*--stage distance"):
        agent_of(checkpoint, settings(landmark_distance="distance"), data=data)
    with pytest.raises(PlanningError, match=r"planner\.landmark_distance is 'far'"):
        agent_of(checkpoint, settings(landmark_distance="far"), data=data)


class Apart:
    """A distance in env steps that is easy to check."""

    def distance(self, latents, goals):
        return 4 * (latents - goals).abs().mean(-1)


def test_a_head_that_measures_distances_can_make_the_edges(checkpoint, data):
    with_head = dataclasses.replace(checkpoint, heads={"apart": SimpleNamespace(network=Apart())})
    found = cast(LandmarkPolicy, agent_of(with_head, settings(landmark_distance="apart"), data=data)).landmarks
    expected = Apart().distance(found.latents[found.starts], found.latents[found.ends]).clamp_min(1)
    np.testing.assert_allclose(found.env_steps, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("x_m", "y_m", "velocity_x_m_s", "velocity_y_m_s"), (0, 1)),
        (("door_y_px", "agent_x_px", "agent_y_px"), (1, 2)),
        (("x", "y"), (0, 1)),
        (("velocity_x_m_s", "velocity_y_m_s"), None),
        (("angle_rad", "x_m"), None),
    ],
)
def test_positions_are_known_by_their_names(names, columns):
    assert position_columns(names) == columns


def test_without_positions_the_map_is_drawn_on_its_main_directions(checkpoint, data):
    found = map_of(checkpoint, settings(), data)
    places, names = places_of(found, np.zeros((len(found.rows), 0)), ())
    assert names[0] == "first principal component"
    variance = (found.latents / found.std).double().numpy().var(0).sum()
    assert places.var(0)[0] >= places.var(0)[1]
    assert places.var(0).sum() <= variance


def test_the_longest_route_is_no_shorter_than_any_other_to_its_end(checkpoint, data):
    found = map_of(checkpoint, settings(), data)
    route, env_steps = longest_route(found)
    ways = found.ways_to(route[-1]).env_steps
    assert env_steps == ways[np.isfinite(ways)].max()
    assert env_steps == ways[route[0]]


def test_a_route_that_is_not_there_is_named(checkpoint, data):
    store: Store = EpisodeStore(data)
    policy = cast(LandmarkPolicy, agent_of(checkpoint, settings(), data=data))
    cut = dataclasses.replace(policy.landmarks, starts=policy.landmarks.starts[:0], ends=policy.landmarks.ends[:0], env_steps=np.zeros(0))
    policy.landmarks = cut
    route = route_between(policy, store, cut.latents[:1], cut.latents[1:2])
    assert route["landmarks"] == []
    assert route_words(route).startswith("no route: no way over the ")
    assert torch.equal(policy.first_aim(cut.latents[:1], cut.latents[1:2]), cut.latents[1:2])


def test_lewm_plan_says_the_route_and_draws_it(checkpoint, data, tmp_path, capsys):
    run, picture, result = checkpoint.path.parent.parent, tmp_path / "map.png", tmp_path / "plan.json"
    words = ["plan", str(run), "--start", "1:0", "--goal", "2:20", "--data", str(data), *FLAGS, "--explain", str(picture), "--json", str(result)]
    assert main([*words, "--planner.landmark-reach-env-steps", "2"]) == 0
    route = json.loads(result.read_text())["route"]
    printed = capsys.readouterr().out
    assert printed.startswith(f"route: {len(route['landmarks'])} landmarks from frame {route['rows'][0]} to frame {route['rows'][-1]}")
    assert (route["aim"] is None) == ("distance to the goal" in printed)
    with Image.open(picture) as shown:
        assert shown.format == "PNG"


def test_explain_is_for_landmarks_only(checkpoint, data, tmp_path, capsys):
    words = ["plan", str(checkpoint.path), "--start", "1:0", "--goal", "2:20", "--data", str(data)]
    assert main([*words, "--explain", str(tmp_path / "map.png")]) == 1
    assert "--explain draws the map of planner 'landmarks', and this is 'cem'" in capsys.readouterr().err


def test_a_result_names_the_map_can_be_verified_and_is_drawn_on_the_page(checkpoint, data, capsys):
    run = checkpoint.path.parent.parent
    result = run / "results" / "far.json"
    result.parent.mkdir(exist_ok=True)
    words = ["eval", "success", str(run), "--distances", "10", "--episodes", "2", "--strata", "same-room", "--data", str(data)]
    assert main([*words, *FLAGS, "--json", str(result)]) == 0
    about = json.loads(result.read_text())["planner"]["landmarks"]
    assert about["map_sha256"] == map_of(checkpoint, settings(), data).sha256
    assert about["num_without_route"] >= 0
    main(["verify", str(result)])
    assert "every outcome, floor, rate and interval follows" in capsys.readouterr().out
    main(["report", str(run)])
    assert 'alt="Map of landmarks' in (run / "report.html").read_text()
