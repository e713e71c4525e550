"""Reading flat HDF5 files: what stable-worldmodel wrote is understood, only what is asked for is decoded, damage is told.

``fixtures/stable_worldmodel_0_1_1.h5`` was written by ``HDF5Writer`` of stable-worldmodel 0.1.1 (chunks of one row) and
``stable_worldmodel_recorder.h5`` by ``World``'s own functions of its April 2026 version (``_init_h5_datasets``, ``_handle_done_ep``,
``_write_episode``: chunks of 100 frames, Blosc). Both hold the same three episodes of 5, 6 and 7 rows: frames of 8 x 9 px filled with
10 * episode + row, ``proprio`` (episode, row), ``state`` (episode, row, product), ``reward`` 100 * episode + row before, NaN first, ``action`` NaN
last, ``terminated`` in the second episode.
"""

import logging
import shutil
import time
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from flat_files import FIXTURES, as_native, assert_same_clips, assert_same_episode

from lewm.data.formats.hdf5_files import take_rows
from lewm.data.formats.store import open_store
from lewm.errors import ConfigError, DataError
from lewm.schema import ActionSpec, ObservationSpec

RECORDED = [FIXTURES / "stable_worldmodel_0_1_1.h5", FIXTURES / "stable_worldmodel_recorder.h5"]


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    """Of two episodes of 4 and 5 rows, as an HDF5 file may hold them; tests spoil them."""
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (9, 2)).astype(np.float32)
    actions[[3, 8]] = np.nan
    return {
        "pixels": generator.integers(0, 256, (9, 6, 7, 3), dtype=np.uint8),
        "action": actions,
        "proprio": generator.random((9, 2)).astype(np.float32),
        "state": generator.random((9, 3)),
        "reward": np.array([np.nan, 1, 2, 3, np.nan, 4, 5, 6, 7]),
        "ep_len": np.array([4, 5], np.int32),
        "ep_offset": np.array([0, 4]),
    }


def save(path: Path, columns: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_file_of_stable_worldmodel_gives_the_episodes_that_were_recorded(path: Path) -> None:
    store = open_store(path)
    assert [int(length) for length in store.index["length"]] == [4, 5, 6]
    for number in range(3):
        episode, row = store.episode(number), np.arange(5 + number, dtype=np.float32)
        np.testing.assert_array_equal(episode.observations.frames[:, 0, 7, 8, 2], 10 * number + row)
        np.testing.assert_array_equal(episode.observations.proprioception, np.stack([np.full_like(row, number), row], -1))
        np.testing.assert_array_equal(episode.labels, np.stack([np.full_like(row, number), row, number * row], -1))
        np.testing.assert_array_equal(episode.rewards, 100 * number + row[:-1])
        assert episode.actions.shape == (4 + number, 2)
        assert episode.provenance == {"source": path.name, "episode": number}
    assert store.index["terminated"].tolist() == [False, True, False]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_actions_are_those_that_lead_from_a_row_to_the_next(path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(3):
        expected = np.stack([generator.uniform(-1, 1, 2).astype(np.float32) for _ in range(4 + number)])
        np.testing.assert_array_equal(open_store(path).episode(number).actions, expected)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_names_and_bounds_come_from_the_columns(path: Path) -> None:
    meta = open_store(path).meta
    assert meta.observation_spec == ObservationSpec(height_px=8, width_px=9, proprioception=("proprio_0", "proprio_1"))
    assert meta.label_names == ("state_0", "state_1", "state_2")
    actions = np.concatenate([open_store(path).episode(number).actions for number in range(3)])
    assert meta.action_spec == ActionSpec(kind="continuous", low=tuple(actions.min(0).tolist()), high=tuple(actions.max(0).tolist()))


@pytest.mark.parametrize(
    ("released", "proprioception", "labels", "has_rewards"),
    [
        ({"episode_idx": (), "proprio": (4,), "state": (7,), "step_idx": ()}, 4, 7, False),  # Push-T
        (
            {
                "distance_to_target": (),
                "ep_idx": (),
                "id": (),
                "observation": (10,),
                "pos_agent": (2,),
                "pos_target": (2,),
                "proprio": (2,),
                "render_time": (),
                "reward": (),
                "step_idx": (),
                "terminated": (),
                "truncated": (),
            },
            2,
            15,
            True,
        ),  # two-room
        ({"observation": (28,), "privileged_block_0_pos": (3,), "proprio_effector_pos": (3,), "proprio_gripper_opening": (1,)}, 4, 31, False),  # Cube
    ],
)
def test_released_files_have_columns_that_are_understood(
    tmp_path: Path, columns, released, proprioception: int, labels: int, has_rewards: bool
) -> None:
    """Names and widths as people who have the files list them; Push-T's has no NaN among its actions."""
    kept = {name: columns[name] for name in ("pixels", "ep_len", "ep_offset")} | {"action": np.random.default_rng(1).random((9, 2), np.float32)}
    store = open_store(save(tmp_path / "d.h5", kept | {name: np.zeros((9, *shape)) for name, shape in released.items()}))
    assert len(store.observation_spec.proprioception) == proprioception
    assert len(store.label_names) == labels
    assert store.meta.has_rewards == has_rewards
    assert store.episode(1).num_env_steps == 4


def test_columns_that_nothing_is_made_of_are_named() -> None:
    assert open_store(RECORDED[0]).meta.provenance["columns_left_out"] == ["goal", "render_time", "step_idx", "truncated"]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_clips_are_the_same_as_from_a_native_dataset(path: Path, tmp_path: Path) -> None:
    store = open_store(path)
    assert_same_clips(store, as_native(store, tmp_path / "native"))


def test_discrete_actions_of_a_file_without_names_are_counted(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["action"] = np.array([0, 1, 2, -(2**31), 1, 3, 0, 0, 9])
    assert open_store(save(tmp_path / "d.h5", columns)).action_spec == ActionSpec(kind="discrete", num_choices=4)


def test_cameras_of_a_file_without_names_are_called_after_their_columns(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["pixels.wrist cam"] = columns["pixels"][::-1]
    store = open_store(save(tmp_path / "d.h5", columns))
    assert store.observation_spec.cameras == ("top", "wrist_cam")
    np.testing.assert_array_equal(store.episode(0).observations.frames[:, 1], columns["pixels"][::-1][:4])


def test_options_choose_columns(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["effort"] = np.arange(9.0)
    store = open_store(save(tmp_path / "d.h5", columns), options={"proprioception": "state", "labels": "effort,proprio"})
    assert store.observation_spec.proprioception == ("state_0", "state_1", "state_2")
    assert store.label_names == ("effort", "proprio_0", "proprio_1")
    np.testing.assert_array_equal(store.episode(1).labels[:, 0], np.arange(4.0, 9))


def test_frames_may_be_called_otherwise(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["rgb.left"] = columns.pop("pixels")
    with pytest.raises(DataError, match="name it with --option frames=COLUMN"):
        open_store(save(tmp_path / "d.h5", columns))
    assert open_store(tmp_path / "d.h5", options={"frames": "rgb.left"}).observation_spec.cameras == ("rgb_left",)


def test_floats_are_choices_if_somebody_says_so(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["action"] = np.array([0, 1, 2, np.nan, 1, 3, 0, 0, np.nan], np.float32)
    path = save(tmp_path / "d.h5", columns)
    store = open_store(path, options={"num_choices": 6})
    assert store.action_spec == ActionSpec(kind="discrete", num_choices=6)
    np.testing.assert_array_equal(store.reader.rows("actions", 1, np.arange(5)), [1, 3, 0, 0, -1])
    with pytest.raises(DataError, match="actions are not all among 0 to 2"):
        open_store(path, options={"num_choices": 3})


def test_rewards_can_stand_where_their_transition_starts(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["reward"] = np.roll(columns["reward"], -1)
    store = open_store(save(tmp_path / "d.h5", columns), options={"rewards": "departure"})
    np.testing.assert_array_equal(store.episode(1).rewards, [4, 5, 6, 7])


def test_rewards_in_the_other_place_are_not_taken_for_missing_ones(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["reward"] = np.roll(columns["reward"], -1)
    with pytest.raises(DataError, match="--option rewards=departure"):
        open_store(save(tmp_path / "d.h5", columns)).episode(0)


def test_episodes_are_found_by_their_numbers_where_nothing_else_says_where_they_begin(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    del columns["ep_len"], columns["ep_offset"]
    columns["episode_idx"] = np.repeat([7, 3], [4, 5])
    assert open_store(save(tmp_path / "d.h5", columns)).index["length"].tolist() == [3, 4]


@pytest.mark.parametrize("shape", [(9, 6, 7), (9, 6, 7, 1), (9, 6, 7, 4), (9, 3, 6, 7)])
def test_grey_rgba_and_channel_first_frames_become_rgb(tmp_path: Path, columns: dict[str, np.ndarray], shape: tuple[int, ...]) -> None:
    pixels = columns["pixels"] = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = open_store(save(tmp_path / "d.h5", columns)).episode(1).observations.frames[:, 0]
    expected = pixels[4:].transpose(0, 2, 3, 1) if shape[1] == 3 else pixels[4:, :, :, :3] if shape[-1] == 4 else pixels[4:].reshape(5, 6, 7, 1)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (5, 6, 7, 3)))


@pytest.mark.parametrize("rows_per_chunk", [None, 1, 4, 100])
def test_rows_are_those_of_the_column_however_it_is_chunked(tmp_path: Path, rows_per_chunk: int | None) -> None:
    values = np.random.default_rng(0).integers(0, 256, (50, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        dataset = file.create_dataset("a", data=values, chunks=rows_per_chunk and (min(rows_per_chunk, 50), 3))
        for seed in range(20):
            rows = np.flatnonzero(np.random.default_rng(seed).random(50) < seed / 20)
            np.testing.assert_array_equal(take_rows(dataset, rows), values[rows])


def test_only_the_chunks_of_the_rows_asked_for_are_decoded(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]), fletcher32=name == "pixels")
        offset = file["pixels"].id.get_chunk_info(2).byte_offset
    with open(path, "r+b") as raw:  # frame 2 cannot be decoded any more
        raw.seek(offset)
        raw.write(b"\xff\x00\xff")
    reader = open_store(path).reader
    np.testing.assert_array_equal(reader.rows("frames.top", 0, np.array([1, 3])), columns["pixels"][[1, 3]])
    with pytest.raises(DataError, match=r"column 'frames.top' of episode 0 is damaged"):
        reader.rows("frames.top", 0, np.array([1, 2]))


def test_opening_a_file_of_a_terabyte_reads_no_frame(tmp_path: Path) -> None:
    path, num_rows = tmp_path / "d.h5", 10_000_000
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("pixels", (num_rows, 224, 224, 3), np.uint8, chunks=(1, 224, 224, 3), maxshape=(None, 224, 224, 3))
        file["ep_len"], file["ep_offset"] = np.full(10, num_rows // 10), np.arange(10) * (num_rows // 10)
    start = time.process_time()
    store = open_store(path)
    assert store.num_env_steps == num_rows - 10
    assert store.reader.rows("frames.top", 9, np.array([0, 999_999])).shape == (2, 224, 224, 3)
    assert time.process_time() - start < 5  # reading a terabyte would take minutes


def test_a_thousand_tiny_episodes_are_read(tmp_path: Path) -> None:
    columns = {
        "pixels": np.arange(2000, dtype=np.uint8).repeat(3).reshape(2000, 1, 1, 3),
        "ep_len": np.full(1000, 2),
        "ep_offset": np.arange(1000) * 2,
    }
    store = open_store(save(tmp_path / "d.h5", columns))
    assert len(store) == 1000
    assert store.episode(999).observations.frames[:, 0, 0, 0, 0].tolist() == [1998 % 256, 1999 % 256]


def test_episodes_without_a_transition_are_left_out(tmp_path: Path, columns: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
    columns["ep_len"], columns["ep_offset"] = np.array([1, 0, 3, 5]), np.array([0, 1, 1, 4])
    with caplog.at_level(logging.WARNING):
        store = open_store(save(tmp_path / "d.h5", columns))
    assert "2 of 4 episodes" in caplog.text
    assert [store.episode(number).provenance["episode"] for number in range(len(store))] == [2, 3]


def test_rows_that_a_killed_recorder_left_without_an_episode_are_named(tmp_path: Path, columns, caplog: pytest.LogCaptureFixture) -> None:
    columns["ep_len"], columns["ep_offset"] = columns["ep_len"][:1], columns["ep_offset"][:1]
    with caplog.at_level(logging.WARNING):
        assert len(open_store(save(tmp_path / "d.h5", columns))) == 1
    assert "5 rows belong to no episode" in caplog.text


def test_a_file_whose_recorder_was_killed_is_read_up_to_its_last_episode(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    with h5py.File(tmp_path / "being-written.h5", "w", libver="latest") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=(4, *values.shape[1:]))
        file.swmr_mode = True
        file.flush()
        shutil.copy(tmp_path / "being-written.h5", tmp_path / "d.h5")
    np.testing.assert_array_equal(open_store(tmp_path / "d.h5").episode(1).observations.frames[:, 0], columns["pixels"][4:])


def test_a_closed_reader_opens_its_file_again() -> None:
    store = open_store(RECORDED[0])
    before = store.episode(0)
    store.reader.close()
    assert_same_episode(store.episode(0), before)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda columns: columns.pop("pixels"), "has no column 'pixels'"),
        (lambda columns: columns.pop("ep_offset"), "say where episodes begin"),
        (lambda columns: columns.update(action=columns["action"][:8]), "a row for each observation, got pixels 9"),
        (lambda columns: columns.update(state=columns["state"][:0]), "a row for each observation"),
        (lambda columns: columns.update(pixels=columns["pixels"] / np.float32(255)), "images must be uint8, 0 to 255, got float32"),
        (lambda columns: columns.update(pixels=columns["pixels"][..., 0, 0]), r"or grey, RGBA or channel-first, got \[9, 6\]"),
        (lambda columns: columns.update(action=columns["action"].astype("S8")), "column 'action' must hold numbers"),
        (lambda columns: columns.update(action=np.zeros((9, 2), int)), "or one whole number per row, got int64"),
        (lambda columns: columns.update(action=np.full(9, -1)), "discrete actions must be 0 or more, got -1"),
        (lambda columns: columns["action"].__setitem__(2, np.nan), "the action in row 2 is .* missing_actions=zero"),
        (lambda columns: columns["action"].__setitem__(2, np.inf), "the action in row 2 is"),
        (lambda columns: columns.update(ep_offset=np.array([0, 3])), "name rows twice"),
        (lambda columns: columns.update(ep_offset=np.array([0, 5])), "or rows that are not among the 9"),
        (lambda columns: columns.update(ep_len=np.array([4, -5])), "name rows twice"),
        (lambda columns: columns.update(ep_len=np.array([2**62, 2**62])), "name rows twice"),
        (lambda columns: columns.update(ep_len=np.array([4.0, 5.0])), "must be whole numbers"),
        (lambda columns: columns.update(ep_len=np.array([4])), "'ep_len' names 1 episodes, 'ep_offset' 2"),
        (lambda columns: columns.update(ep_len=np.array([1, 1])), "no episode with two observations"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused_with_a_sentence(tmp_path: Path, columns, spoil, message: str) -> None:
    spoil(columns)
    with pytest.raises(DataError, match=message):
        open_store(save(tmp_path / "d.h5", columns), format="hdf5")


def test_an_episode_number_that_comes_twice_is_refused(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    del columns["ep_len"], columns["ep_offset"]
    columns["episode_idx"] = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0])
    with pytest.raises(DataError, match="episode 0 of column 'episode_idx' is there twice"):
        open_store(save(tmp_path / "d.h5", columns))


def test_labels_that_are_not_finite_are_refused_when_they_are_read(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["state"][5, 1] = np.nan
    store = open_store(save(tmp_path / "d.h5", columns))
    store.episode(0)
    with pytest.raises(DataError, match=r"episode 1, row 1 of column 'state' is not finite; .* --option labels=$"):
        store.episode(1)


def test_missing_actions_become_zero_if_asked_for(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    columns["action"][5] = np.nan
    store = open_store(save(tmp_path / "d.h5", columns), options={"missing_actions": "zero"})
    np.testing.assert_array_equal(store.episode(1).actions[1], [0, 0])
    assert np.isfinite(store.action_spec.low).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing_actions": "skip"}, "missing_actions must be one of refuse, zero"),
        ({"rewards": "later"}, "rewards must be one of arrival, departure"),
        ({"num_choices": "many"}, "num_choices must be 0 or a whole number of at least 2, got 'many'"),
        ({"labels": "sate"}, "no column 'sate'. Did you mean 'state'"),
        ({"camera": "top"}, "unknown option 'camera'"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, columns: dict[str, np.ndarray], options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(save(tmp_path / "d.h5", columns), options=options)


def test_values_in_other_files_are_never_read(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    save(tmp_path / "elsewhere.h5", {"secret": columns["pixels"]})
    del columns["pixels"]
    for number, kind in enumerate(("link", "virtual", "external")):
        path = save(tmp_path / f"{number}.h5", columns)
        with h5py.File(path, "a") as file:
            if kind == "link":
                file["pixels"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "secret")
            elif kind == "virtual":
                layout = h5py.VirtualLayout((9, 6, 7, 3), np.uint8)
                layout[:] = h5py.VirtualSource(str(tmp_path / "elsewhere.h5"), "secret", (9, 6, 7, 3))
                file.create_virtual_dataset("pixels", layout)
            else:
                file.create_dataset("pixels", (9, 6, 7, 3), np.uint8, external=[(str(tmp_path / "elsewhere.h5"), 0, h5py.h5f.UNLIMITED)])
        with pytest.raises(DataError, match=r"which is not followed|which are not opened"):
            open_store(path)


def test_objects_are_not_frames(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    del columns["pixels"]
    with h5py.File(save(tmp_path / "d.h5", columns), "a") as file:
        frames = file.create_dataset("pixels", (9,), h5py.vlen_dtype(np.uint8))
        frames[0] = np.frombuffer(b"\xff\xd8 a JPEG", np.uint8)
    with pytest.raises(DataError, match="holds object values, which are not read"):
        open_store(tmp_path / "d.h5")


def test_blosc_frames_of_a_recorder_are_read_by_chunk_and_row(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    pixels = columns.pop("pixels")
    with h5py.File(save(tmp_path / "d.h5", columns), "a") as file:
        file.create_dataset("pixels", data=pixels, chunks=(4, 6, 7, 3), **hdf5plugin.Blosc(cname="lz4", clevel=5))
    np.testing.assert_array_equal(open_store(tmp_path / "d.h5").reader.rows("frames.top", 1, np.array([0, 2, 4])), pixels[[4, 6, 8]])
