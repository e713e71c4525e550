"""HDF5 files of flat columns: the layout of le-wm and stable-worldmodel is read as it is meant, ours come back exactly, damaged ones are refused."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recordings import FULL_META, PLAIN_META, assert_same_episode, damage, make_episode, read_all

from lewm.data.clips import ClipSampler
from lewm.data.convert import convert
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.hdf5 import Hdf5Format
from lewm.data.formats.hdf5_sink import Hdf5Sink
from lewm.data.formats.store import ForeignStore, open_store
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.schema import Episode

LENGTHS = (5, 3, 8)
"""Env steps of the episodes of ``flat``."""


def flat(path: Path, **changes: Any) -> Path:
    """A file laid out as the released ones are described: three episodes, with some columns put differently, or left out if None."""
    rows = sum(LENGTHS) + len(LENGTHS)
    lengths = np.array(LENGTHS) + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    actions[offsets + lengths - 1] = np.nan
    columns: dict[str, Any] = {
        "pixels": rng.integers(0, 256, (rows, 12, 16, 3), np.uint8),
        "action": actions,
        "proprio": rng.standard_normal((rows, 2)).astype(np.float32),
        "pos_agent": rng.standard_normal((rows, 2)),
        "distance_to_target": rng.standard_normal(rows),
        "reward": np.arange(rows, dtype=np.float32),
        "terminated": np.isin(np.arange(rows), offsets[1:2] + lengths[1:2] - 1),
        "ep_idx": np.repeat(np.arange(3), lengths),
        "step_idx": np.concatenate([np.arange(length) for length in lengths]),
        "ep_len": lengths,
        "ep_offset": offsets,
    }
    with h5py.File(path, "w") as file:
        for name, values in (columns | changes).items():
            if values is not None:
                file[name] = values
    return path


def write(path: Path, meta: DatasetMeta = FULL_META, lengths: tuple[int, ...] = (3, 4, 40)) -> list[Episode]:
    episodes = [make_episode(meta, number, length) for number, length in enumerate(lengths)]
    with Hdf5Format.create(path, meta, resume=False) as sink:
        for episode in episodes:
            sink.append(episode)
    return episodes


def test_a_released_layout_is_read_as_it_is_meant(tmp_path: Path) -> None:
    store = open_store(flat(tmp_path / "data.h5"))
    assert isinstance(store, ForeignStore)
    assert store.index["length"].tolist() == list(LENGTHS)
    assert store.index["terminated"].tolist() == [False, True, False]
    assert store.observation_spec.cameras == ("pixels",)
    assert store.observation_spec.proprioception == ("proprio_0", "proprio_1")
    assert store.label_names == ("distance_to_target", "pos_agent_0", "pos_agent_1")
    with h5py.File(tmp_path / "data.h5", locking=False) as file:
        part, episode = slice(6, 10), store.episode(1)
        np.testing.assert_array_equal(episode.observations.frames[:, 0], file["pixels"][part])
        np.testing.assert_array_equal(episode.actions, file["action"][6:9])  # the last one, NaN, leads nowhere
        np.testing.assert_array_equal(episode.rewards, [7, 8, 9])  # they stand where they were reached
        np.testing.assert_array_equal(episode.labels[:, 0], file["distance_to_target"][part].astype(np.float32))
        bounds = np.nanmin(file["action"][:], axis=0), np.nanmax(file["action"][:], axis=0)
    np.testing.assert_array_equal((store.action_spec.low, store.action_spec.high), bounds)


def test_episode_numbers_do_where_there_are_no_offsets_and_options_choose_columns(tmp_path: Path) -> None:
    path = flat(tmp_path / "data.h5", ep_len=None, ep_offset=None, pixels_wrist=np.zeros((19, 12, 16), np.uint8))
    store = open_store(path, options={"frames": "pixels_wrist", "labels": "proprio", "proprioception": "pos_agent"})
    assert store.index["length"].tolist() == list(LENGTHS)
    assert store.observation_spec.cameras == ("wrist",)
    assert store.label_names == ("proprio_0", "proprio_1")
    assert store.episode(0).observations.frames.shape == (6, 1, 12, 16, 3)
    with pytest.raises(ConfigError, match="unknown option 'camera' of format 'hdf5'"):
        open_store(path, options={"camera": "top"})
    with pytest.raises(DataError, match="has no column 'depth' of frames"):
        open_store(path, options={"frames": "depth"})


@pytest.mark.parametrize("meta", [FULL_META, PLAIN_META], ids=["full", "plain"])
def test_what_is_written_comes_back_exactly(tmp_path: Path, meta: DatasetMeta) -> None:
    written = write(tmp_path / "data.h5", meta)
    store = open_store(tmp_path / "data.h5")
    assert store.meta == meta
    for number, episode in enumerate(written):
        assert_same_episode(store.episode(number), episode)


def test_clips_are_those_of_the_same_episodes_in_a_native_store(tmp_path: Path) -> None:
    write(tmp_path / "data.h5", lengths=(20, 30, 25))
    with EpisodeWriter(tmp_path / "native", FULL_META) as writer:
        for number, length in enumerate((20, 30, 25)):
            writer.append(make_episode(FULL_META, number, length))
    settings: dict[str, Any] = {"num_transitions": 3, "action_block": 2, "episode_ids": np.arange(3), "batch_size": 16, "seed": 1}
    settings["stack_offsets_env_steps"] = (-1, 0)
    clips = [ClipSampler(store, **settings).batch(0) for store in (open_store(tmp_path / "data.h5"), EpisodeStore(tmp_path / "native"))]
    np.testing.assert_array_equal(clips[0].observations.frames, clips[1].observations.frames)
    for name in ("blocks", "rewards", "labels"):
        np.testing.assert_array_equal(getattr(clips[0], name), getattr(clips[1], name))


def test_conversion_there_and_back_is_verified_and_exact(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "native", FULL_META) as writer:
        for number in range(3):
            writer.append(make_episode(FULL_META, number, 12))
    assert convert(tmp_path / "native", tmp_path / "data.h5", to="hdf5")["verified"]
    convert(tmp_path / "data.h5", tmp_path / "back")
    for number in range(3):
        assert_same_episode(EpisodeStore(tmp_path / "back").episode(number), make_episode(FULL_META, number, 12))


def _write_one_and_stop(path: Path) -> None:
    with Hdf5Format.create(path, FULL_META, resume=False) as sink:
        sink.append(make_episode(FULL_META, 0, 6))
        raise KeyboardInterrupt


def test_a_writer_that_failed_or_was_killed_loses_no_listed_episode(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with pytest.raises(KeyboardInterrupt):
        _write_one_and_stop(path)
    assert not path.exists(), "what is not whole has no name"
    kill = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from recordings import FULL_META, make_episode
        from pathlib import Path
        from lewm.data.formats.hdf5_sink import Hdf5Sink
        sink = Hdf5Sink(Path({str(path)!r}), FULL_META, resume=True)
        sink.append(make_episode(FULL_META, 1, 7))
        sink._file["pixels_front"].resize(500, axis=0)
        sink._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(kill)], check=False).returncode == -9
    with Hdf5Format.create(path, FULL_META, resume=True) as sink:
        assert len(sink) == 2
        sink.append(make_episode(FULL_META, 2, 5))
    store = open_store(path)
    for number, length in enumerate((6, 7, 5)):
        assert_same_episode(store.episode(number), make_episode(FULL_META, number, length))
    assert [file.name for file in tmp_path.iterdir()] == ["data.h5"]
    store.reader.close()
    with Hdf5Format.create(path, FULL_META, resume=True) as sink:
        sink.append(make_episode(FULL_META, 3, 4))
    assert len(open_store(path)) == 4, "a finished file can be continued"


def test_an_existing_file_is_not_overwritten_and_another_kind_not_continued(tmp_path: Path) -> None:
    write(tmp_path / "data.h5")
    with pytest.raises(DataError, match="already exists"):
        Hdf5Sink(tmp_path / "data.h5", FULL_META, resume=False)
    with pytest.raises(DataError, match="was made with"):
        Hdf5Sink(tmp_path / "data.h5", PLAIN_META, resume=True)
    with pytest.raises(DataError, match="was not written by lewm"):
        Hdf5Sink(flat(tmp_path / "other.h5"), PLAIN_META, resume=True)
    assert len(open_store(tmp_path / "data.h5")) == 3


NAN_INSIDE = np.full((19, 2), 0.5, np.float32)
NAN_INSIDE[2] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": None}, r"has no column of frames, uint8 \[rows, Y, X, 3\]"),
        ({"pixels": np.zeros((19, 12, 16, 3), np.float32)}, "has no column of frames"),
        ({"pixels": np.zeros((10, 12, 16, 3), np.uint8)}, "column 'pixels' has 10 of 19 rows"),
        ({"action": np.zeros((12, 2), np.float32)}, "column 'action' has 12 of 19 rows"),
        ({"action": np.full(19, "left", h5py.string_dtype())}, "column 'action' holds no numbers"),
        ({"action": NAN_INSIDE}, r"episode 0: the action of env step 2 is \[nan, nan\]; mend the file, or pass --option missing_actions=zero"),
        ({"proprio": np.full((19, 2), np.inf)}, None),
        ({"ep_len": np.array([6, 4])}, r"ep_len and ep_offset have shapes \(2,\) and \(3,\)"),
        ({"ep_offset": np.array([0, 6, 6])}, "an episode is listed twice, or its length is wrong"),
        ({"ep_len": np.array([1, 0, 1]), "ep_offset": np.array([0, 1, 1])}, "has no episode with two observations or more"),
        ({"ep_len": None, "ep_offset": None, "ep_idx": None}, "does not say where episodes begin"),
        ({"ep_len": None, "ep_offset": None, "ep_idx": np.repeat([0, 1, 0], [6, 4, 9])}, "an episode of 'ep_idx' comes twice"),
        ({"ep_len": np.full(3, "six", h5py.string_dtype())}, "column 'ep_len' holds no numbers"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    path = flat(tmp_path / "data.h5", **changes)
    with pytest.raises(DataError, match=message or "proprioception must be finite, got inf"):
        open_store(path).episode(0)


def test_missing_actions_become_zero_if_that_is_asked_for(tmp_path: Path) -> None:
    store = open_store(flat(tmp_path / "data.h5", action=NAN_INSIDE), options={"missing_actions": "zero"})
    assert store.episode(0).actions[2].tolist() == [0, 0]


def test_empty_episodes_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(flat(tmp_path / "data.h5", ep_len=np.array([6, 1, 9])))
    assert store.index["length"].tolist() == [5, 8]
    assert "1 of 3 episodes have fewer than two observations and are left out" in caplog.text
    assert store.episode(1).provenance == {"source": "data.h5", "episode": 2}


def test_a_thousand_tiny_episodes_are_opened_without_reading_their_frames(tmp_path: Path) -> None:
    path = flat(tmp_path / "data.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("pixels", (2000, 64, 64, 3), "u1", chunks=(1, 64, 64, 3))  # never written: reading gives zeros
        file["action"] = np.zeros((2000, 1), np.float32)
        file["ep_len"], file["ep_offset"] = np.full(1000, 2), 2 * np.arange(1000)
    store = open_store(path)
    assert len(store) == 1000
    assert store.episode(999).observations.frames.shape == (2, 1, 64, 64, 3)


@pytest.mark.parametrize("seed", range(24))
def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "data.h5"
    episodes = write(path, lengths=(3, 2))
    damage(path, seed=seed)
    found = read_all(path)
    if isinstance(found, str):
        assert str(path) in found or "there is no dataset" in found
        return
    for one, other in zip(found[1], episodes, strict=True):
        assert_same_episode(one, other)
