"""Official weights, in every way that they are saved in, become a checkpoint that computes the same, and come back exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from golden_recipe import GOLDEN, SHAPES, recipe
from lewm.checkpoint import load_checkpoint, save_checkpoint
from lewm.commands.convert_weights import convert_weights
from lewm.data.collect import collect
from lewm.errors import CheckpointError, ConfigError, MissingExtraError
from lewm.models.official_layout import read_layout
from lewm.models.world_model import WorldModel
from lewm.official_weights import find_source, is_weights, official_tensors
from lewm.schema import Observation
from official_files import SIDE_PX, SMALL, STATISTICS, official_state, small_model, with_transformers_4_names, write_folder, write_weights


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return small_model()


@pytest.fixture
def folder(model: WorldModel, tmp_path: Path) -> Path:
    return write_folder(tmp_path / "official", official_state(model))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "converted"


def convert(source: object, out: Path, *words: str) -> Path:
    convert_weights([str(source), str(out), *(words or STATISTICS)])
    return out


def assert_same_weights(checkpoint: Path, model: WorldModel) -> None:
    got, expected = official_state(load_checkpoint(checkpoint).model), official_state(model)
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_converted_model_computes_what_the_original_does(model: WorldModel, folder: Path, out: Path):
    converted = load_checkpoint(convert(folder, out)).model
    frames = torch.randint(0, 256, (2, 3, 1, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = model.encode(Observation(frames))
    torch.testing.assert_close(converted.encode(Observation(frames)), latents, rtol=0, atol=0)
    normalised = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(1))
    in_env_units = normalised * torch.tensor([0.5, 2.0]).repeat(5) + torch.tensor([0.25, -0.5]).repeat(5)
    # Z-scoring what was un-z-scored in float32 rounds a few times.
    torch.testing.assert_close(converted.predict(latents, in_env_units), model.predict(latents, normalised), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", ["model.safetensors", "weights.pt", "lewm.pth", "lewm.ckpt", "pytorch_model.bin"])
def test_every_kind_of_weight_file_is_read(model: WorldModel, tmp_path: Path, out: Path, file: str):
    assert_same_weights(convert(write_folder(tmp_path / "official", official_state(model), file), out), model)


def test_names_of_transformers_4_are_read(model: WorldModel, tmp_path: Path, out: Path):
    state = with_transformers_4_names(official_state(model))
    assert "encoder.encoder.layer.1.attention.attention.query.weight" in state
    checkpoint = convert(write_folder(tmp_path / "official", state), out)
    assert_same_weights(checkpoint, model)
    assert load_checkpoint(checkpoint).provenance["names"] == "transformers4"


@pytest.mark.parametrize("prefix", ["model.", "module.", "model._orig_mod.", "module.model."])
def test_what_frameworks_put_around_the_weights_is_taken_off(model: WorldModel, tmp_path: Path, out: Path, prefix: str):
    state = {f"{prefix}{name}": tensor for name, tensor in official_state(model).items()}
    state["sigreg.phi"] = torch.ones(17)
    torch.save({"state_dict": state, "epoch": 10, "optimizer_states": [{"lr": 5e-5}]}, tmp_path / "last.ckpt")
    folder = write_folder(tmp_path / "official", official_state(model))
    (folder / "weights.pt").unlink()
    (tmp_path / "last.ckpt").rename(folder / "last.ckpt")
    assert_same_weights(convert(folder / "last.ckpt", out), model)


def test_safetensors_are_preferred_to_a_pickle_beside_them(model: WorldModel, folder: Path):
    write_weights(folder / "model.safetensors", official_state(model))
    assert find_source(str(folder)).weights.name == "model.safetensors"


def test_several_weight_files_are_refused_by_name(folder: Path):
    (folder / "weights.pt").rename(folder / "weights_epoch_1.pt")
    (folder / "weights_epoch_2.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"several weight files \(weights_epoch_1.pt, weights_epoch_2.pt\): give the one that you mean"):
        find_source(str(folder))


@pytest.mark.parametrize(("num_actions", "action_block"), [(1, 5), (5, 5), (2, 3)])
def test_the_action_dimension_is_read_off_the_tensors(tmp_path: Path, out: Path, num_actions: int, action_block: int):
    model = small_model(num_actions, action_block)
    folder = write_folder(tmp_path / "official", official_state(model))
    statistics = ["--action-mean", *["0"] * num_actions, "--action-std", *["1"] * num_actions]
    found = load_checkpoint(convert(folder, out, *statistics, "--action-block", str(action_block))).model
    assert (found.action_spec.dimension, found.action_block) == (num_actions, action_block)


def test_actions_that_do_not_make_the_block_are_refused(folder: Path, out: Path):
    with pytest.raises(ConfigError, match=r"takes blocks of 10 numbers; actions of 3 and --action-block 5 make 15"):
        convert(folder, out, "--action-mean", "0", "0", "0", "--action-std", "1", "1", "1")


def test_action_statistics_bounds_and_world_come_from_a_dataset(model: WorldModel, folder: Path, tmp_path: Path, out: Path):
    store = collect("two-room", tmp_path / "data", episodes=2, max_env_steps=10, env_options={"size_px": SIDE_PX})
    checkpoint = load_checkpoint(convert(folder, out, "--data", str(tmp_path / "data")))
    mean, std = store.action_statistics(store.episode_ids)
    assert checkpoint.model.action_statistics() == (pytest.approx(mean), pytest.approx(std))
    assert checkpoint.model.action_spec == store.action_spec
    assert checkpoint.env == store.env
    assert checkpoint.provenance["action_statistics"] == {"dataset_sha256": store.dataset_sha256}


def test_without_action_statistics_it_says_how_to_give_them(folder: Path, out: Path):
    with pytest.raises(ConfigError, match="give --action-mean and --action-std, one number per dimension, or --data DATASET"):
        convert(folder, out, "--env", "two-room")


def test_a_checkpoint_says_what_it_came_from(folder: Path, out: Path):
    checkpoint = load_checkpoint(convert(folder, out, *STATISTICS, "--env", "two-room"))
    assert checkpoint.env == {"name": "two-room", "version": 1, "options": {"size_px": SIDE_PX}}
    assert set(checkpoint.provenance["source_sha256"]) == {"config.json", "weights.pt"}
    assert all(len(sha256) == 64 for sha256 in checkpoint.provenance["source_sha256"].values())
    assert checkpoint.provenance["source"] == str(folder)


def test_a_world_of_another_frame_size_is_refused(folder: Path, out: Path):
    with pytest.raises(ConfigError, match="the model sees frames of 28 px and env 'two-room' has size_px 64: give --env-option size_px=28"):
        convert(folder, out, *STATISTICS, "--env", "two-room", "--env-option", "size_px=64")


def test_pixel_statistics_can_be_others_than_imagenets(folder: Path, out: Path):
    words = ("--pixel-mean", "0.5", "0.5", "0.5", "--pixel-std", "0.25", "0.25", "0.25")
    model = load_checkpoint(convert(folder, out, *STATISTICS, *words)).model
    assert (model.pixel_mean.tolist(), model.pixel_std.tolist()) == ([0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize("names", ["transformers5", "transformers4"])
def test_the_way_there_and_back_changes_no_bit(model: WorldModel, folder: Path, tmp_path: Path, out: Path, names: str):
    convert(convert(folder, out), tmp_path / "back", "--to", "official", "--names", names)
    expected = official_state(model) if names == "transformers5" else with_transformers_4_names(official_state(model))
    got = load_file(tmp_path / "back" / "model.safetensors")
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    again = load_checkpoint(convert(tmp_path / "back", tmp_path / "again")).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in load_checkpoint(out).model.state_dict().items())


def test_writing_the_official_layout_says_what_has_no_place_in_it(folder: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]):
    convert(convert(folder, out), tmp_path / "back", "--to", "official")
    assert "--action-mean 0.25 -0.5 --action-std 0.5 2.0 --action-low -1.0 -1.0 --action-high 1.0 1.0 --action-block 5" in capsys.readouterr().out


def test_a_model_of_another_architecture_is_refused_with_the_difference(tmp_path: Path, out: Path):
    from lewm.config_files import load_preset
    from lewm.schema import ActionSpec, ObservationSpec

    config = load_preset("laptop")
    model = WorldModel(config, ObservationSpec(height_px=64, width_px=64), ActionSpec(kind="continuous", low=(-1.0,), high=(1.0,)))
    save_checkpoint(tmp_path / "laptop", model, config, step=1, env={}, provenance={})
    with pytest.raises(CheckpointError, match="is not of the official architecture: its encoder is 'conv', not a vision transformer"):
        convert(tmp_path / "laptop", out, "--to", "official")


def test_a_checkpoint_of_ours_is_not_converted_into_itself(folder: Path, tmp_path: Path, out: Path):
    with pytest.raises(ConfigError, match="is a checkpoint of lewm already; --to official"):
        convert(convert(folder, out), tmp_path / "again")


def test_official_weights_are_not_taken_for_a_checkpoint_of_ours(folder: Path, out: Path):
    with pytest.raises(ConfigError, match="--to official needs a run or checkpoint of lewm"):
        convert(folder, out, "--to", "official")


def test_nothing_is_overwritten(folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="exists already; choose another place"):
        convert(folder, tmp_path)


def test_missing_unknown_and_mis_shaped_tensors_are_all_listed(model: WorldModel, tmp_path: Path, out: Path):
    state = official_state(model)
    del state["predictor.transformer.norm.bias"], state["projector.net.0.weight"]
    state["encoder.pooler.dense.weight"] = torch.ones(2, 2)
    state["encoder.layernorm.bias"] = torch.ones(23)
    folder = tmp_path / "official"
    folder.mkdir()
    write_weights(folder / "weights.pt", state)
    with pytest.raises(CheckpointError) as caught:
        convert(folder / "weights.pt", out)
    said = str(caught.value)
    assert "missing: " in said
    assert {"predictor.transformer.norm.bias", "projector.net.0.weight"} <= set(said.replace(",", "").replace(";", "").split())
    assert "1 unknown: encoder.pooler.dense.weight" in said
    assert "encoder.layernorm.bias is (23,), expected (24,)" in said
    assert not out.exists()


def test_weights_of_something_else_are_refused_in_one_short_sentence(tmp_path: Path, out: Path):
    write_weights(tmp_path / "resnet.safetensors", {f"layer{i}.weight": torch.ones(2) for i in range(50)})
    with pytest.raises(CheckpointError, match=r"holds no tensor of an official LeWorldModel; its 50 tensors are called layer0.weight"):
        convert(tmp_path / "resnet.safetensors", out)


def test_names_that_become_the_same_are_refused():
    state = {"model.encoder.layernorm.bias": torch.ones(2), "encoder.layernorm.bias": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"holds encoder.layernorm.bias twice, the second time as encoder.layernorm.bias"):
        official_tensors(state, "a file")


def test_weights_that_are_not_finite_are_refused(model: WorldModel, tmp_path: Path, out: Path):
    state = official_state(model)
    state["encoder.layernorm.bias"][3] = torch.nan
    with pytest.raises(CheckpointError, match=r"numbers that are not finite in encoder.layernorm.bias"):
        convert(write_folder(tmp_path / "official", state), out)


def test_whole_numbers_are_no_weights(model: WorldModel, tmp_path: Path, out: Path):
    state = official_state(model)
    state["encoder.layernorm.bias"] = torch.ones(24, dtype=torch.int64)
    with pytest.raises(CheckpointError, match=r"encoder.layernorm.bias holds int64 numbers, which it cannot"):
        convert(write_folder(tmp_path / "official", state), out)


def test_the_published_shapes_are_read_as_the_paper_preset():
    from lewm.config_files import load_preset

    layout = read_layout({name: tuple(shape) for name, shape in SHAPES.items()})
    assert (layout.config, layout.side_px, layout.block_dimension) == (load_preset("paper"), 224, 10)


def test_the_golden_fixture_comes_out_of_a_converted_file_of_the_published_layout(tmp_path: Path, out: Path):
    """Saved under transformers 4's names, as the released files may be, converted, loaded, and compared with what the official code computed."""
    state = {name: torch.tensor(0) if "num_batches" in name else torch.from_numpy(recipe(name, shape)) for name, shape in SHAPES.items()}
    torch.save(with_transformers_4_names(state), tmp_path / "weights.pt")
    model = load_checkpoint(convert(tmp_path / "weights.pt", out, "--action-mean", "0", "0", "--action-std", "1", "1")).model.double()
    fixture = np.load(GOLDEN / "lewm_golden.npz")
    frames = torch.from_numpy(np.random.default_rng(7).integers(0, 256, (2, 4, 224, 224, 3), np.uint8))
    blocks = torch.from_numpy(np.random.default_rng(8).standard_normal((2, 4, 10)).astype(np.float32))
    with torch.no_grad():
        latents = model.encode(Observation(frames[:, :, None]))
        predicted = model.predict(latents[:, :3], blocks[:, :3])
    # The fixture is float32: float64 arithmetic of the same weights differs from it by about 3e-6 of the largest value.
    for got, expected in ((latents, fixture["emb"]), (predicted, fixture["pred"])):
        assert np.abs(got.numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_repository_of_the_hub_is_read_from_its_cache_without_a_network(model: WorldModel, tmp_path: Path):
    repository, commit = tmp_path / "cache" / "models--somebody--lewm-small", "0123456789abcdef0123456789abcdef01234567"
    write_folder(repository / "snapshots" / commit, official_state(model))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    words = ["somebody/lewm-small", str(tmp_path / "converted"), *STATISTICS]
    done = run_offline(tmp_path, words)
    assert done.returncode == 0, done.stderr
    checkpoint = load_checkpoint(tmp_path / "converted")
    assert checkpoint.provenance["revision"] == commit
    assert_same_weights(tmp_path / "converted", model)


def test_a_repository_that_is_nowhere_is_said_to_be_neither_here_nor_there(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="'somebody/nothing' is no local path and cannot be fetched from the Hugging Face hub"):
        convert("somebody/nothing", out)


def test_without_the_hubs_package_the_extra_is_named(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"repository 'somebody/nothing' needs 'huggingface-hub': pip install 'lewm\[hub\]'"):
        convert("hf://somebody/nothing", out)


def run_offline(tmp_path: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    code = f"from lewm.commands.convert_weights import convert_weights; convert_weights({words!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_what_is_taken_for_weights(model: WorldModel, folder: Path, tmp_path: Path, out: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.json").write_text("{}")
    save_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000001", model, SMALL, step=1, env={}, provenance={})
    yes = (
        folder,
        folder / "weights.pt",
        convert(folder, out),
        tmp_path / "run",
        "nothing.safetensors",
        "somebody/lewm-pusht",
        "hf://a/b",
        "hf://../x",
    )
    assert [source for source in yes if not is_weights(str(source))] == []
    no = (tmp_path / "data", tmp_path / "data" / "meta.json", "two-room", "a/b/c", "../b", "./data", "/data/x")
    assert [source for source in no if is_weights(str(source))] == []
