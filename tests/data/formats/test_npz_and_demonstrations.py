"""OGBench's archives and robomimic's demonstrations, written as their libraries lay them out."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ogbench.utils import load_dataset
from recordings import damage, read_all

from lewm.data.clips import ClipSampler
from lewm.data.convert import convert
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.store import open_store
from lewm.errors import ConfigError, DataError

LENGTHS = (4, 6, 3)
"""Rows of the episodes of ``archive``."""


def archive(path: Path, *, is_compressed: bool = False, **changes: Any) -> Path:
    rows, rng = sum(LENGTHS), np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "observations": rng.integers(0, 256, (rows, 10, 12, 3), np.uint8),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "terminals": np.isin(np.arange(rows), np.cumsum(LENGTHS) - 1).astype(np.float32),
        "qpos": rng.standard_normal((rows, 2)),
    }
    (np.savez_compressed if is_compressed else np.savez)(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


@pytest.mark.parametrize("is_compressed", [False, True])
def test_transitions_are_those_that_ogbench_itself_makes_of_the_file(tmp_path: Path, is_compressed: bool) -> None:
    path = archive(tmp_path / "visual.npz", is_compressed=is_compressed)
    store, theirs = open_store(path), load_dataset(path, ob_dtype=np.uint8)
    episodes = [store.episode(number) for number in range(3)]
    np.testing.assert_array_equal(np.concatenate([episode.observations.frames[:-1, 0] for episode in episodes]), theirs["observations"])
    np.testing.assert_array_equal(np.concatenate([episode.observations.frames[1:, 0] for episode in episodes]), theirs["next_observations"])
    np.testing.assert_array_equal(np.concatenate([episode.actions for episode in episodes]), theirs["actions"])
    assert store.label_names == ("qpos_0", "qpos_1")
    assert store.index["length"].tolist() == [3, 5, 2]


def test_an_archive_becomes_a_native_dataset_and_gives_the_same_clips(tmp_path: Path) -> None:
    path = archive(tmp_path / "visual.npz")
    convert(path, tmp_path / "native")
    settings: dict[str, Any] = {"num_transitions": 1, "action_block": 2, "episode_ids": np.arange(3), "batch_size": 4, "seed": 0}
    one, other = (ClipSampler(store, **settings).batch(1) for store in (open_store(path), EpisodeStore(tmp_path / "native")))
    np.testing.assert_array_equal(one.observations.frames, other.observations.frames)
    np.testing.assert_array_equal(one.blocks, other.blocks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"observations": np.zeros((13, 29), np.float32)},
            "has observations of float32 .*, not pictures: use a dataset whose name begins with visual-",
        ),
        ({"observations": np.zeros((12, 10, 12, 3), np.uint8)}, "observations has 12 rows and terminals 13"),
        ({"actions": np.zeros(13, np.float32)}, "are no rows of numbers"),
        ({"terminals": np.zeros(13, np.float32)}, "its last episode does not end"),
        ({"qpos": np.full((13, 2), np.nan)}, "qpos must be finite numbers"),
        ({"actions": np.full((13, 2), np.nan, np.float32)}, r"episode 0: the action of env step 0 is \[nan, nan\]"),
        ({"actions": np.array([{}] * 13)}, "Object arrays cannot be loaded when allow_pickle=False"),
        ({"observations": np.array([{}] * 13)}, "observations is not a plain array"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_store(archive(tmp_path / "visual.npz", **changes))


@pytest.mark.parametrize("seed", range(15))
def test_a_cut_archive_is_refused(tmp_path: Path, seed: int) -> None:
    path = archive(tmp_path / "visual.npz", is_compressed=seed % 2 == 1)
    damage(path, seed=3 * seed)  # every third seed cuts
    assert isinstance(read_all(path), str)


def demonstrations(path: Path, **changes: Any) -> Path:
    """Three demonstrations of 5, 2 and 7 rows; ``changes`` are arrays of the second, None leaves one out."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number, rows in ((0, 5), (10, 2), (2, 7)):
            arrays: dict[str, Any] = {
                "actions": rng.uniform(-1, 1, (rows, 3)),
                "states": rng.standard_normal((rows, 4)),
                "rewards": np.arange(rows, dtype=np.float64),
                "dones": np.arange(rows) == rows - 2,
                "obs/agentview_image": rng.integers(0, 256, (rows, 8, 6, 3), np.uint8),
                "obs/robot0_eef_pos": rng.standard_normal((rows, 2)),
            }
            for name, values in (arrays | (changes if number == 10 else {})).items():
                if values is not None:
                    file[f"data/demo_{number}/{name}"] = values
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])
    return path


def test_demonstrations_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    store = open_store(demonstrations(tmp_path / "demo.hdf5"))
    assert store.meta.provenance["format"] == "robomimic"
    assert store.index["length"].tolist() == [4, 6, 1]
    assert store.index["terminated"].tolist() == [True, True, True]
    assert store.observation_spec.cameras == ("agentview",)
    assert store.observation_spec.proprioception == ("robot0_eef_pos_0", "robot0_eef_pos_1")
    with h5py.File(tmp_path / "demo.hdf5", locking=False) as file:
        episode, demo = store.episode(1), file["data/demo_2"]
        np.testing.assert_array_equal(episode.observations.frames[:, 0], demo["obs/agentview_image"])
        np.testing.assert_array_equal(episode.actions, demo["actions"][:6].astype(np.float32))
        np.testing.assert_array_equal(episode.labels, demo["states"][:].astype(np.float32))
        np.testing.assert_array_equal(episode.rewards, np.arange(6))
    assert store.episode(2).provenance == {"source": "demo.hdf5", "demonstration": "demo_10"}
    convert(tmp_path / "demo.hdf5", tmp_path / "native")
    assert len(EpisodeStore(tmp_path / "native")) == 3


def test_a_filter_key_chooses_demonstrations(tmp_path: Path) -> None:
    path = demonstrations(tmp_path / "demo.hdf5")
    assert open_store(path, options={"filter_key": "train"}).index["length"].tolist() == [4, 6]
    with pytest.raises(ConfigError, match=r"has no filter key 'trian'\. Did you mean 'train'\?"):
        open_store(path, options={"filter_key": "trian"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs/agentview_image": None}, "obs/agentview_image of demo_10 should have 2 rows .*, got nothing"),
        ({"obs/agentview_image": np.zeros((2, 9, 6, 3), np.uint8)}, "obs/agentview_image of demo_10 should have 2 rows"),
        ({"states": np.zeros((3, 4))}, r"states of demo_10 should have 2 rows \[4\] as in demo_0, got float64 \[3, 4\]"),
        ({"actions": np.full((2, 3), np.inf)}, "demo_10: the action of env step 0 is"),
    ],
)
def test_demonstrations_that_do_not_match_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_store(demonstrations(tmp_path / "demo.hdf5", **changes))


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_file_of_demonstrations_is_refused_or_reads_as_it_was(tmp_path: Path, seed: int) -> None:
    path = demonstrations(tmp_path / "demo.hdf5")
    before = read_all(path)
    damage(path, seed=3 * seed)
    found = read_all(path)
    assert isinstance(found, str) or np.array_equal(found[1][0].observations.frames, before[1][0].observations.frames)
