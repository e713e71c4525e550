"""Training from another run's weights: what is taken over, what stays as it is, what is refused."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from lewm.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from lewm.cli import main
from lewm.config import Config
from lewm.data.collect import collect
from lewm.errors import ConfigError
from lewm.fine_tuning import ENCODER_PARTS, PREDICTOR_PARTS, take_over
from lewm.models.world_model import WorldModel
from lewm.run_directory import read_metrics
from lewm.schema import ActionSpec, ObservationSpec
from lewm.training import dry_run, train

CONTINUOUS = ActionSpec(kind="continuous", low=(-1.0, -1.0), high=(1.0, 1.0))


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


class StopsAt:
    """A watcher who presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, step: int, num_steps: int, values: dict[str, float]) -> None:
        if step == self.step:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_checkpoint_of_step_0_is_the_base_bit_for_bit(base, other, tiny, with_train, tmp_path):
    train(with_train(tiny, num_steps=1), data=other, base=base, out=tmp_path / "run")
    first, before = list_checkpoints(tmp_path / "run")[0], state(base)
    assert first.name == "step-00000000"
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(first).items())
    assert load_checkpoint(first).env["options"]["agent_color"] == [0, 0, 255]  # so that it is measured in the new world


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_from_the_base_without_it(base, other, tiny, tmp_path):
    moved = Path(shutil.copytree(base, tmp_path / "base"))
    whole = train(tiny, data=other, base=moved, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny, data=other, base=moved, out=tmp_path / "part", progress=lambda: StopsAt(3))
    assert [path.name for path in list_checkpoints(tmp_path / "part")] == ["step-00000000"]
    shutil.rmtree(moved)
    train(tiny, data=other, out=tmp_path / "part", resume=True)
    assert all(torch.equal(tensor, state(tmp_path / "part")[name]) for name, tensor in state(whole).items())


def test_a_resumed_run_takes_its_own_base_and_no_other(base, other, dataset, tiny, with_train, tmp_path):
    config = with_train(tiny, num_steps=2, checkpoint_every_steps=1)
    run = train(config, data=other, base=base, out=tmp_path / "run")
    train(config, data=other, base=base, out=run, resume=True)
    stranger = train(with_train(tiny, num_steps=1, seed=5), data=dataset, out=tmp_path / "stranger")
    with pytest.raises(ConfigError, match=r"--resume --from checkpoint \w{12}, but the run was started from \w{12}; leave --from out"):
        train(config, data=other, base=stranger, out=run, resume=True)
    with pytest.raises(ConfigError, match="was not started from another run; leave --from out"):
        train(with_train(tiny, num_steps=1, seed=5), data=dataset, base=base, out=stranger, resume=True)


def test_a_resumed_command_needs_no_settings(base, other, tmp_path, capsys):
    words = ["train", "--data", str(other), "--out", str(tmp_path / "run")]
    assert main([*words, "--from", str(base), "--freeze", "encoder", "--train.num-steps", "2"]) == 0
    assert main([*words, "--resume"]) == 0
    assert main([*words, "--resume", "--train.num-steps", "3"]) == 1
    assert "--resume with train.num_steps = 3, but the run was started with 2" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"freeze": "encoder"}, {"refit_action_statistics": True}])
def test_settings_that_need_a_base_are_refused_without_one(dataset, tiny, with_train, tmp_path, settings):
    with pytest.raises(ConfigError, match="give --from RUN"):
        train(with_train(tiny, **settings), data=dataset, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="give --from RUN"):
        dry_run(with_train(tiny, **settings), data=dataset)
    assert not (tmp_path / "run").exists()


def model_of(config: Config, action_spec: ActionSpec = CONTINUOUS, **observations) -> WorldModel:
    return WorldModel(config, ObservationSpec(**{"height_px": 32, "width_px": 32} | observations), action_spec)


def saved(path: Path, model: WorldModel, config: Config) -> Path:
    return save_checkpoint(path / "base", model, config, step=1, env={}, provenance={"episode_seeds": [3, 1], "base": {"episode_seeds": [2, 3]}})


def test_statistics_of_actions_are_the_bases_unless_they_are_to_be_refitted(tiny, with_train, tmp_path, caplog):
    base, new = model_of(tiny), model_of(tiny)
    base.set_action_statistics((0.0, 0.0), (0.5, 0.5))
    new.set_action_statistics((0.1, 0.0), (0.4, 0.6))
    path = saved(tmp_path, base, tiny)
    assert take_over(copy.deepcopy(new), tiny, path)["action_statistics"] == "base"
    assert caplog.text == ""
    refitted = copy.deepcopy(new)
    assert take_over(refitted, with_train(tiny, refit_action_statistics=True), path)["action_statistics"] == "data"
    assert refitted.action_statistics() == new.action_statistics()
    taken = copy.deepcopy(new)
    taken.set_action_statistics((0.0, 0.0), (200.0, 200.0))
    take_over(taken, tiny, path)
    assert taken.action_statistics() == base.action_statistics()
    assert "train.refit_action_statistics takes the data's" in caplog.text
    with pytest.raises(ConfigError, match="freeze an action encoder whose actions are normalised in a new way"):
        take_over(new, with_train(tiny, freeze="predictor", refit_action_statistics=True), path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ActionSpec(kind="none"), CONTINUOUS),
        (CONTINUOUS, ActionSpec(kind="none")),
        (CONTINUOUS, ActionSpec(kind="discrete", num_choices=2)),
        (CONTINUOUS, ActionSpec(kind="continuous", low=(-1.0,) * 3, high=(1.0,) * 3)),
    ],
)
def test_actions_of_another_kind_or_number_meet_a_fresh_encoder_and_the_same_everything_else(tiny, tmp_path, before, after):
    base, new = model_of(tiny, before), model_of(tiny, after)
    fresh = copy.deepcopy(new.action_encoder.state_dict())
    assert take_over(new, tiny, saved(tmp_path, base, tiny))["fresh"] == ["action_encoder"]
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in new.action_encoder.state_dict().items())
    kept = parts(base.state_dict(), (*ENCODER_PARTS, "predictor", "prediction_projector"))
    assert all(torch.equal(tensor, new.state_dict()[name]) for name, tensor in kept.items())


def test_other_cameras_are_taken_as_many_as_they_are_and_other_times_of_a_stack_with_a_warning(tiny, tmp_path, caplog):
    path = saved(tmp_path, model_of(tiny, stack_offsets_env_steps=(-1, 0)), tiny)
    take_over(model_of(tiny, stack_offsets_env_steps=(-1, 0), cameras=("front",)), tiny, path)
    assert caplog.text == ""
    take_over(model_of(tiny, stack_offsets_env_steps=(-3, 0)), tiny, path)
    assert "the base stacks the frames of env steps (-1, 0) and this run those of (-3, 0)" in caplog.text
    with pytest.raises(ConfigError, match="the data's frames have num_views 1 and the base's 2"):
        take_over(model_of(tiny), tiny, path)


def test_the_episodes_of_every_base_count_as_trained_on(tiny, tmp_path):
    assert take_over(model_of(tiny), tiny, saved(tmp_path, model_of(tiny), tiny))["episode_seeds"] == [1, 2, 3]


@pytest.mark.slow
def test_two_processes_fine_tune_as_one_and_leave_what_is_frozen_alone(base, other, tiny, with_train, tmp_path):
    config = dataclasses.replace(tiny, predictor=dataclasses.replace(tiny.predictor, dropout=0.0))
    config = with_train(config, num_steps=4, num_threads=1, freeze="encoder")
    runs = [train(with_train(config, num_devices=n), data=other, base=base, out=tmp_path / f"{n}") for n in (1, 2)]
    norms = [[line["gradient_norm"] for line in read_metrics(run) if "gradient_norm" in line] for run in runs]
    torch.testing.assert_close(torch.tensor(norms[0]), torch.tensor(norms[1]), rtol=1e-3, atol=0)
    assert all(torch.equal(tensor, state(runs[1])[name]) for name, tensor in parts(state(base), ENCODER_PARTS).items())
