"""``lewm eval success --protocol official`` and ``lewm verify --data`` as they are typed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lewm.checkpoint import save_checkpoint
from lewm.cli import main
from lewm.config_files import from_dict, load_preset
from lewm.data.collect import collect
from lewm.models.world_model import WorldModel

SMALL_SEARCH = ("--planner.num-candidates", "4", "--planner.num-elites", "2", "--planner.num-iterations", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a run that would have been trained on it."""
    place = tmp_path_factory.mktemp("official")
    store = collect("two-room", place / "data", episodes=12, max_env_steps=60, env_options={"size_px": 32})
    small = {"encoder": {"channels": [4, 8], "kernel_sizes": [4, 4], "strides": [2, 2]}, "predictor": {"num_layers": 1}}
    config = from_dict(small, load_preset("laptop"))
    torch.manual_seed(0)
    model = WorldModel(config, store.observation_spec, store.action_spec)
    model.set_action_statistics(*store.action_statistics(store.episode_ids))
    command = f"lewm train --data {place}/data --out {place}/run"
    provenance = {"command": command, "dataset_sha256": store.dataset_sha256, "episode_seeds": store.index["seed"].tolist()}
    save_checkpoint(place / "run" / "checkpoints" / "step-00000001", model, config, step=1, env=store.env, provenance=provenance)
    return place


def test_the_official_protocol_has_its_own_number_of_pairs_seed_and_search(place: Path, capsys: pytest.CaptureFixture[str]):
    words = ["eval", "success", f"{place}/run", "--protocol", "official", "--data", f"{place}/data", "--json", f"{place}/official.json"]
    assert main([*words, *SMALL_SEARCH]) == 0
    assert "pairs from the training episodes: nothing here is held out" in capsys.readouterr().out
    result = json.loads((place / "official.json").read_text())
    assert (result["n"], result["manifest"]["seed"], result["by_distance"]["25"]["budget_env_steps"]) == (50, 42, 50)
    planner = result["planner"]
    assert (planner["horizon_model_steps"], planner["replan_every_model_steps"], planner["use_bounds"], planner["goal"]) == (5, 5, False, "latent")
    assert planner["num_candidates"] == 4
    assert main(["verify", f"{place}/official.json"]) == 0
    assert "that the seed draws these rows from dataset" in capsys.readouterr().out
    assert main(["verify", f"{place}/official.json", "--data", f"{place}/data"]) == 0
    assert "that the seed draws these rows" not in capsys.readouterr().out


def test_a_runs_own_training_set_is_found_by_its_command_and_known_by_its_hash(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", "success", f"{place}/run", "--protocol", "official", "--episodes", "2", *SMALL_SEARCH]) == 0
    assert "pairs from the training episodes: nothing here is held out" in capsys.readouterr().out


def test_without_a_dataset_the_official_protocol_says_what_to_give(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(place / "run", tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "step-00000001" / "config.json"
    description = json.loads(file.read_text())
    description["provenance"]["dataset_sha256"] = "0" * 64  # another set than the one that lies there now
    file.write_text(json.dumps(description))
    assert main(["eval", "success", f"{tmp_path}/run", "--protocol", "official"]) == 1
    assert "protocol 'official' takes its pairs from the rows of a dataset, usually the training set: give --data DIR" in capsys.readouterr().err


def test_a_scripted_policy_can_be_measured_by_a_clear_protocol(place: Path, capsys: pytest.CaptureFixture[str]):
    words = ["eval", "success", "expert-noiseless", "--env", "two-room", "--env-option", "size_px=32", "--protocol", "clear-moderate"]
    assert main([*words, "--data", f"{place}/data", "--episodes", "1"]) == 0
    assert "protocol clear-moderate v1" in capsys.readouterr().out


def test_the_heldout_protocol_keeps_its_hundred_pairs_and_seed_0(place: Path, capsys: pytest.CaptureFixture[str]):
    words = ["eval", "success", "no-op", "--env", "two-room", "--env-option", "size_px=32", "--strata", "same-room"]
    assert main([*words, "--json", f"{place}/heldout.json"]) == 0
    result = json.loads((place / "heldout.json").read_text())
    assert (result["n"], result["manifest"]["seed"]) == (100, 0)
    assert "dataset" not in result["manifest"]
