"""A recorded toy world, whose frames spell out where and when they were taken, and small settings."""

from pathlib import Path

import pytest
import torch

from lewm.config import Config
from lewm.config_files import from_dict
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore
from lewm.registry import ENVS, Entry

if "toy-walk" not in ENVS:
    ENVS.add("toy-walk", Entry(target="toy_world:ToyWalk", summary="the tests' own world"))

SIZE_PX = 8


def walks(path: Path, kind: str, episodes: int = 80) -> EpisodeStore:
    """Random walks along sixteen places."""
    collect("toy-walk", path, episodes=episodes, max_env_steps=30, env_options={"kind": kind, "size_px": SIZE_PX}, policy="random")
    return EpisodeStore(path)


@pytest.fixture(scope="session")
def discrete_walks(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return walks(tmp_path_factory.mktemp("walks") / "discrete", "discrete")


@pytest.fixture(scope="session")
def continuous_walks(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return walks(tmp_path_factory.mktemp("walks") / "continuous", "continuous")


@pytest.fixture(scope="session")
def small() -> Config:
    return from_dict(
        {
            "data": {"action_block": 1},
            "encoder": {"name": "conv", "channels": [8], "kernel_sizes": [4], "strides": [4]},
            "model": {"latent_dimension": 8, "projector_width": 16},
        }
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Bit-for-bit statements hold for a fixed number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
