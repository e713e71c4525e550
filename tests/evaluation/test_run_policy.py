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
from lewm.data.episodes import EpisodeStore
from lewm.data.policies import scripted_policy
from lewm.envs.base import make_batch
from lewm.envs.two_room.env import TwoRoom
from lewm.errors import CheckpointError, ConfigError, DataError, EnvError
from lewm.evaluation.run_policy import GOAL_NAMESPACE, RunPolicy
from lewm.evaluation.workflow import load_policy
from lewm.seeds import episode_seed
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
    seeds = [1, 2, 3, 4, 5, 6]
    without, some = (roll(RunPolicy(path=str(run), action_noise=share), seeds, 60) for share in (0.0, 0.2))
    random = roll(scripted_policy("two-room", "random"), seeds, 60)
    is_random = (some == random).all(-1)
    assert not (without == random).all(-1).any()
    assert 0.14 < is_random.mean() < 0.26  # 360 draws: the standard deviation is 0.021
    assert len({tuple(row) for row in is_random.tolist()}) == len(seeds), "each episode has noise of its own"
    first_block = ~is_random[:, :5]  # later plans see what the noise did
    np.testing.assert_array_equal(some[:, :5][first_block], without[:, :5][first_block])
    np.testing.assert_array_equal(
        roll(RunPolicy(path=str(run), action_noise=1.0), [1, 2], 30), roll(scripted_policy("two-room", "random"), [1, 2], 30)
    )


def test_new_goals_are_the_starts_of_other_episodes_set_in_time_and_move_nobody(run: Path) -> None:
    seeds = [5, 6]
    envs, others = (make_batch("two-room", 2, **OPTIONS) for _ in range(2))
    envs.reset(seeds)
    policy = RunPolicy(path=str(run), new_goal_env_steps=4)
    policy.reset(envs, seeds, 9)
    goals = []
    for _ in range(9):
        states = envs.labels()
        actions = policy.act(envs)
        np.testing.assert_array_equal(envs.labels(), states)
        envs.step(actions)
        goals.append(envs.observe_goals().frames)
    changes = [(one != other).any((1, 2, 3, 4)).tolist() for one, other in pairwise(goals)]
    assert changes == [[step in (3, 7)] * 2 for step in range(8)]
    for env_step in (4, 8):
        others.reset([episode_seed(GOAL_NAMESPACE, seed, env_step) for seed in seeds])
        others.set_goals(others.get_states())
        np.testing.assert_array_equal(goals[env_step], others.observe_goals().frames)


def test_every_new_goal_is_planned_for_at_once_and_with_noise_of_its_own(run: Path) -> None:
    envs = make_batch("two-room", 1, **OPTIONS)
    envs.reset([5])
    policy, agent = RunPolicy(path=str(run), new_goal_env_steps=4), load_policy(run)
    policy.reset(envs, [5], 9)
    for _ in range(4):
        envs.step(policy.act(envs))
    action, observations = policy.act(envs), envs.observe()  # in the middle of a block of 5
    fresh, again = (agent.act(observations, agent.reset(envs.observe_goals(), [seed]))[0] for seed in (episode_seed("run-policy", 5, 4), 5))
    np.testing.assert_allclose(action, fresh, atol=1e-6)
    assert np.abs(action - again).max() > 1e-3


def test_where_labels_decide_the_policy_needs_the_training_set_and_names_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TwoRoom, "GOAL_COST", "labels")
    with pytest.raises(ConfigError, match=r"give --policy-option data=DIR \(the training set\)$"):
        RunPolicy(path=str(run))
    data = run.parent / "data"
    options = RunPolicy(path=str(run), data=str(data)).identity()["options"]
    assert options["data_sha256"] == EpisodeStore(data).dataset_sha256
    assert RunPolicy(**options).identity()["options"] == options
    with pytest.raises(DataError, match=r"dataset '.*' has SHA-256 .* not 0123; use the one that the collection was begun with"):
        RunPolicy(**(options | {"data_sha256": "0123"}))


def test_another_world_with_the_same_frames_and_actions_is_refused(run: Path) -> None:
    envs: Any = make_batch("two-room", 1, **OPTIONS)
    envs.reset([1])
    envs.name = "three-room"
    with pytest.raises(EnvError, match="was trained in env 'two-room', this world is 'three-room': collect in the run's own"):
        RunPolicy(path=str(run)).reset(envs, [1], 5)


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
