"""Networks on frozen latents: trained without touching the model, kept in its checkpoint, refused when they are not what the checkpoint says."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lewm.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from lewm.cli import main
from lewm.data.collect import collect
from lewm.decoder_training import reconstruction_loss, train_decoder
from lewm.errors import CheckpointError, ConfigError, DataError, TrainingError
from lewm.head_config import HEAD_CONFIGS, DecoderConfig
from lewm.models.heads import Head, build_head
from lewm.run_directory import read_metrics
from lewm.schema import Observation
from lewm.training import train

SETTINGS = DecoderConfig(num_steps=60, batch_size=8, width=16, num_heads=2, num_layers=1)


@pytest.fixture(scope="module")
def base(dataset, tiny, tmp_path_factory) -> Path:
    train_settings = dataclasses.replace(tiny.train, num_steps=150, learning_rate=3e-3, monitor_every_steps=150, checkpoint_every_steps=150)
    return train(dataclasses.replace(tiny, train=train_settings), data=dataset, out=tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def with_decoder(base, dataset, tmp_path_factory) -> Path:
    """A finished run with a decoder; read only."""
    return train_decoder(SETTINGS, base=base, data=dataset, out=tmp_path_factory.mktemp("decoder") / "run")


@pytest.fixture
def copied(with_decoder, tmp_path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(find_checkpoint(with_decoder), tmp_path / "checkpoint"))


def frames(seed: int = 0) -> Observation[torch.Tensor]:
    return Observation(torch.randint(0, 256, (2, 1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))


def decoder_state(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run).heads["decoder"].network.state_dict()


def rewrite(checkpoint: Path, change) -> None:
    description = json.loads((checkpoint / "config.json").read_text())
    change(description)
    (checkpoint / "config.json").write_text(json.dumps(description))


def test_the_model_beside_a_new_decoder_is_the_bases_bit_for_bit(base, with_decoder):
    before, after = load_checkpoint(base), load_checkpoint(with_decoder)
    assert all(torch.equal(tensor, after.model.state_dict()[name]) for name, tensor in before.model.state_dict().items())
    assert after.step == before.step
    assert after.config == before.config


def test_the_gradient_of_the_decoders_loss_does_not_reach_the_model(base):
    checkpoint = load_checkpoint(base)
    head = build_head("decoder", SETTINGS, checkpoint.model)
    reconstruction_loss(head, checkpoint, frames()).backward()
    assert all(parameter.grad is None for parameter in checkpoint.model.parameters())
    assert head.network.pixels.weight.grad.abs().sum() > 0


def test_a_decoder_overfits_a_few_frames(base, tmp_path):
    collect("two-room", tmp_path / "few", episodes=6, max_env_steps=5, env_options={"size_px": 32})
    settings = dataclasses.replace(SETTINGS, num_steps=200, learning_rate=1e-2)
    run = train_decoder(settings, base=base, data=tmp_path / "few", out=tmp_path / "run")
    losses = [line["reconstruction_loss"] for line in read_metrics(run)]
    assert losses[-1] < 0.5 * losses[0]  # it begins as the mean frame


def test_the_checkpoint_knows_what_its_decoder_came_from(base, with_decoder, dataset):
    provenance = load_checkpoint(with_decoder).provenance
    assert provenance["heads"]["decoder"]["base_checkpoint_sha256"] == load_checkpoint(base).sha256
    assert provenance["heads"]["decoder"]["dataset_sha256"] == provenance["dataset_sha256"]
    assert provenance["episode_seeds"] == load_checkpoint(base).provenance["episode_seeds"]


def test_a_checkpoint_with_a_decoder_that_is_saved_again_draws_the_same(with_decoder, tmp_path):
    checkpoint = load_checkpoint(with_decoder)
    assert checkpoint.heads["decoder"].settings == SETTINGS
    path = save_checkpoint(tmp_path / "copy", checkpoint.model, checkpoint.config, step=1, env=checkpoint.env, provenance={}, heads=checkpoint.heads)
    latents = checkpoint.model.encode(frames()).detach()
    drawn = [each.heads["decoder"].network(latents) for each in (checkpoint, load_checkpoint(path))]
    assert torch.equal(*drawn)


def test_a_decoder_is_a_function_of_its_settings_and_seed(base, dataset, with_decoder, tmp_path):
    short = dataclasses.replace(SETTINGS, num_steps=3)
    first, again, other = (
        decoder_state(train_decoder(settings, base=base, data=dataset, out=tmp_path / name))
        for name, settings in (("a", short), ("b", short), ("c", dataclasses.replace(short, seed=1)))
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["queries"], other["queries"])


def test_a_new_decoder_replaces_an_older_one(with_decoder, dataset, tmp_path):
    settings = dataclasses.replace(SETTINGS, num_steps=1, patch_px=8)
    run = train_decoder(settings, base=with_decoder, data=dataset, out=tmp_path / "run")
    assert load_checkpoint(run).heads["decoder"].network.patch_px == 8


def test_checkpoints_without_heads_are_as_they_always_were(base):
    assert load_checkpoint(base).heads == {}
    assert "heads" not in json.loads((find_checkpoint(base) / "config.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda description: description["heads"].update(oracle={}), "unknown head 'oracle'. Known: decoder"),
        (lambda description: description["heads"].update(decoder=[]), "settings of head 'decoder' must be a table"),
        (lambda description: description["heads"]["decoder"].update(hook="os"), "unknown setting heads.decoder.hook"),
        (lambda description: description["heads"]["decoder"].update(width=10**7), "cannot be built|do not fit"),
        (lambda description: description["heads"]["decoder"].update(num_layers=10**8), "decoder.num_layers must be at most 1000"),
        (lambda description: description.pop("heads"), r"unknown heads\.decoder"),
        (lambda description: description.update(heads=3), "incomplete or malformed config.json"),
    ],
)
def test_a_head_that_is_unknown_or_does_not_fit_is_refused(copied, change, message):
    rewrite(copied, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(copied)


def test_a_head_without_settings_of_its_own_is_refused(copied, monkeypatch):
    monkeypatch.delitem(HEAD_CONFIGS, "decoder")
    with pytest.raises(CheckpointError, match="head 'decoder' is registered without settings in HEAD_CONFIGS"):
        load_checkpoint(copied)


def test_a_missing_tensor_of_a_head_is_named(copied):
    file = copied / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "heads.decoder.queries"}, file)
    with pytest.raises(CheckpointError, match=r"missing heads\.decoder\.queries"):
        load_checkpoint(copied)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10, "num_heads": 4}, r"decoder\.width \(10\) must be a multiple of decoder\.num_heads \(4\)"),
        ({"batch_size": 5}, r"decoder\.batch_size must be even"),
        ({"num_steps": 0}, r"decoder\.num_steps must be at least 1"),
        ({"learning_rate": 2.0}, r"decoder\.learning_rate must be positive and below 1"),
        ({"seed": -1}, r"decoder\.seed must be in"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DecoderConfig(**settings)


def test_a_stage_that_is_refused_leaves_nothing_behind(base, with_decoder, dataset, tmp_path):
    with pytest.raises(ConfigError, match="already holds a run"):
        train_decoder(SETTINGS, base=base, data=dataset, out=with_decoder)
    collect("two-room", tmp_path / "large", episodes=12, max_env_steps=20, env_options={"size_px": 48})
    with pytest.raises(DataError, match="evaluate on data of the same kind"):
        train_decoder(SETTINGS, base=base, data=tmp_path / "large", out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"decoder's patch_px \(7\) must divide"):
        train_decoder(dataclasses.replace(SETTINGS, patch_px=7), base=base, data=dataset, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_stage(base, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("lewm.decoder_training.reconstruction_loss", lambda head, *_: head.network.queries.sum() * float("nan"))
    with pytest.raises(TrainingError, match=r"the decoder's loss is nan at step 0; lower decoder\.learning_rate"):
        train_decoder(SETTINGS, base=base, data=dataset, out=tmp_path / "run")


def test_fine_tuning_leaves_the_bases_decoder_behind_and_says_so(with_decoder, dataset, tiny, with_train, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run = train(with_train(tiny, num_steps=1), data=dataset, base=with_decoder, out=tmp_path / "run")
    assert "the base's decoder is not taken over" in caplog.text
    assert load_checkpoint(run).heads == {}


def test_the_commands_train_measure_and_show_a_decoder(base, dataset, tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "result.json"
    words = ["train", "--from", str(base), "--stage", "decoder", "--data", str(dataset), "--out", str(run), "--decoder.num-steps", "2", "--seed", "3"]
    assert main(words) == 0
    assert f"next: lewm eval reconstruction {run} --data {dataset}" in capsys.readouterr().out.replace("\n", " ")
    assert load_checkpoint(run).heads["decoder"].settings.seed == 3
    assert main(["eval", "reconstruction", str(run), "--data", str(dataset), "--horizon-model-steps", "2", "--json", str(file)]) == 0
    assert "imagined 2 model steps ahead" in capsys.readouterr().out
    assert json.loads(file.read_text())["checkpoint_sha256"] == load_checkpoint(run).sha256
    assert main(["info", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["heads"]["decoder"]["num_steps"] == 2
    assert main(["eval", "reconstruction", str(base), "--data", str(dataset)]) == 1
    assert "has no decoder: `lewm train --from" in capsys.readouterr().err
    assert main([*words, "--freeze", "encoder"]) == 2


def test_a_head_holds_its_network_and_settings(base):
    head = build_head("decoder", SETTINGS, load_checkpoint(base).model)
    assert isinstance(head, Head)
    assert head.network.patch_px == 4
