"""OGBench's visual datasets: the transitions are those of ``ogbench.utils.load_dataset``, compressed or not, and damage is told."""

import logging
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from flat_files import as_native, assert_same_clips
from ogbench.utils import load_dataset

from lewm.data.formats import npz_files
from lewm.data.formats.store import open_store
from lewm.errors import ConfigError, DataError
from lewm.schema import ActionSpec, ObservationSpec

LENGTHS = (4, 6, 5)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Three trajectories, as OGBench's scripts save them; tests spoil them."""
    generator, num_rows = np.random.default_rng(0), sum(LENGTHS)
    terminals = np.zeros(num_rows, bool)
    terminals[np.cumsum(LENGTHS) - 1] = True
    return {
        "observations": generator.integers(0, 256, (num_rows, 8, 8, 3), dtype=np.uint8),
        "actions": generator.uniform(-1, 1, (num_rows, 5)).astype(np.float32),
        "terminals": terminals,
        "qpos": generator.random((num_rows, 3)),
        "qvel": generator.random((num_rows, 2)),
        "button_states": generator.integers(0, 2, (num_rows, 2)),
    }


def save(path: Path, arrays: dict[str, np.ndarray], save_as=np.savez_compressed) -> Path:
    save_as(path, **arrays)
    return path


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_transitions_are_those_of_the_ogbench_package(tmp_path: Path, arrays: dict[str, np.ndarray], save_as) -> None:
    path = save(tmp_path / "d.npz", arrays, save_as)
    store, expected = open_store(path), load_dataset(path, ob_dtype=np.uint8, add_info=True)
    episodes = [store.episode(number) for number in range(len(store))]
    frames = [episode.observations.frames[:, 0] for episode in episodes]
    np.testing.assert_array_equal(np.concatenate([each[:-1] for each in frames]), expected["observations"])
    np.testing.assert_array_equal(np.concatenate([each[1:] for each in frames]), expected["next_observations"])
    np.testing.assert_array_equal(np.concatenate([episode.actions for episode in episodes]), expected["actions"])
    states = np.concatenate([expected[name] for name in ("qpos", "qvel", "button_states")], axis=1)
    np.testing.assert_array_equal(np.concatenate([episode.labels[:-1] for episode in episodes]), states.astype(np.float32))


def test_names_and_bounds_come_from_the_arrays(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    meta = open_store(save(tmp_path / "d.npz", arrays)).meta
    actions = arrays["actions"][~arrays["terminals"]]
    assert meta.observation_spec == ObservationSpec(height_px=8, width_px=8)
    assert meta.action_spec == ActionSpec(kind="continuous", low=tuple(actions.min(0).tolist()), high=tuple(actions.max(0).tolist()))
    assert meta.label_names == ("qpos_0", "qpos_1", "qpos_2", "qvel_0", "qvel_1", "button_states_0", "button_states_1")


def test_the_end_of_a_recording_is_not_the_end_of_the_world(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    assert not open_store(save(tmp_path / "d.npz", arrays)).index["terminated"].any()


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_clips_are_the_same_as_from_a_native_dataset(tmp_path: Path, arrays: dict[str, np.ndarray], save_as) -> None:
    store = open_store(save(tmp_path / "d.npz", arrays, save_as))
    assert_same_clips(store, as_native(store, tmp_path / "native"))


def test_frames_are_not_decompressed_before_one_is_asked_for(tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch) -> None:
    asked: list[str] = []
    mapped = npz_files.NpzFile._map
    monkeypatch.setattr(npz_files.NpzFile, "_map", lambda self, name: asked.append(name) or mapped(self, name))
    store = open_store(save(tmp_path / "d.npz", arrays))
    assert "observations" not in asked
    store.episode(0)
    store.episode(1)
    assert asked.count("observations") == 1


def test_stored_frames_are_mapped_where_they_lie(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = save(tmp_path / "d.npz", arrays, np.savez)
    frames = npz_files.NpzFile(path).array("observations")
    assert isinstance(frames, np.memmap)
    assert Path(frames.filename) == path


def test_a_decompressed_array_leaves_no_file_behind(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    store = open_store(save(tmp_path / "d.npz", arrays), options={"temporary": str(place)})
    np.testing.assert_array_equal(store.episode(2).observations.frames[:, 0], arrays["observations"][10:])
    assert list(place.iterdir()) == []


def test_an_array_for_which_the_disk_has_no_room_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch) -> None:
    monkeypatch.setattr(npz_files, "SPARE_BYTES", 2**62)
    with pytest.raises(DataError, match=r"is compressed and needs .* GB of temporary space, .* --option temporary=DIR"):
        open_store(save(tmp_path / "d.npz", arrays))


def test_options_choose_labels(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = save(tmp_path / "d.npz", arrays)
    assert open_store(path, options={"labels": "qvel"}).label_names == ("qvel_0", "qvel_1")
    assert open_store(path, options={"labels": ""}).label_names == ()


def test_discrete_actions_are_counted(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    arrays["actions"] = np.arange(15) % 4
    assert open_store(save(tmp_path / "d.npz", arrays)).action_spec == ActionSpec(kind="discrete", num_choices=4)


def test_a_closed_reader_maps_its_file_again(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    store = open_store(save(tmp_path / "d.npz", arrays))
    store.episode(0)
    store.reader.close()
    np.testing.assert_array_equal(store.episode(1).observations.frames[:, 0], arrays["observations"][4:10])


def test_trajectories_of_one_row_are_left_out(tmp_path: Path, arrays: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
    arrays["terminals"][4] = True
    with caplog.at_level(logging.WARNING):
        store = open_store(save(tmp_path / "d.npz", arrays))
    assert "1 of 4 episodes" in caplog.text
    assert [store.episode(number).provenance["trajectory"] for number in range(3)] == [0, 2, 3]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda arrays: arrays.pop("terminals"), "has no array 'terminals'"),
        (lambda arrays: arrays.update(actions=arrays["actions"][:9]), "a row for each observation, got observations 15, actions 9"),
        (lambda arrays: arrays.update(qpos=arrays["qpos"][:9]), "qpos 9"),
        (lambda arrays: arrays.update(observations=np.zeros((15, 29), np.float32)), "not frames; only OGBench's visual datasets can be read"),
        (lambda arrays: arrays.update(observations=np.zeros((15, 8, 8, 6), np.uint8)), "images must be"),
        (lambda arrays: arrays.update(terminals=arrays["terminals"] * 2.0), "terminals must be 0 or 1"),
        (lambda arrays: arrays["terminals"].__setitem__(14, False), "the last trajectory has no end"),
        (lambda arrays: arrays["actions"].__setitem__((5, 0), np.nan), "the action in row 5 is .* missing_actions=zero"),
        (lambda arrays: arrays.update(actions=np.array([{}] * 15)), "holds Python objects, which are never loaded"),
        (lambda arrays: arrays.update(observations=np.asfortranarray(arrays["observations"])), "is in Fortran order"),
        (lambda arrays: arrays.update(actions=np.array(["left"] * 15)), "is damaged: <U4"),
    ],
)
def test_an_archive_that_is_not_as_it_should_be_is_refused_with_a_sentence(tmp_path: Path, arrays, spoil, message: str) -> None:
    spoil(arrays)
    with pytest.raises(DataError, match=message):
        open_store(save(tmp_path / "d.npz", arrays), format="ogbench")


def test_labels_that_are_not_finite_are_refused_when_they_are_read(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    arrays["qpos"][12] = np.nan
    store = open_store(save(tmp_path / "d.npz", arrays))
    with pytest.raises(DataError, match="trajectory 2 has labels that are not finite"):
        store.episode(2)


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("number", range(8))
def test_a_cut_archive_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], save_as, number: int) -> None:
    content = save(tmp_path / "d.npz", arrays, save_as).read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) * number // 8])
    with pytest.raises(DataError, match=r"cannot be read: it is damaged or no .npz archive"):
        open_store(tmp_path / "cut.npz", format="ogbench")


def test_flipped_bytes_of_compressed_frames_are_noticed(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = save(tmp_path / "d.npz", arrays)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("observations.npy")
    content = bytearray(path.read_bytes())
    content[info.header_offset + info.compress_size // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read: it is damaged"):
        open_store(path).episode(0)


def test_a_header_that_promises_more_than_the_archive_holds_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = save(tmp_path / "d.npz", arrays, np.savez)
    content = path.read_bytes().replace(b"'shape': (15, 8, 8, 3)", b"'shape': (95, 8, 8, 3)")
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        open_store(path, format="ogbench")


def test_a_stored_array_that_would_begin_elsewhere_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = save(tmp_path / "d.npz", arrays, np.savez)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("observations.npy").header_offset
    store = open_store(path)
    content = bytearray(path.read_bytes())
    content[offset + 28 : offset + 30] = struct.pack("<H", 0xFFFF)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"observations.npy ends after the file"):
        store.episode(0)


def test_wrong_options_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = save(tmp_path / "d.npz", arrays)
    with pytest.raises(ConfigError, match="has no array 'pos' to make labels of"):
        open_store(path, options={"labels": "pos"})
    with pytest.raises(ConfigError, match="temporary must be a directory"):
        open_store(path, options={"temporary": str(tmp_path / "nowhere")})
