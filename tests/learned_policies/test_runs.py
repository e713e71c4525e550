"""A learned policy's run: what training promises, what a result says of it, and that nothing takes it for a world model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lewm
from lewm.cli import main
from lewm.config_files import load_preset
from lewm.data.episodes import EpisodeStore
from lewm.errors import CheckpointError, ConfigError, DataError, TrainingError
from lewm.evaluation.workflow import evaluate
from lewm.learned_policies.agent import LearnedAgent
from lewm.learned_policies.checkpoints import load_policy_checkpoint
from lewm.learned_policies.networks import LearnedPolicy
from lewm.policy_config import GcbcConfig, GciqlConfig, PolicyConfig
from lewm.policy_training import train_policy
from lewm.run_directory import read_metrics
from lewm.schema import Observation

TINY = """
[encoder]
name = "conv"
channels = [4, 8]
kernel_sizes = [8, 4]
strides = [4, 2]
[model]
latent_dimension = 8
projector_width = 16
action_embedding_width = 8
[predictor]
width = 16
num_layers = 1
num_heads = 2
head_width = 8
mlp_width = 16
[objective]
num_directions = 16
[train]
num_steps = 2
batch_size = 4
[planner]
num_candidates = 4
num_elites = 2
num_iterations = 1
[gcbc]
num_steps = 3
batch_size = 4
"""
QUICK = {"num_steps": 6, "batch_size": 4, "hidden_width": 16, "log_every_steps": 1, "checkpoint_every_steps": 2}
SETTINGS: dict[str, PolicyConfig] = {"gcbc": GcbcConfig(**QUICK), "gciql": GciqlConfig(**QUICK)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Data of two-room, a world model's run and a policy's, made by the commands that a user types."""
    root = tmp_path_factory.mktemp("policies")
    (root / "tiny.toml").write_text(TINY)
    (root / "model.toml").write_text(TINY.partition("[gcbc]")[0])
    assert main(["collect", "two-room", "--out", f"{root}/data", "--episodes", "24", "--max-env-steps", "30", "--env-option", "size_px=32"]) == 0
    assert main(["train", "--data", f"{root}/data", "--out", f"{root}/model", "--config", f"{root}/model.toml"]) == 0
    assert main(["train", "--policy", "gcbc", "--data", f"{root}/data", "--out", f"{root}/run", "--config", f"{root}/tiny.toml"]) == 0
    for name in ("model", "run"):
        words = ["--episodes", "3", "--strata", "same-room", "--json", f"{root}/{name}/results/success.json"]
        assert main(["eval", "success", f"{root}/{name}", *words]) == 0
    return root


def refuse(capsys, *words: str) -> str:
    """Run a command that must fail with exit code 1, and return its one sentence."""
    assert main(list(words)) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


class StopsAt:
    """A watcher who presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, step: int, num_steps: int, values: dict[str, float]) -> None:
        if step == self.step:
            raise KeyboardInterrupt

    def message(self, text: str) -> None:
        """Nothing to say it to."""

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("name", ["gcbc", "gciql"])
def test_an_interrupted_run_that_is_resumed_equals_an_uninterrupted_one_bit_for_bit(name, small, continuous_walks, tmp_path):
    settings = SETTINGS[name]
    train_policy(name, small, settings, data=continuous_walks.path, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_policy(name, small, settings, data=continuous_walks.path, out=tmp_path / "halves", progress=lambda: StopsAt(4))
    train_policy(name, small, settings, data=continuous_walks.path, out=tmp_path / "halves", resume=True)
    weights = [load_policy_checkpoint(tmp_path / run).model.state_dict() for run in ("whole", "halves")]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
    losses = [[(line["step"], line["loss"]) for line in read_metrics(tmp_path / run)] for run in ("whole", "halves")]
    assert losses[0] == losses[1]


def test_a_run_is_resumed_with_its_own_settings(place, capsys):
    shutil.copytree(place / "run", place / "again")
    shutil.rmtree(next((place / "again" / "checkpoints").iterdir()))
    assert main(["train", "--policy", "gcbc", "--data", f"{place}/data", "--out", f"{place}/again", "--resume"]) == 0
    runs = [load_policy_checkpoint(place / name) for name in ("run", "again")]
    assert runs[0].settings == runs[1].settings
    assert all(torch.equal(tensor, runs[1].model.state_dict()[name]) for name, tensor in runs[0].model.state_dict().items())


def test_other_settings_and_other_data_are_not_resumed(small, continuous_walks, discrete_walks, tmp_path):
    train_policy("gcbc", small, SETTINGS["gcbc"], data=continuous_walks.path, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--resume with gcbc.hidden_width = 8, but the run was started with 16"):
        train_policy("gcbc", small, GcbcConfig(**QUICK | {"hidden_width": 8}), data=continuous_walks.path, out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="--resume --policy gciql, but the run is one of gcbc"):
        train_policy("gciql", small, SETTINGS["gciql"], data=continuous_walks.path, out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"--resume with dataset .*, but the run was started with"):
        train_policy("gcbc", small, SETTINGS["gcbc"], data=discrete_walks.path, out=tmp_path / "run", resume=True)


def test_training_stops_where_the_loss_is_no_number(small, continuous_walks, tmp_path):
    shutil.copytree(continuous_walks.path, tmp_path / "data")
    for file in (tmp_path / "data" / "shards").glob("*/actions.npy"):
        actions = np.load(file)
        header = file.stat().st_size - actions.nbytes
        file.write_bytes(file.read_bytes()[:header] + np.full_like(actions, np.nan).tobytes())
    with pytest.raises(TrainingError, match=r"the loss is nan at step 0 .*; no checkpoint was written yet; lower gcbc.learning_rate"):
        train_policy("gcbc", small, SETTINGS["gcbc"], data=tmp_path / "data", out=tmp_path / "run")


def test_the_targets_are_saved_and_come_back(small, continuous_walks, tmp_path):
    train_policy("gciql", small, SETTINGS["gciql"], data=continuous_walks.path, out=tmp_path / "run")
    model = load_policy_checkpoint(tmp_path / "run").model
    critic, target = (networks.state_dict()["0.output.bias"] for networks in (model.critics, model.target_critics))
    assert 0 < float((critic - target).abs()) < 0.1
    assert not any(parameter.requires_grad for parameter in model.target_critics.parameters())


def test_an_agent_acts_the_same_alone_as_among_others_and_looks_only_when_it_decides(place):
    checkpoint = load_policy_checkpoint(place / "run")
    agent, generator = LearnedAgent(checkpoint.model), np.random.default_rng(0)
    frames = [Observation(generator.integers(0, 256, (3, 1, 32, 32, 3), dtype=np.uint8)) for _ in range(12)]

    def act(rows: slice) -> np.ndarray:
        state = agent.reset(frames[0][rows], range(len(frames[0].frames[rows])))
        actions = []
        for step in range(1, 12):
            assert agent.needs_frame(state) == ((step - 1) % 5 == 0)
            found, state = agent.act(frames[step][rows] if agent.needs_frame(state) else None, state)
            actions.append(found)
        return np.stack(actions)

    together, alone = act(slice(None)), act(slice(1, 2))
    np.testing.assert_allclose(together[:, 1:2], alone, atol=1e-6)
    assert (np.abs(together) <= 1).all()


def test_the_agent_of_a_policys_run_is_loaded_as_any_runs_is_but_does_not_plan(place):
    assert isinstance(lewm.load_policy(place / "run"), LearnedAgent)
    with pytest.raises(ConfigError, match="which does not plan"):
        lewm.load_policy(place / "run", planner=load_preset("laptop").planner)


def test_stacked_frames_and_discrete_actions_are_taken_too(small, discrete_walks, tmp_path):
    config = replace(small, data=replace(small.data, stack_offsets_env_steps=(-1, 0), action_block=2))
    train_policy("gciql", config, SETTINGS["gciql"], data=discrete_walks.path, out=tmp_path / "run")
    result = evaluate(tmp_path / "run", distances=(4,), episodes=4, strata=["near"], num_latency_episodes=1)
    assert result["planner"]["policy_options"]["action_block"] == 2
    assert result["plan_ms"]["num_calls"] > 0


def test_a_result_names_the_method_and_its_latency_and_can_be_verified(place, capsys):
    file = place / "run" / "results" / "success.json"
    result = json.loads(file.read_text())
    assert result["planner"]["policy"] == "gcbc"
    assert result["planner"]["policy_options"]["action_block"] == 5
    assert result["plan_ms"]["p50"] > 0
    assert result["plan_ms"]["single_episode"]["num_calls"] == 3
    assert result["checkpoint_sha256"] == load_policy_checkpoint(place / "run").sha256
    assert result["dataset_sha256"] == EpisodeStore(place / "data").dataset_sha256
    assert result["num_training_episodes"] == 24
    assert main(["verify", str(file)]) == 0


def test_a_policy_is_compared_with_a_world_model_on_the_same_pairs(place, capsys):
    assert main(["compare", f"{place}/model", f"{place}/run", "--json", f"{place}/compared.json"]) == 0
    methods = json.loads((place / "compared.json").read_text())["comparisons"][0]["by_distance"]["25"]["same-room"]["methods"]
    assert set(methods) == {"model", "run"}


def test_a_run_describes_itself(place, capsys):
    assert main(["info", f"{place}/run", "--json", f"{place}/info.json"]) == 0
    about = json.loads((place / "info.json").read_text())
    assert about["policy"]["name"] == "gcbc"
    assert about["policy"]["settings"]["num_steps"] == 3
    assert about["num_training_episodes"] == 24
    assert "predictor" not in about["config"]


@pytest.mark.parametrize(
    "words",
    [
        "eval probe {run} --data {data}",
        "eval collapse {run} --data {data}",
        "eval robustness {run}",
        "plan {run} --data {data} --start 0:0 --goal 0:5",
        "train --from {run} --data {data} --out {out}",
        "train --from {run} --stage decoder --data {data} --out {out}",
        "collect two-room --policy {run} --out {out} --episodes 2 --env-option size_px=32",
        "report {run}",
    ],
)
def test_what_needs_a_world_model_says_that_this_is_a_policy(words, place, tmp_path, capsys):
    filled = words.format(run=place / "run", data=place / "data", out=tmp_path / "out")
    message = refuse(capsys, *filled.split())
    assert "holds a learned policy (gcbc), and this needs a world model" in message
    assert "is for `lewm eval success`, `lewm verify`, `lewm compare` and `lewm info`" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval success {run} --planner.num-candidates 40", "which does not plan: leave the planner's settings"),
        ("eval success {run} --data {data}", "leave --data out, or name the --protocol whose pairs are its rows"),
        ("train --policy gcbc --gciql.expectile 0.8 --data {data} --out {out}", "--gciql.expectile is a setting of policy 'gciql'"),
        ("train --policy gcbc --data {data} --out {run}", "already holds a run; continue it with --resume or choose another --out"),
        ("train --policy gcbc --gcbc.action-block 31 --data {data} --out {out} --config {tiny}", "a decision takes 31; give a smaller action"),
        ("train --policy gcbc --gcbc.batch-size 1 --data {data} --out {out}", "batch_size must be at least 2"),
    ],
)
def test_what_a_policy_has_not_is_refused(words, message, place, tmp_path, capsys):
    filled = words.format(run=place / "run", data=place / "data", out=tmp_path / "out", tiny=place / "tiny.toml")
    assert message in refuse(capsys, *filled.split())
    assert not (tmp_path / "out").exists()


def test_a_world_model_is_no_policy(place):
    with pytest.raises(CheckpointError, match="holds a world model, not a learned policy; `lewm train --policy gcbc` makes one"):
        load_policy_checkpoint(place / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": {"name": "gcbd", "settings": {}}}, "unknown learned policy 'gcbd'. Did you mean 'gcbc'"),
        ({"policy": {"name": "gcbc", "settings": {"width": 3}}}, r"unknown setting gcbc\.width"),
        ({"policy": 3}, "incomplete or malformed config.json"),
        ({"policy": {"name": "gcbc", "settings": {"hidden_width": 99}}}, "do not fit the configuration beside them"),
    ],
)
def test_a_changed_description_is_refused(change, message, place, tmp_path):
    directory = shutil.copytree(load_policy_checkpoint(place / "run").path, tmp_path / "changed")
    description = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(description | change))
    with pytest.raises(CheckpointError, match=message):
        load_policy_checkpoint(directory)


def test_the_encoder_is_a_world_models_and_so_is_what_is_kept_of_the_settings(place):
    from lewm.checkpoint import load_checkpoint

    model, policy = load_checkpoint(place / "model").model, load_policy_checkpoint(place / "run").model
    assert isinstance(policy, LearnedPolicy)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name.startswith(("encoder.", "projector.", "pixel_"))}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in policy.encoder.state_dict().items()}


def test_a_dataset_that_is_none_is_refused(small, tmp_path):
    with pytest.raises(DataError, match="there is no dataset at"):
        train_policy("gcbc", small, data=tmp_path / "nothing", out=tmp_path / "run")
