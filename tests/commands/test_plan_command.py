"""``lewm plan`` on an untrained model of a small world: what it reads, says and refuses.

Axes: C clip, T model step, D latent, a env action.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lewm.checkpoint import load_checkpoint, save_checkpoint
from lewm.cli import main
from lewm.commands.plan import parse_labels, warnings_of
from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.errors import ConfigError, DataError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.label_goals import fit_comparison
from lewm.evaluation.plan_frames import frame_of
from lewm.evaluation.single_plan import DataLatents, data_latents, distances_apart, encoded, outside, wanted_labels
from lewm.head_config import DecoderConfig
from lewm.models.heads import build_head
from lewm.models.world_model import WorldModel
from lewm.planning.mpc import MPCPolicy
from lewm.planning.terms import squared_l2
from lewm.schema import Observation, ObservationSpec

SIZE_PX = 32
SPEC = ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX)
STACKED = ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX, stack_offsets_env_steps=(-3, 0))
TINY = {
    "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
    "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 16},
    "predictor": {"width": 32, "num_layers": 1, "num_heads": 2, "head_width": 16, "mlp_width": 32},
    "planner": {"num_candidates": 8, "num_elites": 2, "num_iterations": 2, "horizon_model_steps": 3, "replan_every_model_steps": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "data"
    collect("two-room", path, episodes=24, max_env_steps=30, env_options={"size_px": SIZE_PX})
    return path


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    store, config = EpisodeStore(data), from_dict(TINY)
    torch.manual_seed(0)
    model = WorldModel(config, store.observation_spec, store.action_spec)
    for parameter in model.predictor.parameters():  # zero-initialised gates would make an untrained predictor deaf to actions
        torch.nn.init.normal_(parameter, std=0.1)
    heads = {"decoder": build_head("decoder", DecoderConfig(width=16, num_heads=2, num_layers=1), model)}
    provenance = {"dataset_sha256": store.dataset_sha256}
    return save_checkpoint(data.parent / "step-00000001", model, config, step=1, env=store.env, provenance=provenance, heads=heads)


@pytest.fixture
def image(data: Path, tmp_path: Path) -> Path:
    Image.fromarray(EpisodeStore(data).episode(3).observations.frames[20, 0]).save(tmp_path / "goal.png")
    return tmp_path / "goal.png"


def planned(run: Path, tmp_path: Path, *words: str) -> dict:
    assert main(["plan", str(run), *words, "--json", str(tmp_path / "plan.json")]) == 0
    return json.loads((tmp_path / "plan.json").read_text())


def test_a_plan_comes_with_actions_and_the_distance_of_every_step(run: Path, data: Path, tmp_path: Path, capsys) -> None:
    result = planned(run, tmp_path, "--start", "3:0", "--goal", "3:20", "--data", str(data))
    assert np.shape(result["actions"]) == (15, 2)
    assert np.abs(result["actions"]).max() <= 1
    assert len(result["distances"]) == 3
    assert {"confidence", "model_steps_left", "is_goal_outside_data", "median_distance_by_model_steps"} <= result["data"].keys()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["actions"] == result["actions"]


def test_the_distances_are_those_of_the_imagined_latents(run: Path, data: Path, tmp_path: Path) -> None:
    result = planned(run, tmp_path, "--start", "3:0", "--goal", "3:20", "--data", str(data))
    checkpoint, store = load_checkpoint(run), EpisodeStore(data)
    policy = MPCPolicy(checkpoint.model, checkpoint.config.planner)
    start, goal = (encoded(policy, frame_of(text, SPEC, store, is_resized=False, is_still=True)) for text in ("3:0", "3:20"))
    blocks = torch.tensor(result["actions"]).reshape(1, 1, 3, 10)
    imagined = checkpoint.model.rollout(start[:, None], torch.zeros(1, 0, 10), blocks)[0, 0].detach()
    expected = [float((latent - goal[0]).square().sum()) for latent in (start[0], *imagined)]
    np.testing.assert_allclose([result["distance_at_start"], *result["distances"]], expected, rtol=1e-4)


def test_an_image_file_and_the_row_that_it_was_saved_from_are_the_same_goal(run: Path, data: Path, tmp_path: Path, image: Path) -> None:
    options = ("--start", "3:0", "--data", str(data), "--seed", "4")
    from_file, from_row = (planned(run, tmp_path, *options, "--goal", goal) for goal in (str(image), "3:20"))
    assert from_file["actions"] == from_row["actions"]


def test_the_planner_and_its_options_can_be_chosen(run: Path, data: Path, tmp_path: Path) -> None:
    options = ("--planner.name", "icem", "--planner.noise-exponent", "1", "--planner.num-iterations", "3")
    result = planned(run, tmp_path, "--start", "3:0", "--goal", "3:20", "--data", str(data), *options)
    assert (result["planner"], result["num_iterations"]) == ("icem", 3)


def test_labels_can_be_the_goal(run: Path, data: Path, tmp_path: Path) -> None:
    result = planned(run, tmp_path, "--start", "3:0", "--goal", "agent_x_px=60", "--data", str(data))
    assert result["compared_by"] == "labels"


def test_the_imagined_way_can_be_seen(run: Path, data: Path, tmp_path: Path) -> None:
    planned(run, tmp_path, "--start", "3:0", "--goal", "3:20", "--data", str(data), "--film", str(tmp_path / "plan.gif"))
    with Image.open(tmp_path / "plan.gif") as film:
        assert film.n_frames >= 2
        assert film.size[0] > 3 * film.size[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start", "1:0", "--goal", "1:5"], "'1:0' is a row of a dataset: say of which one with --data DIR"),
        (["--start", "nowhere.png", "--goal", "1:5"], "there is no image file 'nowhere.png'"),
        (["--start", "1:0", "--goal", "1:99", "--data", "DATA"], "has env steps 0 to 30, got 99"),
        (["--start", "1:0", "--goal", "99:1", "--data", "DATA"], "has episodes 0 to 23, got 99"),
        (["--start", "1:0", "--goal", "agent_x_px=3", "--planner.distance", "reach", "--data", "DATA"], "compares latents"),
        (["--start", "1:0", "--goal", "1:5", "--planner.distance", "reach", "--data", "DATA"], "this run has the heads decoder"),
        (["--start", "1:0", "--goal", "1:5", "--planner.temperature", "1", "--data", "DATA"], "'cem' does not know planner.temperature"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(run: Path, data: Path, words, message, capsys) -> None:
    assert main(["plan", str(run), *(str(data) if word == "DATA" else word for word in words)]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_goal_of_labels_without_data_is_refused(run: Path, image: Path, capsys) -> None:
    assert main(["plan", str(run), "--start", str(image), "--goal", "agent_x_px=3"]) == 1
    assert "a goal of labels needs --data DIR" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["agent_x_px=", "agent_x_px=nan", "agent_x_px=1,agent_x_px=2", "=3", "agent_x_px=1,y"])
def test_labels_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--goal takes LABEL=NUMBER"):
        parse_labels(text)


def test_an_image_of_another_size_is_refused_or_scaled(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"has 64 x 64 px; expected 32 x 32 px RGB of 8 bits.*--resize scales it"):
        frame_of(str(tmp_path / "large.png"), SPEC, None, is_resized=False, is_still=True)
    assert frame_of(str(tmp_path / "large.png"), SPEC, None, is_resized=True, is_still=True).frames.shape == (1, 1, 32, 32, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_an_image_of_another_kind_is_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (32, 32)).save(tmp_path / "other.png")
    with pytest.raises(DataError, match=rf"image of mode '{mode}'; expected 32 x 32 px RGB of 8 bits"):
        frame_of(str(tmp_path / "other.png"), SPEC, None, is_resized=False, is_still=True)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("not an image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        frame_of(str(tmp_path / "note.png"), SPEC, None, is_resized=False, is_still=True)


def test_image_files_are_refused_where_the_model_sees_more(image: Path) -> None:
    two = ObservationSpec(height_px=SIZE_PX, width_px=SIZE_PX, cameras=("left", "right"))
    with pytest.raises(ConfigError, match="this model sees 2 cameras, which an image file does not have"):
        frame_of(str(image), two, None, is_resized=False, is_still=True)


def test_a_start_is_stacked_as_in_training_and_a_goal_is_still(data: Path) -> None:
    store = EpisodeStore(data)
    frames = store.episode(3).observations.frames[:, 0]
    start, goal = (frame_of("3:8", STACKED, store, is_resized=False, is_still=is_still).frames[0] for is_still in (False, True))
    np.testing.assert_array_equal(start, frames[[5, 8]])
    np.testing.assert_array_equal(goal, frames[[8, 8]])


def test_wanted_labels_are_in_the_unit_of_their_readout(run: Path, data: Path) -> None:
    """Standard deviations of the training frames from their mean; the readout is that of goals compared by labels, for the named one alone."""
    checkpoint, store = load_checkpoint(run), EpisodeStore(data)
    readout, wanted = wanted_labels(checkpoint, store, {"agent_y_px": 60.0})
    labels = [store.episode(int(number)).labels for number in heldout_episodes(store, checkpoint.config)[0]]
    y_px = np.concatenate([part[:, 1] for part in labels if part is not None])
    assert float(wanted) == pytest.approx((60 - y_px.mean()) / y_px.std(), abs=0.05)
    same = fit_comparison(checkpoint, store, ("agent_y_px",)).readout
    assert same is not None
    torch.testing.assert_close(readout.weights, same.weights, rtol=0.05, atol=0.02)


def latents_on_a_line(num_clips: int, num_steps: int) -> DataLatents:
    """Clip c begins at 10 c and moves by 1 per model step."""
    places = 10.0 * torch.arange(num_clips)[:, None] + torch.arange(num_steps)
    return DataLatents(latents=places[..., None], episodes=np.arange(num_clips))


def test_distances_apart_are_those_of_later_latents_from_the_first() -> None:
    apart = distances_apart(latents_on_a_line(3, 4), squared_l2)
    torch.testing.assert_close(apart, torch.tensor([[1.0], [4.0], [9.0]]).expand(3, 3))


def test_a_goal_is_outside_if_it_is_farther_than_the_datas_own_frames_are() -> None:
    data = latents_on_a_line(20, 3)  # a first latent is 8 from the last one of the clip before, the very first one 10 from the next
    assert not outside(data, torch.tensor([[47.0]]))["is_goal_outside_data"]
    assert outside(data, torch.tensor([[500.0]]))["is_goal_outside_data"]


def test_goals_are_compared_with_what_the_data_look_like_as_goals() -> None:
    data = latents_on_a_line(20, 3)
    data = dataclasses.replace(data, still=data.latents + 1000)
    assert not outside(data, torch.tensor([[1047.0]]))["is_goal_outside_data"]
    assert outside(data, torch.tensor([[47.0]]))["is_goal_outside_data"]
    assert distances_apart(data, squared_l2)[0, 0] == (1000 - 1) ** 2


def test_the_data_look_as_goals_like_still_stacks_where_frames_are_stacked(run: Path, data: Path) -> None:
    checkpoint, store = load_checkpoint(run), EpisodeStore(data)
    assert data_latents(checkpoint, store, 2, num_clips=8).still is None
    torch.manual_seed(0)
    model = WorldModel(checkpoint.config, STACKED, store.action_spec).eval()
    found = data_latents(dataclasses.replace(checkpoint, model=model), store, 2, num_clips=8)
    frames = np.concatenate([store.episode(int(episode)).observations.frames for episode in np.unique(found.episodes)])
    still = model.encode(Observation(torch.from_numpy(np.repeat(frames, 2, axis=1)))).detach()
    assert torch.cdist(found.goals.flatten(0, 1), still).amin(1).max() < 1e-3
    assert torch.cdist(found.latents.flatten(0, 1), still).amin(1).max() > 0.01


def test_one_episode_does_not_say_what_is_outside() -> None:
    data = latents_on_a_line(3, 2)
    assert outside(DataLatents(latents=data.latents, episodes=np.zeros(3, np.int64)), torch.tensor([[5.0]])) == {}


def test_a_plan_that_comes_no_nearer_is_warned_of() -> None:
    assert warnings_of({"distances": [3.0, 2.0], "distance_at_start": 1.0, "data": {}}) != []
    assert warnings_of({"distances": [3.0, 0.5], "distance_at_start": 1.0, "data": {}}) == []
