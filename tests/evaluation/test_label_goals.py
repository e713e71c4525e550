"""Goals compared by labels: which labels, read off by which probe, and what a result says about it."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm.checkpoint import load_checkpoint, save_checkpoint
from lewm.cli import main
from lewm.config import PlannerConfig
from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.envs.two_room.env import TwoRoom
from lewm.errors import ConfigError, DataError
from lewm.evaluation.collapse import heldout_episodes
from lewm.evaluation.label_goals import GoalComparison, compare_goals, fit_comparison, goal_labels, matching_store
from lewm.evaluation.workflow import evaluate, load_policy
from lewm.models.world_model import WorldModel
from lewm.schema import Observation

SIZE_PX, LABELS = 32, ("agent_x_px", "agent_y_px")
WORLD = {"size_px": SIZE_PX}
TINY = {
    "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
    "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 16},
    "predictor": {"width": 32, "num_layers": 1, "num_heads": 2, "head_width": 16, "mlp_width": 32},
    "planner": {"num_candidates": 8, "num_elites": 2, "num_iterations": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "data"
    collect("two-room", path, episodes=40, max_env_steps=40, env_options=WORLD)
    return path


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A checkpoint of an untrained model: where a dot is can be read off random features too."""
    store, config = EpisodeStore(data), from_dict(TINY)
    torch.manual_seed(0)
    model = WorldModel(config, store.observation_spec, store.action_spec)
    provenance = {"dataset_sha256": store.dataset_sha256}
    return save_checkpoint(data.parent / "run" / "step-00000001", model, config, step=1, env=store.env, provenance=provenance)


def planner(goal: str) -> PlannerConfig:
    return dataclasses.replace(from_dict(TINY).planner, goal=goal)


def test_the_readout_reads_standardised_labels_as_well_as_least_squares_can(run: Path, data: Path) -> None:
    checkpoint, store = load_checkpoint(run), EpisodeStore(data)
    comparison = fit_comparison(checkpoint, store, LABELS)
    assert comparison.readout is not None
    train_ids, _ = heldout_episodes(store, checkpoint.config)
    episodes = [store.episode(number) for number in train_ids.tolist()]
    labels = np.concatenate([episode.labels[:, :2] for episode in episodes if episode.labels is not None])
    labels = (labels - labels.mean(0)) / labels.std(0)
    with torch.no_grad():
        latents = torch.cat([checkpoint.model.encode(Observation(torch.from_numpy(episode.observations.frames))) for episode in episodes])
    read = comparison.readout.read(latents).numpy()
    features = np.concatenate([latents.numpy(), np.ones((len(latents), 1))], axis=1)
    best = 1 - ((features @ np.linalg.lstsq(features, labels)[0] - labels) ** 2).mean(0)
    assert best.min() > 0.05
    np.testing.assert_allclose(1 - ((read - labels) ** 2).mean(0), best, atol=0.02)
    np.testing.assert_allclose([comparison.about["fit_r2"][name] for name in LABELS], best, atol=0.03)


def test_the_readout_never_sees_held_out_episodes(run: Path, data: Path, tmp_path: Path) -> None:
    checkpoint, store = load_checkpoint(run), EpisodeStore(data)
    shutil.copytree(data, tmp_path / "shifted")
    train_ids, heldout_ids = heldout_episodes(store, checkpoint.config)

    def shift(episode_ids: np.ndarray) -> EpisodeStore:
        for row in store.index[episode_ids]:
            labels = np.load(tmp_path / "shifted" / "shards" / f"{row['shard']:05d}" / "labels.npy", mmap_mode="r+")
            labels[row["offset"] : row["offset"] + row["length"] + 1] += np.float32(1000)
            labels.flush()
        return EpisodeStore(tmp_path / "shifted")

    expected, shifted = (fit_comparison(checkpoint, each, LABELS).readout for each in (store, shift(heldout_ids)))
    changed = fit_comparison(checkpoint, shift(train_ids[:1]), LABELS).readout
    assert expected is not None
    assert shifted is not None
    assert changed is not None
    assert torch.equal(shifted.weights, expected.weights)
    assert torch.equal(shifted.bias, expected.bias)
    assert not torch.equal(changed.weights, expected.weights)


def test_a_world_says_which_labels_decide_success() -> None:
    assert goal_labels("two-room", WORLD) == LABELS


def test_by_default_the_world_says_what_is_compared(run: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(run)
    assert compare_goals(checkpoint, planner("default"), "two-room", WORLD, data).kind == "latent"
    monkeypatch.setattr(TwoRoom, "GOAL_COST", "labels")
    assert compare_goals(checkpoint, planner("default"), "two-room", WORLD, data).kind == "labels"
    assert compare_goals(checkpoint, planner("latent"), "two-room", WORLD, None).readout is None


def test_labels_without_data_are_refused_with_a_sentence_that_says_what_to_do(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = (
        "goals of 'two-room' are compared by the labels agent_x_px, agent_y_px, which a probe reads off the latents: "
        r"give --data DIR \(the training set\), or --planner.goal latent"
    )
    with pytest.raises(ConfigError, match=sentence):
        evaluate(run, planner=planner("labels"))
    with pytest.raises(ConfigError, match=sentence):
        load_policy(run, planner=planner("labels"))
    monkeypatch.setattr(TwoRoom, "GOAL_COST", "labels")
    with pytest.raises(ConfigError, match=sentence):
        load_policy(run)


def test_labels_of_recordings_without_a_simulator_are_refused(run: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match="trained on data without a simulator, which would say which labels"):
        compare_goals(load_checkpoint(run), planner("labels"), None, {}, data)
    assert compare_goals(load_checkpoint(run), planner("default"), None, {}, None) == GoalComparison(kind="latent")


def test_a_label_that_the_dataset_lacks_is_refused(run: Path, data: Path) -> None:
    with pytest.raises(DataError, match="has no player_y, only agent_x_px, agent_y_px, door_y_px"):
        fit_comparison(load_checkpoint(run), EpisodeStore(data), ("agent_x_px", "player_y"))


def test_labels_that_never_vary_are_refused(run: Path, data: Path) -> None:
    with pytest.raises(DataError, match="door_y_px never varied in dataset"):
        fit_comparison(load_checkpoint(run), EpisodeStore(data), ("door_y_px",))


def test_a_dataset_of_other_frames_is_refused(run: Path, tmp_path: Path) -> None:
    collect("two-room", tmp_path / "small", episodes=4, max_env_steps=10, env_options={"size_px": 16})
    with pytest.raises(DataError, match="evaluate on data of the same kind"):
        load_policy(run, planner=planner("labels"), data=tmp_path / "small")


def test_a_dataset_of_another_world_or_of_other_actions_is_refused(run: Path, data: Path) -> None:
    checkpoint = load_checkpoint(run)
    elsewhere = dataclasses.replace(checkpoint, env={"name": "three-room"})
    with pytest.raises(DataError, match="trained in env 'three-room', the dataset is of 'two-room'; evaluate on data of the same world"):
        matching_store(elsewhere, data)
    specs = checkpoint.model.observation_spec, dataclasses.replace(checkpoint.model.action_spec, action_repeat=2)
    with pytest.raises(DataError, match="evaluate on data with the same actions"):
        matching_store(dataclasses.replace(checkpoint, model=WorldModel(checkpoint.config, *specs)), data)
    assert len(matching_store(dataclasses.replace(checkpoint, env={}), data)) == 40


def test_data_that_nothing_needs_are_warned_of_and_missing_ones_refused(run: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lewm"):
        load_policy(run, data=data)
    assert "is not used: goals are compared by whole latents" in caplog.text
    with pytest.raises(DataError, match=r"there is no dataset at '.*nowhere'"):
        load_policy(run, data=data / "nowhere")


def test_a_world_with_an_env_step_of_another_length_is_refused_unless_asked_for(run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run)
    spec = dataclasses.replace(checkpoint.model.action_spec, action_repeat=2)
    model = WorldModel(checkpoint.config, checkpoint.model.observation_spec, spec)
    path = save_checkpoint(tmp_path / "step-00000001", model, checkpoint.config, step=1, env=checkpoint.env, provenance={})
    with pytest.raises(ConfigError, match="trained with action repeat 2, env 'two-room' has 1: give --env-option action_repeat=2"):
        evaluate(path)


def test_another_dataset_than_the_training_set_is_warned_of(run: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lewm"):
        load_policy(run, planner=planner("labels"), data=data)
        assert not caplog.records
        collect("two-room", tmp_path / "other", episodes=30, max_env_steps=20, env_options=WORLD, seed=5)
        load_policy(run, planner=planner("labels"), data=tmp_path / "other")
    assert "the run was trained on" in caplog.text


def test_the_loaded_agent_plans_with_the_readout(run: Path, data: Path) -> None:
    policy = load_policy(run, planner=planner("labels"), data=data)
    assert policy.readout is not None
    assert load_policy(run).readout is None


def test_the_result_says_what_was_compared_and_still_verifies(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "labels.json"
    words = ["eval", "success", str(run), "--episodes", "2", "--data", str(data), "--planner.goal", "labels", "--json", str(file)]
    assert main(words) == 0
    result = json.loads(file.read_text())
    assert result["planner"]["goal"] == "labels"
    probe = result["planner"]["goal_probe"]
    assert probe["labels"] == list(LABELS)
    assert probe["num_frames"] > 1000
    assert probe["dataset_sha256"] == EpisodeStore(data).dataset_sha256
    assert main(["verify", str(file)]) == 0
    assert main(["eval", "success", str(run), "--episodes", "1", "--json", str(tmp_path / "latent.json")]) == 0
    latent = json.loads((tmp_path / "latent.json").read_text())["planner"]
    assert latent["goal"] == "latent"
    assert "goal_probe" not in latent
    capsys.readouterr()
    assert main(["eval", "success", str(run), "--planner.goal", "labels"]) == 1
    assert "give --data DIR" in capsys.readouterr().err
