"""A trained run as a collecting policy."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.checkpoint import checkpoint_sha256, find_checkpoint
from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.policies import scripted_policy
from lewm.envs.base import make_batch
from lewm.errors import CheckpointError, ConfigError, EnvError
from lewm.evaluation.run_policy import RunPolicy
from lewm.training import train

OPTIONS = {"size_px": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has hardly begun to learn."""
    root = tmp_path_factory.mktemp("run-policy")
    collect("two-room", root / "data", episodes=12, max_env_steps=30, env_options=OPTIONS)
    config = from_dict(
        {
            "encoder": {"name": "conv", "channels": [4, 8], "kernel_sizes": [8, 4], "strides": [4, 2]},
            "model": {"latent_dimension": 8, "projector_width": 16, "action_embedding_width": 8},
            "predictor": {"width": 16, "num_layers": 1, "num_heads": 2, "head_width": 8, "mlp_width": 16},
            "objective": {"num_directions": 16},
            "train": {"num_steps": 2, "batch_size": 4},
            "planner": {"num_candidates": 8, "num_elites": 2, "num_iterations": 2},
        }
    )
    train(config, data=root / "data", out=root / "run")
    return root / "run"


def roll(policy: RunPolicy, seeds: list[int], num_env_steps: int) -> np.ndarray:
    """Executed actions [E, N, a]."""
    envs = make_batch("two-room", len(seeds), **OPTIONS)
    envs.reset(seeds)
    policy.reset(envs, seeds, num_env_steps)
    actions = []
    for _ in range(num_env_steps):
        actions.append(policy.act(envs))
        envs.step(actions[-1])
    return np.stack(actions, axis=1)


def test_an_episodes_actions_are_the_same_bit_for_bit_whoever_its_batch_mates_are(run: Path) -> None:
    together = roll(RunPolicy(path=str(run)), [1, 2, 3], 12)
    alone = roll(RunPolicy(path=str(run)), [2], 12)
    np.testing.assert_array_equal(together[1], alone[0])
    assert (np.abs(together) <= 1).all()
    assert together.std() > 0.01


def test_noise_replaces_the_given_share_of_the_actions(run: Path) -> None:
    without, some = (roll(RunPolicy(path=str(run), action_noise=share), [1, 2], 30) for share in (0.0, 0.5))
    first_block = (without == some).all(-1)[:, :5]  # later plans see what the noise did
    assert 0.1 < first_block.mean() < 0.9
    np.testing.assert_array_equal(
        roll(RunPolicy(path=str(run), action_noise=1.0), [1, 2], 30), roll(scripted_policy("two-room", "random"), [1, 2], 30)
    )


def test_new_goals_are_set_in_time_and_move_nobody(run: Path) -> None:
    envs = make_batch("two-room", 2, **OPTIONS)
    envs.reset([5, 6])
    policy = RunPolicy(path=str(run), new_goal_env_steps=4)
    policy.reset(envs, [5, 6], 9)
    goals, labels = [], []
    for _ in range(9):
        before = envs.labels()
        actions = policy.act(envs)
        np.testing.assert_array_equal(envs.labels(), before)
        envs.step(actions)
        goals.append(envs.observe_goals().frames)
        labels.append(envs.labels())
    changes = [bool((one != other).any()) for one, other in pairwise(goals)]
    assert changes == [False, False, False, True, False, False, False, True]
    assert np.isfinite(labels).all()


def test_a_dataset_says_which_checkpoint_acted(run: Path, tmp_path: Path) -> None:
    collect("two-room", tmp_path / "a", episodes=2, max_env_steps=12, env_options=OPTIONS, policy=str(run))
    checkpoint = find_checkpoint(run)
    policy = json.loads((tmp_path / "a/meta.json").read_text())["policy"]
    assert policy["name"] == "run"
    assert policy["options"]["path"] == str(checkpoint)
    assert policy["options"]["checkpoint_sha256"] == checkpoint_sha256(checkpoint)


@pytest.mark.slow
def test_workers_change_no_byte_of_what_a_run_collects(run: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"episodes": 4, "max_env_steps": 12, "env_options": OPTIONS, "policy": str(run)}
    one = collect("two-room", tmp_path / "a", **settings)
    two = collect("two-room", tmp_path / "b", workers=2, batch_size=1, **settings)
    assert one.dataset_sha256 == two.dataset_sha256


def test_what_the_run_cannot_do_is_refused(run: Path) -> None:
    policy = RunPolicy(path=str(run))
    envs = make_batch("two-room", 1, size_px=48)
    envs.reset([1])
    with pytest.raises(EnvError, match=r"was trained on 32 x 32 px of .* this world has 48 x 48 px"):
        policy.reset(envs, [1], 5)
    with pytest.raises(EnvError, match=r"action_noise must be a share in \[0, 1\], got 2"):
        RunPolicy(path=str(run), action_noise=2)
    with pytest.raises(EnvError, match="new_goal_env_steps must be at least 1, got 0"):
        RunPolicy(path=str(run), new_goal_env_steps=0)
    with pytest.raises(CheckpointError, match=r"has SHA-256 .* not 0123; use the one that the collection was begun with"):
        RunPolicy(path=str(run), checkpoint_sha256="0123")
    with pytest.raises(ConfigError, match="policy 'run' needs the directory of a run or checkpoint"):
        scripted_policy("two-room", "run")
    with pytest.raises(ConfigError, match=r"unknown option 'noise' of policy 'run'\. Did you mean 'action_noise'"):
        scripted_policy("two-room", str(run), noise=1)
