"""A small dataset and a small configuration that trains in seconds."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lewm.config import Config
from lewm.config_files import from_dict
from lewm.data.collect import collect


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "two-room"
    collect("two-room", path, episodes=40, max_env_steps=40, env_options={"size_px": 32})
    return path


@pytest.fixture(scope="session")
def tiny() -> Config:
    return from_dict(
        {
            "encoder": {"name": "conv", "channels": [8, 16], "kernel_sizes": [8, 4], "strides": [4, 2]},
            "model": {"latent_dimension": 16, "projector_width": 32, "action_embedding_width": 16},
            "predictor": {"width": 32, "num_layers": 1, "num_heads": 2, "head_width": 16, "mlp_width": 32, "dropout": 0.1},
            "objective": {"num_directions": 32},
            "train": {
                "num_steps": 12,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "log_every_steps": 1,
                "monitor_every_steps": 4,
                "checkpoint_every_steps": 4,
            },
            "planner": {"num_candidates": 8, "num_elites": 2, "num_iterations": 1},
        }
    )


@pytest.fixture
def with_train():
    """The configuration with other training settings."""

    def change(config: Config, **settings) -> Config:
        return dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))

    return change


@pytest.fixture(autouse=True)
def one_thread():
    """Bit-for-bit statements hold for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
