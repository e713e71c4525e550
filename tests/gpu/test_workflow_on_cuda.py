"""Everything that a user types with a device, on a GPU: training of every kind, agents and measurements."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lewm.checkpoint import list_checkpoints, load_checkpoint
from lewm.cli import main
from lewm.config import Config
from lewm.config_files import from_dict, to_toml
from lewm.data.collect import collect
from lewm.registry import OBJECTIVES
from lewm.run_directory import read_metrics
from lewm.training import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = "cuda"
PAIRS = ("--episodes", "3", "--distances", "8", "--strata", "same-room")


@pytest.fixture(scope="module")
def config() -> Config:
    return from_dict(
        {
            "data": {"action_block": 2, "validation_fraction": 0.3},
            "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
            "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 16},
            "predictor": {"width": 32, "num_layers": 1, "num_heads": 2, "head_width": 16, "mlp_width": 32, "dropout": 0.0},
            "objective": {"num_directions": 32},
            "train": {"num_steps": 4, "batch_size": 8, "learning_rate": 1e-3, "log_every_steps": 1, "monitor_every_steps": 2, "device": DEVICE},
            "planner": {"num_candidates": 8, "num_elites": 2, "num_iterations": 2, "horizon_model_steps": 2, "replan_every_model_steps": 1},
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuda") / "data"
    collect("two-room", path, episodes=40, max_env_steps=30, env_options={"size_px": 32})
    return path


@pytest.fixture(scope="module")
def run(config: Config, data: Path) -> Path:
    return train(config, data=data, out=data.parent / "run")


def change(config: Config, **settings: object) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run) if "loss" in line]


def test_training_starts_where_it_starts_on_the_cpu(config: Config, data: Path, run: Path, tmp_path: Path) -> None:
    train(change(config, device="cpu"), data=data, out=tmp_path / "cpu")
    assert losses(run)[0] == pytest.approx(losses(tmp_path / "cpu")[0], rel=1e-3)


@pytest.mark.parametrize("settings", [{"precision": "bf16-mixed"}, {"pixel_noise_std": 0.01}], ids=str)
def test_training_runs_with_settings_that_a_gpu_is_used_with(config: Config, data: Path, run: Path, tmp_path: Path, settings: dict) -> None:
    train(change(config, **settings), data=data, out=tmp_path / "run")
    assert losses(tmp_path / "run")[0] == pytest.approx(losses(run)[0], rel=0.05)


def test_compiled_training_runs(config: Config, data: Path, run: Path, tmp_path: Path) -> None:
    """In a process of its own: the checks of shapes while testing cannot be compiled."""
    (tmp_path / "config.toml").write_text(to_toml(change(config, use_compile=True)))
    words = ("train", "--config", str(tmp_path / "config.toml"), "--data", str(data), "--out", str(tmp_path / "run"))
    subprocess.run([sys.executable, "-m", "lewm.cli", *words], check=True, timeout=300)
    assert losses(tmp_path / "run")[0] == pytest.approx(losses(run)[0], rel=1e-3)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_trains(name: str, config: Config, data: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(config, objective=dataclasses.replace(config.objective, name=name))
    train(change(settings, num_steps=2), data=data, out=tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").step == 2


def test_a_run_of_the_cpu_goes_on_on_a_gpu(config: Config, data: Path, tmp_path: Path) -> None:
    config = change(config, checkpoint_every_steps=2)
    train(change(config, device="cpu"), data=data, out=tmp_path / "run")
    shutil.rmtree(list_checkpoints(tmp_path / "run")[-1])
    train(config, data=data, out=tmp_path / "run", resume=True)
    assert load_checkpoint(tmp_path / "run", DEVICE).step == 4


@pytest.fixture(scope="module")
def with_heads(data: Path, run: Path) -> Path:
    """The run with every head, each trained on the device."""
    for stage in ("decoder", "inverse-goal", "intent", "distance"):
        out, quick = data.parent / f"with-{stage}", (f"--{stage}.num-steps", "2", f"--{stage}.batch-size", "8", f"--{stage}.device", DEVICE)
        spans = ("--intent.spans-env-steps", "4", "8") if stage == "intent" else ()
        assert main(["train", "--from", str(run), "--stage", stage, "--data", str(data), "--out", str(out), *quick, *spans]) == 0
        run = out
    return run


@pytest.mark.parametrize(
    "planner",
    [
        ("cem",),
        ("icem",),
        ("gradient", "--planner.num-iterations", "2"),
        ("cem", "--planner.distance", "distance"),
        ("direct", "--planner.proposals", "intent"),
        ("direct", "--planner.proposals", "inverse-goal"),
        ("guarded", "--planner.proposals", "intent", "--planner.guard-num-candidates", "8"),
        ("direct", "--planner.proposals", "retrieval"),
        ("landmarks", "--planner.num-landmarks", "20"),
    ],
    ids=" ".join,
)
def test_agents_act(planner: tuple[str, ...], with_heads: Path, data: Path, tmp_path: Path) -> None:
    needs_data = "retrieval" in planner or "landmarks" in planner
    words = (*PAIRS, "--device", DEVICE, "--planner.name", *planner, *(("--data", str(data)) if needs_data else ()))
    assert main(["eval", "success", str(with_heads), *words, "--json", str(tmp_path / "result.json")]) == 0
    assert len(json.loads((tmp_path / "result.json").read_text())["episodes"]) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("probe", "--data", "DATA"),
        ("collapse", "--data", "DATA", "--num-clips", "16"),
        ("surprise", "--data", "DATA", "--num-clips", "16"),
        ("reconstruction", "--data", "DATA", "--num-clips", "16"),
        ("robustness", "--data", "DATA", "--perturbations", "door_y_px", "--corruptions", "noise", "--severities", "1", *PAIRS),
        ("why", "--data", "DATA", "--distance", "8", "--episodes", "6", "--pairs", "2", "--strata", "same-room"),
    ],
    ids=lambda words: words[0],
)
def test_measurements_run(words: tuple[str, ...], with_heads: Path, data: Path, tmp_path: Path) -> None:
    words = tuple(str(data) if word == "DATA" else word for word in words)
    assert main(["eval", words[0], str(with_heads), *words[1:], "--device", DEVICE, "--json", str(tmp_path / "result.json")]) == 0


def test_a_single_plan_is_made_with_its_film(with_heads: Path, data: Path, tmp_path: Path) -> None:
    rows = ("--data", str(data), "--start", "0:0", "--goal", "0:10")
    assert main(["plan", str(with_heads), *rows, "--device", DEVICE, "--json", str(tmp_path / "plan.json")]) == 0


@pytest.mark.parametrize("policy", ["gcbc", "gciql"])
def test_learned_policies_learn_and_act(policy: str, config: Config, data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(config))
    quick = (f"--{policy}.num-steps", "2", f"--{policy}.batch-size", "8", f"--{policy}.device", DEVICE)
    words = ("--policy", policy, "--config", str(tmp_path / "config.toml"), "--data", str(data), "--out", str(tmp_path / "run"))
    assert main(["train", *words, *quick]) == 0
    assert main(["eval", "success", str(tmp_path / "run"), *PAIRS, "--device", DEVICE]) == 0
