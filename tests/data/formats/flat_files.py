"""Episodes that the tests of flat formats write and expect back, and what is the same for each of those formats.

Axes: n row, Y X image.
"""

from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.clips import ClipSampler
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.hdf5 import Hdf5Format
from lewm.data.formats.store import ForeignStore
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.schema import Episode, Observation

FIXTURES = Path(__file__).parent / "fixtures"


def assert_same_episode(found: Episode, expected: Episode) -> None:
    """Every array that is there is equal."""
    np.testing.assert_array_equal(found.observations.frames, expected.observations.frames)
    np.testing.assert_array_equal(found.observations.proprioception, expected.observations.proprioception)
    for name in ("actions", "labels", "rewards"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.terminated == expected.terminated


def as_native(store: ForeignStore, path: Path) -> EpisodeStore:
    """The same episodes as a native dataset."""
    with EpisodeWriter(path, store.meta) as writer:
        for number in range(len(store)):
            writer.append(store.episode(number))
    return EpisodeStore(path)


def assert_same_clips(store: ForeignStore, native: EpisodeStore) -> None:
    """Batches of clips, with stacked frames, are the same from both."""
    options: dict[str, Any] = {"num_transitions": 1, "action_block": 2, "stack_offsets_env_steps": (-1, 0), "batch_size": 5, "seed": 3}
    samplers = [ClipSampler(each, episode_ids=each.episode_ids, **options) for each in (store, native)]
    for k in range(4):
        clips = [sampler.batch(k) for sampler in samplers]
        for name in ("blocks", "rewards", "labels", "episode", "start_env_step"):
            np.testing.assert_array_equal(getattr(clips[0], name), getattr(clips[1], name))
        np.testing.assert_array_equal(clips[0].observations.frames, clips[1].observations.frames)
        np.testing.assert_array_equal(clips[0].observations.proprioception, clips[1].observations.proprioception)


def rich_episode(number: int, num_env_steps: int = 6) -> Episode:
    """With everything that an episode can have: two cameras of 4 x 5 px, proprioception, labels, rewards, provenance."""
    generator = np.random.default_rng(number)
    rows = num_env_steps + 1
    return Episode(
        observations=Observation(generator.integers(0, 256, (rows, 2, 4, 5, 3), dtype=np.uint8), generator.random((rows, 2)).astype(np.float32)),
        actions=generator.uniform(-2, 3, (num_env_steps, 1)).astype(np.float32),
        labels=generator.random((rows, 1)).astype(np.float32),
        rewards=generator.random(num_env_steps).astype(np.float32),
        terminated=number % 2 == 1,
        provenance={"task": f"number {number}"},
    )


def write_hdf5(path: Path, meta: DatasetMeta, episodes: list[Episode], *, resume: bool = False) -> ForeignStore:
    """Episodes as a flat HDF5 file, opened."""
    with Hdf5Format.create(path, meta, resume=resume) as sink:
        for episode in episodes:
            sink.append(episode)
    return Hdf5Format.open(path)
