"""The training loop on a small world: what it promises about interruption, processes, errors and monitoring."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from lewm.checkpoint import list_checkpoints, load_checkpoint
from lewm.config_files import load_preset
from lewm.data.collect import collect
from lewm.errors import ConfigError, DataError, DeviceError, TrainingError
from lewm.run_directory import read_metrics
from lewm.schema import Clip, Observation
from lewm.training import add_pixel_noise, learning_rate, train


class StopsAt:
    """A watcher who presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.messages: list[str] = []

    def update(self, step: int, num_steps: int, values: dict[str, float]) -> None:
        if step == self.step:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        self.messages.append(text)

    def close(self) -> None:
        pass


def weights(run):
    return load_checkpoint(run).model.state_dict()


def test_an_interrupted_run_that_is_resumed_equals_an_uninterrupted_one_bit_for_bit(dataset, tiny, tmp_path):
    train(tiny, data=dataset, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny, data=dataset, out=tmp_path / "halves", progress=lambda: StopsAt(7))
    assert [path.name for path in list_checkpoints(tmp_path / "halves")] == ["step-00000004"]
    train(tiny, data=dataset, out=tmp_path / "halves", resume=True)
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "halves")[name]), name
    histories = [[(line["step"], line.get("loss")) for line in read_metrics(tmp_path / run)] for run in ("whole", "halves")]
    assert histories[0] == histories[1]


def test_another_seed_gives_other_weights(dataset, tiny, with_train, tmp_path):
    train(with_train(tiny, num_steps=1), data=dataset, out=tmp_path / "a")
    train(with_train(tiny, num_steps=1, seed=1), data=dataset, out=tmp_path / "b")
    assert not torch.equal(weights(tmp_path / "a")["projector.expand.weight"], weights(tmp_path / "b")["projector.expand.weight"])


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(dataset, tiny, with_train, tmp_path):
    """Same global batch, SIGReg and BatchNorm over all processes: only rounding differs (which Adam amplifies where a gradient is almost zero)."""
    config = dataclasses.replace(tiny, predictor=dataclasses.replace(tiny.predictor, dropout=0.0))
    config = with_train(config, num_steps=4, pixel_noise_std=0.01, num_threads=1)
    train(config, data=dataset, out=tmp_path / "one")
    train(with_train(config, num_devices=2), data=dataset, out=tmp_path / "two")
    for term in ("sigreg", "gradient_norm"):  # Adam would hide a wrong scale of the gradient
        values = [[line[term] for line in read_metrics(tmp_path / run) if term in line] for run in ("one", "two")]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-3)
    train(with_train(config, num_steps=1, learning_rate=1e-12), data=dataset, out=tmp_path / "start")
    one, two, start = (torch.cat([t.flatten().double() for t in weights(tmp_path / run).values()]) for run in ("one", "two", "start"))
    assert (one - two).norm() < 0.01 * (one - start).norm()


def test_a_loss_that_explodes_stops_with_the_step_the_last_checkpoint_and_advice(dataset, tiny, with_train, tmp_path):
    train(with_train(tiny, num_steps=4), data=dataset, out=tmp_path / "run")
    broken = with_train(tiny, num_steps=12)
    checkpoint = list_checkpoints(tmp_path / "run")[-1]
    _damage_optimizer(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    config["config"]["train"]["num_steps"] = 12
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        TrainingError,
        match=r"the loss is \S+ at step \d+ \(gradient norm \S+\); the last good checkpoint is .*step-00000004; lower train.learning_rate",
    ):
        train(broken, data=dataset, out=tmp_path / "run", resume=True)


def _damage_optimizer(checkpoint) -> None:
    """Second moments of zero and huge first moments: the next step throws the weights away, as a diverging run does."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(checkpoint / "trainer.safetensors")
    for name in tensors:
        if name.endswith("exp_avg"):
            tensors[name] = torch.full_like(tensors[name], 1e30)
    save_file(tensors, checkpoint / "trainer.safetensors")


def test_the_objective_without_sigreg_is_reported_as_collapsed_in_the_first_fifth(dataset, tiny, with_train, tmp_path):
    config = dataclasses.replace(tiny, objective=dataclasses.replace(tiny.objective, weight=0.0))
    config = with_train(config, num_steps=1500, batch_size=16, learning_rate=3e-3, monitor_every_steps=50, log_every_steps=100)
    config = with_train(config, checkpoint_every_steps=1500, on_collapse="stop")
    with pytest.raises(TrainingError, match="collapsed: SIGReg is") as stopped:
        train(config, data=dataset, out=tmp_path / "run")
    step = int(str(stopped.value).split("step ")[1].split(":")[0])
    assert step < 1500 / 5
    assert list_checkpoints(tmp_path / "run"), "a run stopped on collapse keeps its last state"


def test_metrics_hold_every_term_and_the_monitors_looks(dataset, tiny, tmp_path):
    train(tiny, data=dataset, out=tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == list(range(12))
    for line in logged:
        assert line["loss"] == pytest.approx(line["prediction_loss"] + tiny.objective.weight * line["sigreg"], rel=1e-5)
        assert line["weight_times_batch"] == pytest.approx(tiny.objective.weight * tiny.train.batch_size)
    looks = [line["monitor"] for line in lines if "monitor" in line]
    assert [look["step"] for look in looks] == [3, 7, 11]
    assert all(look["action_sensitivity"] > 0 and look["verdict"] == "healthy" for look in looks)


def test_the_learning_rate_warms_up_and_then_follows_a_cosine():
    config = load_preset("paper")
    warmup = round(0.01 * config.train.schedule_num_steps)
    assert learning_rate(config, 0) == pytest.approx(5e-5 / warmup)
    assert learning_rate(config, warmup) == pytest.approx(5e-5)
    halfway = (warmup + config.train.schedule_num_steps) // 2
    assert learning_rate(config, halfway) == pytest.approx(2.5e-5, rel=1e-3)
    # The paper stops at a tenth of its schedule, where the rate has hardly moved.
    assert learning_rate(config, config.train.num_steps) == pytest.approx(5e-5 * 0.5 * (1 + math.cos(math.pi * 0.0909)), rel=0.01)


def test_the_paper_preset_is_stopped_at_a_tenth_of_its_schedule_with_an_almost_constant_rate():
    config = load_preset("paper")
    assert config.train.schedule_num_steps == 10 * config.train.num_steps
    after_warmup = [learning_rate(config, step) for step in range(13_900, config.train.num_steps, 1000)]
    assert min(after_warmup) > 0.97 * 5e-5


def test_the_paper_preset_has_the_official_hyperparameters():
    config = load_preset("paper")
    train, planner = config.train, config.planner
    assert (config.data.num_transitions, config.data.action_block, config.model.history_model_steps) == (3, 5, 3)
    assert (train.batch_size, train.learning_rate, train.weight_decay, train.gradient_clip) == (128, 5e-5, 1e-3, 1.0)
    assert (train.warmup_fraction, train.precision, train.seed, train.pixel_noise_std) == (0.01, "bf16-mixed", 3072, 0.0)
    assert (config.objective.weight, config.objective.num_directions, config.objective.num_knots) == (0.09, 1024, 17)
    assert (config.predictor.dropout, config.data.validation_fraction, config.objective.inverse_weight) == (0.1, 0.1, 0.0)
    assert (planner.num_candidates, planner.num_elites, planner.num_iterations) == (300, 30, 30)
    assert (planner.horizon_model_steps, planner.replan_every_model_steps, planner.history_model_steps) == (5, 5, 1)
    assert (planner.cost, planner.use_bounds, planner.initial_std, planner.std_floor) == ("last", False, 1.0, 0.0)
    assert (planner.momentum, planner.noise_smoothing, planner.use_warm_start, planner.mean_weight) == (0.0, 0.0, False, 0.0)


def test_pixel_noise_is_a_function_of_seed_step_and_row_and_has_the_promised_size():
    frames = torch.full((4, 2, 1, 16, 16, 3), 128, dtype=torch.uint8)
    clip = Clip(Observation(frames), torch.zeros(4, 1, 2), None, None, torch.zeros(4), torch.zeros(4))
    noisy = add_pixel_noise(clip, 0.02, seed=3, step=5).observations.frames
    second_half = Clip(Observation(frames[2:]), clip.blocks[2:], None, None, clip.episode[2:], clip.start_env_step[2:])
    assert torch.equal(add_pixel_noise(second_half, 0.02, seed=3, step=5, first_row=2).observations.frames, noisy[2:])
    assert (noisy.float() - 128).std() == pytest.approx(0.02 * 255, rel=0.05)
    assert not torch.equal(noisy, add_pixel_noise(clip, 0.02, seed=3, step=6).observations.frames)


def test_an_existing_run_is_refused_without_resume(dataset, tiny, with_train, tmp_path):
    train(with_train(tiny, num_steps=1), data=dataset, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="already holds a run; continue it with --resume"):
        train(tiny, data=dataset, out=tmp_path / "run")


def test_resuming_with_another_setting_names_it(dataset, tiny, with_train, tmp_path):
    train(with_train(tiny, num_steps=4), data=dataset, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train.learning_rate = 0.01, but the run was started with 0.001"):
        train(with_train(tiny, num_steps=4, learning_rate=0.01), data=dataset, out=tmp_path / "run", resume=True)


def test_resuming_on_another_dataset_is_refused(dataset, tiny, with_train, tmp_path):
    train(with_train(tiny, num_steps=4), data=dataset, out=tmp_path / "run")
    collect("two-room", tmp_path / "other", episodes=40, max_env_steps=40, seed=1, env_options={"size_px": 32})
    with pytest.raises(ConfigError, match=r"--resume with dataset \w+, but the run was started with \w+"):
        train(with_train(tiny, num_steps=4), data=tmp_path / "other", out=tmp_path / "run", resume=True)


def test_a_run_that_is_refused_leaves_nothing_behind(dataset, tiny, tmp_path):
    config = dataclasses.replace(tiny, objective=dataclasses.replace(tiny.objective, name="vicrex"))
    with pytest.raises(ConfigError, match="unknown objective"):
        train(config, data=dataset, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_half_precision_trains(dataset, tiny, with_train, tmp_path):
    train(with_train(tiny, num_steps=2, precision="bf16-mixed"), data=dataset, out=tmp_path / "run")
    assert all(math.isfinite(line["loss"]) for line in read_metrics(tmp_path / "run") if "loss" in line)


def test_there_must_be_a_run_to_resume(dataset, tiny, tmp_path):
    with pytest.raises(ConfigError, match="there is no run to resume"):
        train(tiny, data=dataset, out=tmp_path / "run", resume=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_an_error_not_a_fallback(dataset, tiny, with_train, tmp_path):
    with pytest.raises(DeviceError, match=r"device cuda .1 of it. was asked for and 0 were found"):
        train(with_train(tiny, device="cuda"), data=dataset, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_episodes_shorter_than_a_clip_are_an_error(dataset, tiny, tmp_path):
    config = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, action_block=20))
    with pytest.raises(DataError, match="40"):
        train(config, data=dataset, out=tmp_path / "run")
