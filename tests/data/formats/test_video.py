"""Plain videos with tables beside them: whose action is whose, and what is refused.

Axes: n frame, N env step, Y X image.
"""

import logging
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from film import HEIGHT_PX, WIDTH_PX, assert_clips_are_those_of_a_native_copy, decoded, pictures, write_film

from lewm.data.formats.side_tables import held_rows
from lewm.data.formats.store import open_store
from lewm.errors import ConfigError, DataError

NAMES = ("dx", "dy", "grip")


def table(num_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_rows, 3)).astype(np.float32).astype(np.float64)


def write_csv(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    path.write_text("\n".join([",".join(names), *(",".join(repr(float(value)) for value in row) for row in values)]) + "\n")


def write_npy(path: Path, values: np.ndarray) -> None:
    np.save(path, values)


def write_parquet(path: Path, values: np.ndarray) -> None:
    pq.write_table(pa.table({name: values[:, column] for column, name in enumerate(NAMES)}), path)


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {".csv": write_csv, ".npy": write_npy, ".parquet": write_parquet}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Episodes take2 (6 frames) and take10 (8 frames), with a row for every frame."""
    path = tmp_path / "takes"
    path.mkdir()
    for number, num_frames in ((10, 8), (2, 6)):
        write_film(path / f"take{number}.mp4", pictures(num_frames, number))
        write_csv(path / f"take{number}.csv", table(num_frames, number))
    return path


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("num_missing", [0, 1])
def test_row_n_of_a_table_is_the_action_after_frame_n_and_a_last_one_leads_nowhere(tmp_path: Path, suffix: str, num_missing: int) -> None:
    write_film(tmp_path / "a.mp4", pictures(6))
    WRITERS[suffix](tmp_path / f"a{suffix}", table(6)[: 6 - num_missing])
    episode = open_store(tmp_path).episode(0)
    np.testing.assert_array_equal(episode.observations.frames[:, 0], decoded(tmp_path / "a.mp4"))
    np.testing.assert_array_equal(episode.actions, table(6)[:5].astype(np.float32))


def test_episodes_come_in_natural_order_with_their_file_as_source(folder: Path) -> None:
    store = open_store(folder)
    assert [store.episode(number).provenance["source"] for number in range(2)] == ["take2.mp4", "take10.mp4"]
    np.testing.assert_array_equal(store.index["length"], [5, 7])


def test_names_of_columns_are_kept_and_bounds_are_those_that_were_seen(folder: Path) -> None:
    meta = open_store(folder).meta
    seen = np.concatenate([table(6, 2)[:5], table(8, 10)[:7]]).astype(np.float32)
    assert meta.provenance["action_names"] == list(NAMES)
    np.testing.assert_array_equal(meta.action_spec.low, seen.min(0))
    np.testing.assert_array_equal(meta.action_spec.high, seen.max(0))


def test_named_columns_become_proprioception_labels_and_rewards(folder: Path) -> None:
    for number, num_frames in ((10, 8), (2, 6)):
        write_csv(folder / f"take{number}.csv", np.arange(4 * num_frames).reshape(-1, 4) + number, ("a", "b", "c", "r"))
    store = open_store(folder, options={"proprioception": "b", "labels": "c", "reward": "r"})
    episode = store.episode(0)
    assert store.observation_spec.proprioception == ("b",)
    assert store.label_names == ("c",)
    np.testing.assert_array_equal(episode.actions[:, 0], 4 * np.arange(5) + 2)
    np.testing.assert_array_equal(episode.observations.proprioception[:, 0], 4 * np.arange(6) + 3)
    np.testing.assert_array_equal(episode.labels[:, 0], 4 * np.arange(6) + 4)
    np.testing.assert_array_equal(episode.rewards, 4 * np.arange(5) + 5)


def test_whole_numbers_are_discrete_actions_if_they_are_called_so(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", pictures(5))
    write_npy(tmp_path / "a.npy", np.array([0, 2, 1, 0]))
    store = open_store(tmp_path, options={"num_choices": 4})
    assert (store.action_spec.kind, store.action_spec.num_choices) == ("discrete", 4)
    np.testing.assert_array_equal(store.columns("actions", [0])[0][:], [0, 2, 1, 0, -1])


def test_videos_without_tables_have_no_actions_and_one_file_is_a_dataset_too(tmp_path: Path) -> None:
    store = open_store(write_film(tmp_path / "a.mkv", pictures(5), codec="ffv1", pixels="bgr0"))
    assert store.action_spec.kind == "none"
    np.testing.assert_array_equal(store.episode(0).observations.frames[:, 0], pictures(5))


def test_rows_at_another_rate_are_matched_by_time(tmp_path: Path) -> None:
    """Frames at 10 Hz, rows at 25 Hz: the row in force at frame n is the last one recorded at or before n / 10 s."""
    write_film(tmp_path / "a.mp4", pictures(5))
    write_npy(tmp_path / "a.npy", np.arange(11.0))
    store = open_store(tmp_path, options={"fps": "25"})
    np.testing.assert_array_equal(store.episode(0).actions[:, 0], [0, 2, 5, 7])


def test_rows_are_matched_with_frames_at_uneven_times(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mkv", pictures(4), codec="ffv1", pixels="bgr0", times_ms=[0, 150, 200, 900])
    write_npy(tmp_path / "a.npy", np.arange(9.0))
    np.testing.assert_array_equal(open_store(tmp_path, options={"fps": 10}).episode(0).actions[:, 0], [0, 1, 2])


@pytest.mark.parametrize("rate_hz", [1.0, 10.0, 29.97, 250.0])
@pytest.mark.parametrize("num_rows_off", [-0.4, 0.0, 0.4])
def test_a_row_is_held_from_its_time_to_that_of_the_next(rate_hz: float, num_rows_off: float) -> None:
    times_s = np.sort(np.random.default_rng(0).uniform(0, 20, 60)) + 5
    num_rows = int((times_s[-1] - times_s[0]) * rate_hz + 1 + num_rows_off)
    rows = held_rows(num_rows, rate_hz, times_s, "it")[:-1]
    since_s = times_s[:-1] - times_s[0] - rows / rate_hz
    assert (since_s >= -1e-9).all()
    assert (since_s < 1 / rate_hz + 1e-9).all()


@pytest.mark.parametrize("num_rows", [5, 30])
def test_rows_at_another_rate_that_end_too_early_or_late_are_refused(tmp_path: Path, num_rows: int) -> None:
    write_film(tmp_path / "a.mp4", pictures(5))
    write_npy(tmp_path / "a.npy", np.arange(float(num_rows)))
    with pytest.raises(DataError, match=rf"a\.npy': {num_rows} rows at 25 Hz last .* do not belong together"):
        open_store(tmp_path, options={"fps": 25})


@pytest.mark.parametrize("num_rows", [4, 7, 12])
def test_rows_that_cannot_be_matched_with_frames_are_refused(tmp_path: Path, num_rows: int) -> None:
    write_film(tmp_path / "a.mp4", pictures(6))
    write_npy(tmp_path / "a.npy", np.zeros((num_rows, 2)))
    with pytest.raises(DataError, match=rf"has {num_rows} rows for the 6 frames of .*, 5 or 6 are needed; .*fps=RATE"):
        open_store(tmp_path)


def test_proprioception_needs_a_row_for_the_last_frame_too(folder: Path) -> None:
    write_csv(folder / "take2.csv", table(5))
    with pytest.raises(DataError, match=r"take2\.csv' has 5 rows for the 6 frames of .*, 6 are needed"):
        open_store(folder, options={"proprioception": "grip"})


def test_a_missing_action_is_refused_or_made_zero_as_the_option_says(folder: Path) -> None:
    values = table(6)
    values[3, 1] = np.nan
    write_csv(folder / "take2.csv", values)
    with pytest.raises(DataError, match=r"take2\.csv': the action of env step 3 is .*missing_actions=zero"):
        open_store(folder)
    actions = open_store(folder, options={"missing_actions": "zero"}).episode(0).actions
    np.testing.assert_array_equal(actions, np.nan_to_num(values[:5]).astype(np.float32))


def test_a_missing_action_of_the_last_frame_is_of_no_account(folder: Path) -> None:
    values = table(6)
    values[5] = np.nan
    write_csv(folder / "take2.csv", values)
    np.testing.assert_array_equal(open_store(folder).episode(0).actions, values[:5].astype(np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dx,dy,grip\n1,2,3\n4,5\n", "cannot be read as a table of numbers"),
        ("dx,dy,grip\n1,2,left\n", "cannot be read as a table of numbers"),
        ("dx,dx,grip\n1,2,3\n", "columns with distinct names"),
        ("", "it is empty"),
        ("dx,dy\n" + "1,2\n" * 6, "has other columns than"),
        ("grip,dy,dx\n" + "1,2,3\n" * 6, "another order"),
        ("dx,dy,grip\n# 1,2,3\n" + "1,2,3\n" * 5, "cannot be read as a table of numbers"),
    ],
)
def test_a_csv_file_that_is_no_table_of_the_same_columns_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "take10.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_store(folder)


def test_a_csv_file_without_names_has_numbered_columns(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", pictures(3))
    (tmp_path / "a.csv").write_text("1,2\n3,4\n5,6\n")
    store = open_store(tmp_path)
    assert store.meta.provenance["action_names"] == ["action_0", "action_1"]
    np.testing.assert_array_equal(store.episode(0).actions, [[1, 2], [3, 4]])


def test_lists_in_a_parquet_file_become_numbered_columns(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", pictures(3))
    pq.write_table(pa.table({"arm": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "grip": [0, 1, 0]}), tmp_path / "a.parquet")
    store = open_store(tmp_path)
    assert store.meta.provenance["action_names"] == ["arm_0", "arm_1", "grip"]
    np.testing.assert_array_equal(store.episode(0).actions, [[1, 2, 0], [3, 4, 1]])


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_a_table_that_is_cut_off_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    write_film(tmp_path / "a.mp4", pictures(6))
    WRITERS[suffix](tmp_path / f"a{suffix}", table(6))
    content = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"a\{suffix}' cannot be read"):
        open_store(tmp_path)


class Trap:
    """Pickled, it would leave a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", pictures(3))
    np.save(tmp_path / "a.npy", np.array([Trap(tmp_path / "sprung")] * 3, object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy' cannot be read as a table of numbers"):
        open_store(tmp_path)
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(DataError, match=r"a\.npy' cannot be read as a table of numbers"):
        open_store(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_videos_of_another_size_are_refused_at_opening(folder: Path) -> None:
    write_film(folder / "take10.mp4", pictures(8, height_px=16))
    with pytest.raises(DataError, match=r"take10\.mp4' has frames of 16 x 48 px, .*take2\.mp4' of 32 x 48.*-vf scale"):
        open_store(folder)


def test_a_table_that_only_some_videos_have_is_refused(folder: Path) -> None:
    (folder / "take10.csv").unlink()
    with pytest.raises(DataError, match=r"take10\.mp4' has no actions"):
        open_store(folder)


def test_two_tables_for_one_video_are_refused(folder: Path) -> None:
    write_npy(folder / "take2.npy", table(6))
    with pytest.raises(DataError, match=r"take2\.mp4' has two tables, take2\.csv and take2\.npy"):
        open_store(folder)


def test_two_videos_of_one_name_are_refused(folder: Path) -> None:
    write_film(folder / "take2.mkv", pictures(6))
    with pytest.raises(DataError, match="two videos called 'take2'"):
        open_store(folder)


def test_a_column_that_is_not_there_is_refused_with_the_nearest_name(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no column 'gripp'.* Did you mean 'grip'\?"):
        open_store(folder, options={"labels": "gripp"})


def test_columns_of_tables_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no tables beside its videos"):
        open_store(write_film(tmp_path / "a.mp4", pictures(3)), options={"fps": 10})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": "fast"}, "fps must be a number above 0"),
        ({"missing_actions": "drop"}, "missing_actions must be 'refuse' or 'zero'"),
        ({"actions": "dx", "labels": "dx"}, "a column can be one thing only"),
        ({"num_choices": 1}, "num_choices must be a whole number from 2 on"),
        ({"read_through": "perhaps"}, "must be true or false"),
        ({"reward": "dx", "fps": 10}, "rewards cannot be matched by time"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(folder, options=options)


def test_a_video_of_one_frame_is_left_out_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_film(folder / "take3.mp4", pictures(1))
    write_csv(folder / "take3.csv", table(1))
    with caplog.at_level(logging.WARNING):
        assert len(open_store(folder)) == 2
    assert "1 of 3 episodes have fewer than two observations" in caplog.text


def test_a_video_that_is_cut_off_is_refused_at_opening(folder: Path) -> None:
    content = (folder / "take10.mp4").read_bytes()
    (folder / "take10.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"take10\.mp4' is cut off"):
        open_store(folder)


def test_frames_that_were_cut_away_without_encoding_anew_are_not_counted_as_shown(tmp_path: Path) -> None:
    """The edit list of the film is set to leave out its first 10 frames, two after a keyframe."""
    path = write_film(tmp_path / "a.mp4", pictures(20), pixels="yuv420p", num_between=2)
    played, content = decoded(path), bytearray(path.read_bytes())
    media_time = content.index(b"elst") + 16
    content[media_time : media_time + 4] = (int.from_bytes(content[media_time : media_time + 4], "big") + 10 * 1024).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"announces 20 frames but shows 10: .*read_through=true"):
        open_store(path).episode(0)
    frames = open_store(path, options={"read_through": "true"}).episode(0).observations.frames
    np.testing.assert_array_equal(frames[:, 0], played[10:])


def test_discrete_actions_that_are_no_whole_numbers_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="choices must be one column of whole numbers from 0 to 2"):
        open_store(folder, options={"num_choices": 3, "actions": "dx"})


def test_clips_are_those_of_a_native_copy(folder: Path, tmp_path: Path) -> None:
    store = open_store(folder, options={"proprioception": "grip", "labels": "dy"})
    assert_clips_are_those_of_a_native_copy(store, tmp_path / "native")


def test_many_little_videos_are_read_by_many_threads_with_few_files_open(tmp_path: Path, few_descriptors: None) -> None:
    film = write_film(tmp_path / "0.mp4", pictures(3))
    for number in range(150):
        (tmp_path / f"{number}.mp4").write_bytes(film.read_bytes())
        write_npy(tmp_path / f"{number}.npy", np.full((3, 1), number))
    store, played = open_store(tmp_path), decoded(film)

    def is_right(number: int) -> bool:
        episode = store.episode(number)
        return bool((episode.actions == number).all() and np.array_equal(episode.observations.frames[:, 0], played))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_right, range(150)))


def test_the_fingerprint_changes_with_a_file_and_with_what_is_made_of_it(folder: Path) -> None:
    hashes = {open_store(folder).dataset_sha256, open_store(folder, options={"fps": 10}).dataset_sha256}
    write_csv(folder / "take2.csv", table(6) + 1)
    hashes.add(open_store(folder).dataset_sha256)
    assert len(hashes) == 3


def test_opening_reads_no_frame_but_the_first_of_each_file(tmp_path: Path) -> None:
    """A frame in the middle is spoilt, which is found when it is asked for."""
    path = write_film(tmp_path / "a.mp4", pictures(20))
    content = path.read_bytes()
    middle = content.index(b"mdat") + 2 * (len(content) - content.index(b"mdat")) // 5
    path.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    store = open_store(path)
    assert store.num_env_steps == 19
    np.testing.assert_array_equal(store.columns("frames.video", [0])[0][:1].shape, (1, HEIGHT_PX, WIDTH_PX, 3))
    with pytest.raises(DataError, match=r"a\.mp4' is damaged: frame \d+ "):
        store.episode(0)
