"""Little datasets that the tests of the data stage share.

Axes: N env step, Y X image.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lewm.data.layout import DatasetMeta
from lewm.registry import ENVS, Entry
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

if "toy-walk" not in ENVS:
    ENVS.add("toy-walk", Entry(target="toy_world:ToyWalk", summary="the tests' own world"))


@pytest.fixture
def meta() -> DatasetMeta:
    """Of a dataset whose episodes ``new_episode`` makes."""
    return DatasetMeta(
        observation_spec=ObservationSpec(height_px=6, width_px=7),
        action_spec=ActionSpec(kind="continuous", low=(-1.0, -2.0), high=(1.0, 2.0)),
        label_names=("episode", "env_step"),
        has_rewards=True,
        env={"name": "made-up", "version": 1, "options": {}},
        episodes_per_shard=3,
    )


@pytest.fixture
def new_episode() -> Callable[..., Episode]:
    """Makes episode ``number``, whose labels say (number, env step), whose frames begin with those two bytes, and whose rewards are its env steps."""

    def make(number: int, num_env_steps: int = 12) -> Episode:
        generator = np.random.default_rng(number)
        frames = generator.integers(0, 256, (num_env_steps + 1, 1, 6, 7, 3), dtype=np.uint8)
        frames[:, 0, 0, 0, 0] = number
        frames[:, 0, 0, 0, 1] = np.arange(num_env_steps + 1)
        labels = np.stack([np.full(num_env_steps + 1, number), np.arange(num_env_steps + 1)], -1).astype(np.float32)
        actions = generator.uniform(-1, 1, (num_env_steps, 2)).astype(np.float32)
        return Episode(
            observations=Observation(frames), actions=actions, labels=labels, rewards=np.arange(num_env_steps, dtype=np.float32), seed=number
        )

    return make


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """At most 64 files beside those that this process has open already."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64 + len(os.listdir("/dev/fd")), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
