"""Writing flat HDF5 files: what is written comes back, is laid out as stable-worldmodel's reader wants it, and no half file is left by a kill."""

import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from flat_files import FIXTURES, assert_same_episode, rich_episode, write_hdf5

from lewm.data.formats import hdf5_writing, own_metadata
from lewm.data.formats.hdf5 import Hdf5Format
from lewm.data.formats.store import open_store
from lewm.data.layout import DatasetMeta
from lewm.errors import DataError
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

NewEpisode = Callable[..., Episode]


@pytest.fixture
def rich_meta() -> DatasetMeta:
    """Everything a dataset can have."""
    return DatasetMeta(
        observation_spec=ObservationSpec(height_px=4, width_px=5, cameras=("front", "wrist"), proprioception=("x", "y")),
        action_spec=ActionSpec(kind="continuous", low=(-2.0,), high=(3.0,), action_repeat=2),
        label_names=("angle",),
        has_rewards=True,
        env={"name": "made-up", "version": 1, "options": {}},
        policy={"name": "random", "options": {}},
        collection={"seed": 3},
        episodes_per_shard=2,
    )


@pytest.mark.parametrize("episodes_per_part", [1, 2, 100])
def test_episodes_come_back_as_they_were_written(tmp_path: Path, rich_meta: DatasetMeta, monkeypatch, episodes_per_part: int) -> None:
    monkeypatch.setattr(hdf5_writing, "PART_BYTES", 7 * rich_meta.row_bytes * episodes_per_part)
    episodes = [rich_episode(number) for number in range(5)]
    store = write_hdf5(tmp_path / "d.h5", rich_meta, episodes)
    assert store.meta.identity() == rich_meta.identity()
    for number, episode in enumerate(episodes):
        assert_same_episode(store.episode(number), episode)
        assert store.episode(number).provenance == episode.provenance
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.h5"]


def test_discrete_actions_come_back(tmp_path: Path) -> None:
    meta = DatasetMeta(observation_spec=ObservationSpec(height_px=2, width_px=3), action_spec=ActionSpec(kind="discrete", num_choices=5))
    episode = Episode(observations=Observation(np.zeros((4, 1, 2, 3, 3), np.uint8)), actions=np.array([0, 4, 2]))
    store = write_hdf5(tmp_path / "d.h5", meta, [episode])
    assert store.action_spec == meta.action_spec
    np.testing.assert_array_equal(store.reader.rows("actions", 0, np.arange(4)), [0, 4, 2, -1])


def test_a_video_without_actions_comes_back(tmp_path: Path) -> None:
    meta = DatasetMeta(observation_spec=ObservationSpec(height_px=2, width_px=3), action_spec=ActionSpec(kind="none"))
    store = write_hdf5(tmp_path / "d.h5", meta, [Episode(observations=Observation(np.full((4, 1, 2, 3, 3), 7, np.uint8)), actions=None)])
    assert store.action_spec.kind == "none"
    assert store.episode(0).actions is None


def test_the_official_access_pattern_finds_what_it_needs_in_a_written_file(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    """Slices of flat columns at ``ep_offset``, every top-level name being one, rewards and actions in the recorder's places."""
    episodes = [new_episode(number, 4 + number) for number in range(3)]
    write_hdf5(tmp_path / "d.h5", meta, episodes)
    with h5py.File(tmp_path / "d.h5", "r", swmr=True) as file:
        lengths, offsets = file["ep_len"][:], file["ep_offset"][:]
        rows = {name: file[name][offsets[1] : offsets[1] + lengths[1]] for name in file if name not in ("ep_len", "ep_offset")}
    assert {len(values) for values in rows.values()} == {episodes[1].num_env_steps + 1}
    np.testing.assert_array_equal(rows["pixels"], episodes[1].observations.frames[:, 0])
    np.testing.assert_array_equal(rows["action"], np.concatenate([episodes[1].actions, np.full((1, 2), np.nan)]))
    np.testing.assert_array_equal(rows["reward"], np.concatenate([[np.nan], episodes[1].rewards]))
    np.testing.assert_array_equal(rows["state"], episodes[1].labels)
    np.testing.assert_array_equal(rows["step_idx"], np.arange(6))
    np.testing.assert_array_equal(rows["episode_idx"], np.ones(6))


def test_several_cameras_are_called_as_stable_worldmodel_calls_them(tmp_path: Path, rich_meta: DatasetMeta) -> None:
    write_hdf5(tmp_path / "d.h5", rich_meta, [rich_episode(0)])
    with h5py.File(tmp_path / "d.h5") as file:
        assert {name for name in file if "pixels" in name} == {"pixels.front", "pixels.wrist"}
        assert file["pixels.front"].chunks == (1, 4, 5, 3)


@pytest.mark.parametrize(("name", "value"), [("lewm", "{"), ("lewm", "[]"), ("lewm", 3), ("lewm_provenance", "{}"), ("lewm_provenance", "[1]")])
def test_attributes_that_say_something_else_are_refused(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode, name: str, value: object) -> None:
    write_hdf5(tmp_path / "d.h5", meta, [new_episode(0)])
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file.attrs[name] = value
    with pytest.raises(DataError, match=f"is damaged: its (entry|attribute) '{name}'"):
        open_store(tmp_path / "d.h5")


def test_attributes_that_do_not_fit_the_columns_are_refused(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write_hdf5(tmp_path / "d.h5", meta, [new_episode(0)])
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file.attrs["lewm"] = own_metadata.to_text(dataclasses.replace(meta, label_names=("episode",)))
    with pytest.raises(DataError, match="column 'state' has 2 numbers in a row, its attributes say 1"):
        open_store(tmp_path / "d.h5")


def test_a_path_that_exists_is_not_written_over(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write_hdf5(tmp_path / "d.h5", meta, [new_episode(0)])
    with pytest.raises(DataError, match="already exists, or is being written; continue it with --resume"):
        Hdf5Format.create(tmp_path / "d.h5", meta, resume=False)


def test_a_finished_file_can_be_appended_to(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write_hdf5(tmp_path / "d.h5", meta, [new_episode(0), new_episode(1)])
    store = write_hdf5(tmp_path / "d.h5", meta, [new_episode(2)], resume=True)
    for number in range(3):
        assert_same_episode(store.episode(number), new_episode(number))


def test_a_file_is_not_continued_with_other_settings(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write_hdf5(tmp_path / "d.h5", meta, [new_episode(0)])
    with pytest.raises(DataError, match=r"was made with label_names .*; continue it with the same settings"):
        Hdf5Format.create(tmp_path / "d.h5", dataclasses.replace(meta, label_names=("a", "b")), resume=True)


def test_somebody_elses_file_is_not_continued(meta: DatasetMeta, tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "stable_worldmodel_0_1_1.h5", tmp_path / "d.h5")
    with pytest.raises(DataError, match="was not written by lewm, so it cannot be continued"):
        Hdf5Format.create(tmp_path / "d.h5", meta, resume=True)


def test_an_interrupted_writer_leaves_no_file_and_resumes_after_its_last_part(tmp_path: Path, meta, new_episode: NewEpisode, monkeypatch) -> None:
    monkeypatch.setattr(hdf5_writing, "PART_BYTES", 2 * 13 * meta.row_bytes)
    with contextlib.suppress(KeyboardInterrupt), Hdf5Format.create(tmp_path / "d.h5", meta, resume=False) as sink:
        for number in range(5):
            sink.append(new_episode(number))
        raise KeyboardInterrupt
    assert not (tmp_path / "d.h5").exists()
    with Hdf5Format.create(tmp_path / "d.h5", meta, resume=True) as sink:
        assert len(sink) == 4
        sink.append(new_episode(4))
    store = open_store(tmp_path / "d.h5")
    for number in range(5):
        assert_same_episode(store.episode(number), new_episode(number))


def test_parts_that_were_joined_before_a_kill_are_not_counted_twice(tmp_path: Path, meta, new_episode: NewEpisode, monkeypatch) -> None:
    monkeypatch.setattr(hdf5_writing, "PART_BYTES", 13 * meta.row_bytes)
    monkeypatch.setattr(hdf5_writing.shutil, "rmtree", lambda *args, **kwargs: None)  # it was killed before this
    write_hdf5(tmp_path / "d.h5", meta, [new_episode(number) for number in range(3)])
    assert len(list((tmp_path / "d.h5.parts").glob("*.h5"))) == 3
    with Hdf5Format.create(tmp_path / "d.h5", meta, resume=True) as sink:
        assert len(sink) == 3


def test_two_writers_do_not_share_a_file(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    with Hdf5Format.create(tmp_path / "d.h5", meta, resume=False) as sink:
        sink.append(new_episode(0))
        with pytest.raises(DataError, match="is being written by another process"):
            Hdf5Format.create(tmp_path / "d.h5", meta, resume=True)


WRITER = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, {here!r})
from flat_files import rich_episode
from lewm.data.formats import hdf5_writing, own_metadata
from lewm.data.formats.hdf5 import Hdf5Format
from lewm.data.layout import read_meta
hdf5_writing.PART_BYTES = 100_000
with Hdf5Format.create(Path({path!r}), read_meta(Path({meta!r})), resume=True) as sink:
    for number in range(len(sink), 100_000):
        sink.append(rich_episode(number, 60))
        print(number, flush=True)
"""


@pytest.mark.faults
def test_a_killed_writer_leaves_whole_episodes_only(tmp_path: Path, rich_meta: DatasetMeta) -> None:
    (tmp_path / "meta.json").write_text(rich_meta.to_json())
    program = WRITER.format(here=str(Path(__file__).parent), path=str(tmp_path / "d.h5"), meta=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 60:
            pass
        process.send_signal(signal.SIGKILL)
    with Hdf5Format.create(tmp_path / "d.h5", rich_meta, resume=True) as sink:
        num_found = len(sink)
        sink.append(rich_episode(num_found, 60))
    assert num_found > 40
    store = open_store(tmp_path / "d.h5")
    assert len(store) == num_found + 1
    for number in range(len(store)):
        assert_same_episode(store.episode(number), rich_episode(number, 60))


@pytest.mark.faults
def test_a_full_disk_is_told_in_a_sentence_and_what_was_whole_stays(tmp_path: Path, rich_meta: DatasetMeta, monkeypatch) -> None:
    monkeypatch.setattr(hdf5_writing, "PART_BYTES", 7 * rich_meta.row_bytes)
    with Hdf5Format.create(tmp_path / "d.h5", rich_meta, resume=False) as sink:
        sink.append(rich_episode(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write|no space left"):
            write_hdf5(tmp_path / "d.h5", rich_meta, [rich_episode(number, 100) for number in range(1, 50)], resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert_same_episode(open_store(tmp_path / "d.h5").episode(0), rich_episode(0))


def test_options_come_before_what_a_file_says_itself(tmp_path: Path, rich_meta: DatasetMeta) -> None:
    write_hdf5(tmp_path / "d.h5", rich_meta, [rich_episode(0)])
    store = open_store(tmp_path / "d.h5", options={"frames": "pixels.wrist", "proprioception": "", "labels": "proprio,state"})
    assert store.observation_spec.cameras == ("wrist",)
    assert store.observation_spec.proprioception == ()
    assert store.label_names == ("proprio_0", "proprio_1", "state_0")
    np.testing.assert_array_equal(store.episode(0).observations.frames, rich_episode(0).observations.frames[:, 1:])


def test_a_damaged_file_gives_an_error_of_ours_or_what_is_left_of_it(tmp_path: Path) -> None:
    """Cut and flipped at fixed places of a file whose every byte is checksummed, plain or in nobody's use."""
    path, whole = tmp_path / "whole.h5", [rich_episode(number, 3) for number in range(2)]
    meta = DatasetMeta(
        observation_spec=ObservationSpec(height_px=4, width_px=5, cameras=("front", "wrist"), proprioception=("x", "y")),
        action_spec=ActionSpec(kind="continuous", low=(-2.0,), high=(3.0,)),
        label_names=("angle",),
        has_rewards=True,
    )
    write_hdf5(path, meta, whole)
    content, num_refused = path.read_bytes(), 0
    for number in range(120):
        place = int(np.random.default_rng(number).integers(len(content)))
        damaged = content[:place] if number % 2 else content[:place] + bytes([content[place] ^ 1 << number % 8]) + content[place + 1 :]
        (tmp_path / f"{number}.h5").write_bytes(damaged)
        try:
            store = open_store(tmp_path / f"{number}.h5", format="hdf5")
            for episode, expected in enumerate(whole):
                assert_same_episode(store.episode(episode), expected)
            store.reader.close()
            assert number % 2 == 0, f"cut after {place} bytes"
        except DataError:
            num_refused += 1
    assert num_refused >= 60


def test_another_file_has_another_fingerprint(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    first = write_hdf5(tmp_path / "a.h5", meta, [new_episode(0), new_episode(1)])
    second = write_hdf5(tmp_path / "b.h5", meta, [new_episode(0), new_episode(2)])
    again = write_hdf5(tmp_path / "c" / "a.h5", meta, [new_episode(0), new_episode(1)])
    assert first.dataset_sha256 == Hdf5Format.open(tmp_path / "a.h5").dataset_sha256
    assert len({first.dataset_sha256, second.dataset_sha256}) == 2
    assert again.index["length"].tolist() == first.index["length"].tolist()


def test_several_threads_read_the_same(tmp_path: Path, rich_meta: DatasetMeta) -> None:
    store = write_hdf5(tmp_path / "d.h5", rich_meta, [rich_episode(number, 20) for number in range(4)])
    found: dict[int, list[Episode]] = {}
    threads = [threading.Thread(target=lambda which=which: found.update({which: [store.episode(n % 4) for n in range(12)]})) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for episodes in found.values():
        for number, episode in enumerate(episodes):
            assert_same_episode(episode, rich_episode(number % 4, 20))
