"""Training from another run's weights: what is taken over, what stays as it is, what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lewm.checkpoint import list_checkpoints, load_checkpoint
from lewm.cli import main
from lewm.data.collect import collect
from lewm.errors import ConfigError
from lewm.fine_tuning import ENCODER_PARTS, PREDICTOR_PARTS
from lewm.training import train


@pytest.fixture(scope="module")
def base(dataset, tiny, tmp_path_factory) -> Path:
    return train(tiny, data=dataset, out=tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """The same world in other colours."""
    path = tmp_path_factory.mktemp("other") / "data"
    collect(
        "two-room", path, episodes=30, max_env_steps=40, env_options={"size_px": 32, "agent_color": (0, 0, 255), "background_color": (200, 230, 200)}
    )
    return path


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run).model.state_dict()


def parts(tensors: dict[str, torch.Tensor], names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in names}


def test_training_starts_at_the_weights_and_statistics_of_the_base(base, other, tiny, with_train, tmp_path):
    config = with_train(tiny, num_steps=1, learning_rate=1e-12, weight_decay=0.0)
    before, after = state(base), state(train(config, data=other, base=base, out=tmp_path / "run"))
    for name, tensor in before.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=1e-5)
    origin = load_checkpoint(tmp_path / "run").provenance["base"]
    assert origin["checkpoint_sha256"] == load_checkpoint(base).sha256
    assert origin["fresh"] == []


@pytest.mark.parametrize(("freeze", "frozen"), [("encoder", ENCODER_PARTS), ("predictor", PREDICTOR_PARTS)])
def test_frozen_parts_stay_bit_for_bit_and_the_others_move(base, other, tiny, with_train, tmp_path, freeze, frozen):
    before, after = state(base), state(train(with_train(tiny, freeze=freeze), data=other, base=base, out=tmp_path / "run"))
    assert parts(before, frozen)
    for name, tensor in parts(before, frozen).items():
        assert torch.equal(after[name], tensor), name
    moving = PREDICTOR_PARTS if freeze == "encoder" else ENCODER_PARTS
    assert all(not torch.equal(after[name], tensor) for name, tensor in parts(before, moving).items() if name.endswith("weight"))


def test_an_interrupted_fine_tuning_that_is_resumed_equals_an_uninterrupted_one(base, other, tiny, with_train, tmp_path):
    config = with_train(tiny, freeze="encoder")
    whole = train(config, data=other, base=base, out=tmp_path / "whole")
    part = train(config, data=other, base=base, out=tmp_path / "part")
    for checkpoint in list_checkpoints(part)[2:]:
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    train(config, data=other, out=part, resume=True)
    assert all(torch.equal(tensor, state(part)[name]) for name, tensor in state(whole).items())
    assert load_checkpoint(part).provenance["base"] == load_checkpoint(whole).provenance["base"]


def test_other_actions_get_an_action_encoder_of_their_own_and_nothing_else(base, tiny, with_train, tmp_path, caplog):
    config = dataclasses.replace(with_train(tiny, num_steps=1, learning_rate=1e-12), data=dataclasses.replace(tiny.data, action_block=2))
    data = tmp_path / "data"
    collect("two-room", data, episodes=12, max_env_steps=20, env_options={"size_px": 32})
    train(config, data=data, base=base, out=tmp_path / "run")
    assert "the action encoder starts anew" in caplog.text
    after = load_checkpoint(tmp_path / "run")
    assert after.provenance["base"]["fresh"] == ["action_encoder"]
    for name, tensor in parts(state(base), ("encoder", "predictor")).items():
        torch.testing.assert_close(after.model.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    with pytest.raises(ConfigError, match="--freeze predictor would freeze an action encoder that starts anew"):
        train(with_train(config, freeze="predictor"), data=data, base=base, out=tmp_path / "run2")


def test_weights_that_do_not_fit_are_refused_by_what_differs(base, dataset, tiny, tmp_path):
    wider = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, latent_dimension=17))
    with pytest.raises(ConfigError, match=r"model\.latent_dimension is 17 and the base has 16"):
        train(wider, data=dataset, base=base, out=tmp_path / "run")
    collect("two-room", tmp_path / "large", episodes=12, max_env_steps=40, env_options={"size_px": 48})
    with pytest.raises(ConfigError, match="the data's frames have height_px 48 and the base's 32; `lewm convert --size-px`"):
        train(tiny, data=tmp_path / "large", base=base, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_takes_its_settings_from_the_base_and_says_what_it_refuses(base, other, dataset, tmp_path, capsys):
    words = ["train", "--data", str(other), "--out", str(tmp_path / "run"), "--from", str(base)]
    assert main([*words, "--freeze", "encoder", "--train.num-steps", "2"]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "run")]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["config"]["model"]["latent_dimension"] == 16
    assert about["provenance"]["base"]["frozen"] == "encoder"
    for more, message in (
        (["--preset", "laptop"], "--preset and --from both say where settings start from"),
        (["--from", str(tmp_path / "nothing")], "there is no run or checkpoint at"),
    ):
        assert main([*words, "--out", str(tmp_path / "run2"), *more]) == 1
        assert message in capsys.readouterr().err
    assert main(["train", "--data", str(dataset), "--out", str(tmp_path / "run3"), "--preset", "laptop", "--freeze", "encoder"]) == 1
    assert "--freeze keeps weights as they are, and there are none yet: give --from RUN" in capsys.readouterr().err
