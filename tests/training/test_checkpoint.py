"""Checkpoints are data: complete, checked before use, never code."""

import json
import shutil

import pytest
import torch

from lewm.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from lewm.errors import CheckpointError
from lewm.schema import Observation
from lewm.training import train


@pytest.fixture(scope="module")
def finished(dataset, tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(tiny, data=dataset, out=run)
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def newest(run):
    return list_checkpoints(run)[-1]


def rewrite(run, change) -> None:
    file = newest(run) / "config.json"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


def test_a_checkpoint_saved_again_predicts_the_same(run, tmp_path):
    checkpoint = load_checkpoint(run)
    save_checkpoint(tmp_path / "copy", checkpoint.model, checkpoint.config, step=1, env=checkpoint.env, provenance={})
    again = load_checkpoint(tmp_path / "copy")
    frames = Observation(torch.randint(0, 256, (2, 3, 1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    latents = checkpoint.model.encode(frames)
    torch.testing.assert_close(again.model.encode(frames), latents, rtol=0, atol=0)
    blocks = torch.ones(2, 3, 10)
    torch.testing.assert_close(again.model.predict(latents, blocks), checkpoint.model.predict(latents, blocks), rtol=0, atol=0)
    assert again.model.action_statistics() == checkpoint.model.action_statistics() != ((0.0, 0.0), (1.0, 1.0))


def test_a_run_means_its_newest_checkpoint(run):
    assert load_checkpoint(run).step == 12
    assert load_checkpoint(list_checkpoints(run)[0]).step == 4


def test_it_knows_the_world_and_the_data_that_it_came_from(run, dataset):
    checkpoint = load_checkpoint(run)
    assert checkpoint.env["name"] == "two-room"
    assert checkpoint.env["options"]["size_px"] == 32
    assert len(checkpoint.provenance["dataset_sha256"]) == 64


def _set(*path_and_value):
    *path, last, value = path_and_value

    def change(description) -> None:
        for key in path:
            description = description[key]
        description[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", 2), "has format 2; this version of lewm reads format 1"),
        (_set("config", "encoder", "name", "os:system"), "unknown encoder 'os:system'"),
        (_set("config", "encoder", "name", "../../evil.py"), "unknown encoder"),
        (_set("config", "objective", "hook", "import os"), "unknown setting objective.hook"),
        (_set("config", "model", "latent_dimension", 10**9), "do not fit the configuration"),
        (_set("config", "model", "latent_dimension", "16"), "must be a int, got '16'"),
        (_set("config", "model", "latent_dimension", True), "must be a int, got True"),
        (_set("config", "predictor", "num_layers", 10**9), r"predictor.num_layers must be at most 1000"),
        (_set("observation_spec", "height_px", -1), "frames must be at least 1 x 1 px"),
        (_set("action_spec", "kind", "__reduce__"), "action kind must be one of"),
        (_set("provenance", None), "incomplete or malformed config.json"),
        (_set("config", "model", "latent_dimension", 10**20), "describes a model that cannot be built"),
        (_set("config", "model", {"latent_dimension": 10**12, "projector_width": 10**12}), "cannot be built|do not fit"),
        (_set("action_spec", "low", "ab"), "action bounds must be numbers"),
        (_set("observation_spec", "height_px", 32.5), "must be whole numbers"),
        (_set("config", []), "incomplete or malformed config.json"),
    ],
)
def test_a_hostile_or_foreign_configuration_is_refused(run, change, message):
    rewrite(run, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(run)


def test_a_tensor_of_another_shape_is_named(run):
    rewrite(run, _set("config", "predictor", "mlp_width", 64))
    with pytest.raises(CheckpointError, match=r"predictor.blocks.0.mlp.expand.weight is \(32, 32\), expected \(64, 32\)"):
        load_checkpoint(run)


def test_truncated_weights_are_refused(run):
    file = newest(run) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_checkpoint(run)


def test_text_that_is_no_json_is_refused(run):
    (newest(run) / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load_checkpoint(run)


def test_a_place_without_a_run_says_how_to_make_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no run or checkpoint at .*; `lewm train"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
        load_checkpoint(tmp_path)


def test_a_failed_write_leaves_the_old_checkpoint_and_no_rest(run, tmp_path):
    checkpoint = load_checkpoint(run)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        save_checkpoint(tmp_path / "file" / "step-00000001", checkpoint.model, checkpoint.config, step=1, env={}, provenance={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_a_checkpoint_without_trainer_state_cannot_be_resumed(run, dataset, tiny):
    (newest(run) / "trainer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be resumed: its trainer state is missing"):
        train(tiny, data=dataset, out=run, resume=True)
