"""Lance tables: those of stable-worldmodel are read as they are meant, ours come back exactly, damaged ones are refused in a sentence.

``fixtures/swm.lance`` and ``swm_episodes.lance`` were written by ``LanceWriter`` of stable-worldmodel 0.1.1 (lancedb 0.40.0): ``write_episodes`` of
the four episodes that ``original`` describes, with the columns that its ``World.collect`` records, and ``task``, ``scale``, ``scene`` and ``states``
as episode data.
"""

import contextlib
import threading
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from recordings import FULL_META, PLAIN_META, assert_same_episode, copied, damage, make_episode, read_all

from lewm.data.clips import ClipSampler
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.lance import LanceFormat
from lewm.data.formats.lance_sink import LanceSink
from lewm.data.formats.pictures import decoded, encoded
from lewm.data.formats.store import ForeignStore, open_store
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.schema import Episode

FIXTURE = Path(__file__).parent / "fixtures" / "swm.lance"
LENGTHS = (5, 3, 0, 7)
"""Env steps of the fixture's episodes; the third has one row only."""


def original(number: int) -> dict[str, np.ndarray]:
    """What episode ``number`` of the fixture was written from."""
    rng, rows = np.random.default_rng(number), LENGTHS[number] + 1
    y, x = np.mgrid[:16, :24]
    return {
        "frames": np.stack([np.stack([y * 8 + number, x * 8, np.full_like(y, step * 20)], -1) for step in range(rows)]).astype(np.uint8),
        "actions": np.array([rng.uniform(-1, 1, 2).astype(np.float32) for _ in range(rows - 1)]),
        "proprioception": np.array([rng.standard_normal(4) for _ in range(rows)], np.float32),
        "labels": np.array([rng.standard_normal(5) for _ in range(rows)], np.float32),
    }


@pytest.fixture
def foreign() -> ForeignStore:
    found = open_store(FIXTURE)
    assert isinstance(found, ForeignStore)
    return found


def write(path: Path, meta: DatasetMeta = FULL_META, lengths: tuple[int, ...] = (3, 4, 140)) -> list[Episode]:
    episodes = [make_episode(meta, number, length) for number, length in enumerate(lengths)]
    with LanceFormat.create(path, meta, resume=False) as sink:
        for episode in episodes:
            sink.append(episode)
    return episodes


def table(rows: int = 6, **changes: Any) -> pa.Table:
    """Two episodes of three rows as stable-worldmodel lays them out, with some columns put differently, or left out if None."""
    frame = encoded(np.zeros((4, 5, 3), np.uint8))
    columns = {
        "episode_idx": pa.array([0, 0, 0, 1, 1, 1], pa.int32()),
        "step_idx": pa.array([0, 1, 2, 0, 1, 2], pa.int32()),
        "pixels": pa.array([frame] * rows, pa.binary()),
        "action": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * rows, dtype=np.float32)), 2),
    }
    return pa.table({name: column for name, column in (columns | changes).items() if column is not None})


def opened(tmp_path: Path, found: pa.Table, **options: Any) -> ForeignStore:
    lance.write_dataset(found, str(tmp_path / "t.lance"))
    return LanceFormat.open(tmp_path / "t.lance", **options)


# What stable-worldmodel wrote


def test_a_foreign_table_is_recognised_by_itself_and_in_its_directory() -> None:
    assert len(open_store(FIXTURE.parent)) == len(open_store(FIXTURE)) == 3


def test_an_episode_of_one_row_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    assert open_store(FIXTURE).index["length"].tolist() == [5, 3, 7]
    assert "1 of 4 episodes" in caplog.text


@pytest.mark.parametrize(("episode", "number"), [(0, 0), (1, 1), (2, 3)])
def test_foreign_numbers_are_what_they_were(foreign: ForeignStore, episode: int, number: int) -> None:
    found, expected = foreign.episode(episode), original(number)
    np.testing.assert_array_equal(found.actions, expected["actions"])
    np.testing.assert_array_equal(found.observations.proprioception, expected["proprioception"])
    np.testing.assert_array_equal(found.labels, expected["labels"])


def test_a_foreign_reward_belongs_to_the_transition_that_reached_its_row(foreign: ForeignStore) -> None:
    np.testing.assert_array_equal(foreign.episode(0).rewards, [-1, -2, -3, -4, -5])


def test_a_foreign_episode_is_terminated_where_its_last_row_says_so(foreign: ForeignStore) -> None:
    assert foreign.index["terminated"].tolist() == [False, True, False]


def test_foreign_frames_are_those_of_the_episode_but_for_jpeg(foreign: ForeignStore) -> None:
    difference = foreign.episode(2).observations.frames[:, 0].astype(float) - original(3)["frames"]
    assert 10 * np.log10(255**2 / (difference**2).mean()) > 35


def test_goal_images_are_no_camera_unless_they_are_asked_for(foreign: ForeignStore) -> None:
    assert foreign.observation_spec.cameras == ("pixels",)
    assert LanceFormat.open(FIXTURE, frames="pixels,goal").observation_spec.cameras == ("pixels", "goal")


def test_foreign_names_come_from_the_columns(foreign: ForeignStore) -> None:
    assert foreign.label_names == tuple(f"state_{place}" for place in range(5))
    assert foreign.observation_spec.proprioception == tuple(f"proprio_{place}" for place in range(4))


def test_foreign_action_bounds_are_those_that_were_seen(foreign: ForeignStore) -> None:
    seen = np.concatenate([original(number)["actions"] for number in (0, 1, 3)])
    np.testing.assert_array_equal(foreign.action_spec.low, seen.min(0))
    np.testing.assert_array_equal(foreign.action_spec.high, seen.max(0))


def test_short_texts_and_numbers_of_a_foreign_episode_are_its_provenance(foreign: ForeignStore) -> None:
    assert foreign.episode(2).provenance == {"source": "swm.lance", "episode": 3, "task": "task 3", "scale": 3.5}


def test_columns_change_roles_by_option() -> None:
    found = LanceFormat.open(FIXTURE, proprioception="state", labels="proprio,")
    np.testing.assert_array_equal(found.episode(0).observations.proprioception, original(0)["labels"])
    np.testing.assert_array_equal(found.episode(0).labels, original(0)["proprioception"])


def test_only_the_frames_that_are_asked_for_are_decoded(foreign: ForeignStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_sizes = []
    really = Image.open
    monkeypatch.setattr(Image, "open", lambda content, **options: opened_sizes.append(1) or really(content, **options))
    foreign.reader.rows("frames.pixels", 2, np.array([1, 6]))
    assert len(opened_sizes) == 2


def test_a_clip_is_the_same_from_the_table_and_from_a_native_store(foreign: ForeignStore, tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "native", foreign.meta) as writer:
        for number in range(len(foreign)):
            writer.append(foreign.episode(number))
    options: dict[str, Any] = {"num_transitions": 1, "action_block": 2, "stack_offsets_env_steps": (-1, 0), "batch_size": 4, "seed": 3}
    clips = [
        ClipSampler(store, episode_ids=store.episode_ids, **options).batch(1)  # type: ignore[arg-type]
        for store in (foreign, EpisodeStore(tmp_path / "native"))
    ]
    for name in ("blocks", "rewards", "labels", "episode", "start_env_step"):
        np.testing.assert_array_equal(getattr(clips[0], name), getattr(clips[1], name))
    np.testing.assert_array_equal(clips[0].observations.frames, clips[1].observations.frames)


def test_many_threads_read_the_same_as_one(foreign: ForeignStore) -> None:
    expected = foreign.episode(2).observations.frames
    found: list[bool] = []

    def read() -> None:
        found.extend(np.array_equal(foreign.reader.rows("frames.pixels", 2, np.arange(8))[:, None], expected) for _ in range(5))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def test_appending_to_the_table_changes_nothing_for_who_has_it_open(tmp_path: Path) -> None:
    store = opened(tmp_path, table())
    lance.write_dataset(table(), str(tmp_path / "t.lance"), mode="append")
    assert len(store) == 2
    np.testing.assert_array_equal(store.episode(1).actions, [[6, 7], [8, 9]])


# What we write


@pytest.mark.parametrize("meta", [FULL_META, PLAIN_META], ids=["full", "plain"])
def test_what_was_written_comes_back_exactly(meta: DatasetMeta, tmp_path: Path) -> None:
    episodes = write(tmp_path / "t.lance", meta)
    store = open_store(tmp_path / "t.lance")
    assert store.meta == meta
    for number, episode in enumerate(episodes):
        assert_same_episode(store.episode(number), episode)


def test_our_columns_are_of_the_types_that_stable_worldmodel_writes_and_reads(tmp_path: Path) -> None:
    write(tmp_path / "t.lance", PLAIN_META)
    theirs, ours = lance.dataset(str(FIXTURE)).schema, lance.dataset(str(tmp_path / "t.lance")).schema
    assert {ours.field(name).type for name in ("episode_idx", "step_idx")} == {theirs.field("episode_idx").type}
    assert ours.field("pixels").type == theirs.field("pixels").type
    assert ours.field("action").type == theirs.field("reward").type


def test_an_interrupted_writer_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    path = tmp_path / "t.lance"
    episodes = write(path)
    with contextlib.suppress(KeyboardInterrupt), LanceFormat.create(path, FULL_META, resume=True) as sink:
        sink.append(make_episode(FULL_META, 3, 5))
        raise KeyboardInterrupt
    assert len(open_store(path)) == len(episodes)


def test_frames_that_no_list_names_are_dropped_when_the_writing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.lance"
    write(path)
    whole = copied(tmp_path / "t_episodes.lance", tmp_path / "kept")
    with LanceFormat.create(path, FULL_META, resume=True) as sink:
        sink.append(make_episode(FULL_META, 9, 5))
    (tmp_path / "t_episodes.lance").rename(tmp_path / "gone")
    whole.rename(tmp_path / "t_episodes.lance")  # as if the writer had been killed between its two commits
    with LanceFormat.create(path, FULL_META, resume=True) as sink:
        assert len(sink) == 3
        sink.append(make_episode(FULL_META, 3, 2))
    assert_same_episode(open_store(path).episode(3), make_episode(FULL_META, 3, 2))


def test_a_writer_holds_no_more_than_a_commit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm.data.formats.lance_sink.EPISODES_PER_COMMIT", 2)
    with LanceFormat.create(tmp_path / "t.lance", PLAIN_META, resume=False) as sink:
        assert isinstance(sink, LanceSink)
        for number in range(5):
            sink.append(make_episode(PLAIN_META, number, 2))
        assert lance.dataset(str(tmp_path / "t.lance")).count_rows() == 12


def test_an_existing_table_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path / "t.lance")
    with pytest.raises(DataError, match="already exists; continue it with --resume"):
        LanceFormat.create(tmp_path / "t.lance", FULL_META, resume=False)


def test_other_peoples_tables_are_not_continued(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was not written by lewm; it can be read but not continued"):
        LanceFormat.create(copied(FIXTURE, tmp_path / "t.lance"), FULL_META, resume=True)


def test_a_table_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    write(tmp_path / "t.lance")
    with pytest.raises(DataError, match="was made with action_spec"):
        LanceFormat.create(tmp_path / "t.lance", PLAIN_META, resume=True)


def test_two_writers_do_not_share_a_table(tmp_path: Path) -> None:
    with (
        LanceFormat.create(tmp_path / "t.lance", FULL_META, resume=False),
        pytest.raises(DataError, match="is being written by another process"),
    ):
        LanceFormat.create(tmp_path / "t.lance", FULL_META, resume=True)


@pytest.mark.parametrize("name", ["t", "a b.lance", "t_episodes.lance", ".lance"])
def test_a_name_that_lance_users_could_not_open_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is called NAME\.lance"):
        LanceFormat.create(tmp_path / name, FULL_META, resume=False)


# What is not as it should be


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": None}, "has no column 'pixels', and its binary columns are"),
        ({"pixels": pa.array([b"no picture"] * 6)}, "cannot be decoded"),
        ({"pixels": pa.array([None] * 6, pa.binary())}, "row 0 of column 'pixels' is empty"),
        ({"episode_idx": None}, "has no column 'episode_idx'"),
        ({"episode_idx": pa.array(["0"] * 6)}, "has no column 'episode_idx' of numbers"),
        ({"episode_idx": pa.array([0, 0, 1, 1, 0, 0]), "step_idx": None}, "episode 0 comes after a later one, or twice"),
        ({"episode_idx": pa.array([0, 0, 0, 0, 0, 0])}, "step 0 of episode 0 stands where step 3 belongs"),
        ({"episode_idx": pa.array([0, 0, None, 1, 1, 1])}, "column 'episode_idx' has missing values"),
        ({"episode_idx": pa.array([0, 1, 2, 3, 4, 5]), "step_idx": None}, "has no episode with two observations or more"),
        ({"action": pa.array(["left"] * 6)}, "its column 'action' is string, not numbers"),
        ({"action": pa.array([[1.0]] * 6)}, "its column 'action' is list<.*>, not numbers"),
        ({"action": pa.array([1.0, None, 1, 1, 1, 1])}, "column 'action' has missing values"),
        ({"action": pa.array([1, 1, 1, 1, np.nan, 1])}, r"episode 1, counted from env step 1: the action of env step 0 is \[nan\]"),
        ({"action": pa.array([1, 1, 1, 1, 1e300, 1])}, r"episode 1, .* is \[inf\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_table_that_is_no_recording_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        opened(tmp_path, table(**changes))


def test_an_action_that_nobody_recorded_is_zero_if_that_is_asked_for(tmp_path: Path) -> None:
    store = opened(tmp_path, table(action=pa.array([1, 2, 9, np.nan, 3, 9.0])), missing_actions="zero")
    np.testing.assert_array_equal(store.episode(1).actions, [[0], [3]])


def test_the_action_of_the_last_row_is_padding(tmp_path: Path) -> None:
    store = opened(tmp_path, table(action=pa.array([1, 2, np.inf, 3, 4, np.nan])))
    np.testing.assert_array_equal(store.reader.rows("actions", 0, np.arange(3)), [[1], [2], [np.nan]])


def test_actions_are_choices_if_their_number_is_given(tmp_path: Path) -> None:
    store = opened(tmp_path, table(action=pa.array([1, 0, np.nan, 2, 1, np.nan])), num_choices="3")
    np.testing.assert_array_equal(store.reader.rows("actions", 1, np.arange(3)), np.array([2, 1, -1], np.int64))


def test_an_action_that_is_none_of_the_choices_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path, table(action=pa.array([1, 0, np.nan, 2, 1, np.nan])), num_choices=2)
    with pytest.raises(DataError, match=r"an action is 2.0, not one of 0 to 1"):
        store.episode(1)


def test_a_table_without_actions_is_a_video(tmp_path: Path) -> None:
    assert opened(tmp_path, table(action=None)).action_spec.kind == "none"


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    frames = [encoded(np.zeros((4, 5 + (row == 4), 3), np.uint8)) for row in range(6)]
    with pytest.raises(DataError, match="episode 1: the frame has 4 x 6 px, others 4 x 5"):
        opened(tmp_path, table(pixels=pa.array(frames))).episode(1)


def test_labels_that_are_not_finite_are_refused_when_they_are_read(tmp_path: Path) -> None:
    store = opened(tmp_path, table(depth=pa.array([0, 1, 2, 3, np.nan, 5])))
    with pytest.raises(DataError, match="labels must be finite, got nan; choose others with --option labels=NAMES"):
        store.episode(1)


def test_an_option_that_names_no_column_is_refused() -> None:
    with pytest.raises(DataError, match=r"has no column 'stat' for the option labels\. Did you mean 'state'"):
        LanceFormat.open(FIXTURE, labels="stat")


@pytest.mark.parametrize("options", [{"num_choices": "many"}, {"missing_actions": "guess"}, {"num_choices": -1}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="num_choices must be"):
        LanceFormat.open(FIXTURE, **options)


def test_a_directory_of_two_tables_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("a.lance", "b.lance"):
        copied(FIXTURE, tmp_path / name)
    with pytest.raises(DataError, match=r"those in it are 'a\.lance', 'b\.lance'; name one"):
        open_store(tmp_path)


def test_frames_as_videos_are_refused_with_advice(tmp_path: Path) -> None:
    copied(FIXTURE, tmp_path / "t_videos.lance")
    with pytest.raises(DataError, match="turn it into the format 'lance' with `swm convert` first"):
        opened(tmp_path, table(pixels=None))


def test_a_table_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t.lance", PLAIN_META, (2,))
    manifest = max((tmp_path / "t.lance" / "_versions").glob("*.manifest"))
    name = next((tmp_path / "t.lance" / "data").iterdir()).name
    manifest.write_bytes(manifest.read_bytes().replace(name.encode(), b"../" * 8 + name[24:].encode()))
    with pytest.raises(DataError, match="names a file outside of itself"):
        open_store(tmp_path / "t.lance")


def test_a_thousand_tiny_episodes_are_opened_and_read(tmp_path: Path) -> None:
    frame = encoded(np.zeros((2, 2, 3), np.uint8))
    columns = {"episode_idx": np.repeat(np.arange(1000), 2), "action": np.arange(2000.0)}
    store = opened(tmp_path, pa.table({**columns, "pixels": [frame] * 2000}))
    assert len(store) == 1000
    np.testing.assert_array_equal(store.episode(999).actions, [[1998]])


def test_a_missing_table_of_episodes_costs_only_what_it_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    episodes = write(tmp_path / "t.lance")
    (tmp_path / "t_episodes.lance").rename(tmp_path / "gone")
    np.testing.assert_array_equal(open_store(tmp_path / "t.lance").episode(0).actions, episodes[0].actions)
    assert "t_episodes.lance is missing" in caplog.text


@pytest.mark.parametrize("column", ["action", "proprio", "state", "reward"])
def test_a_changed_number_does_not_pass_the_checksum_of_its_row(column: str, tmp_path: Path) -> None:
    write(tmp_path / "t.lance")
    whole = lance.dataset(str(tmp_path / "t.lance")).to_table()
    values = np.array(whole.column(column).combine_chunks().flatten())
    values[len(values) // 2] += np.float32(0.001)
    size = whole.schema.field(column).type.list_size
    place = whole.schema.get_field_index(column)
    changed = whole.set_column(place, whole.schema.field(column), pa.FixedSizeListArray.from_arrays(pa.array(values), size))
    lance.write_dataset(changed, str(tmp_path / "t.lance"), mode="overwrite")
    with pytest.raises(DataError, match="row 75 does not have its checksum"):
        open_store(tmp_path / "t.lance").episode(2)


def test_a_changed_remark_on_an_episode_does_not_pass_its_checksum(tmp_path: Path) -> None:
    write(tmp_path / "t.lance")
    beside = lance.dataset(str(tmp_path / "t_episodes.lance")).to_table()
    texts = pa.array([text.replace("push", "pull") for text in beside.column("provenance").to_pylist()])
    place = beside.schema.get_field_index("provenance")
    lance.write_dataset(beside.set_column(place, "provenance", texts), str(tmp_path / "t_episodes.lance"), mode="overwrite")
    with pytest.raises(DataError, match="the provenance of episode 1: it does not have its checksum"):
        open_store(tmp_path / "t.lance").episode(1)


def test_a_changed_setting_does_not_pass_its_checksum(tmp_path: Path) -> None:
    write(tmp_path / "t.lance", PLAIN_META)
    manifest = max((tmp_path / "t.lance" / "_versions").glob("*.manifest"))
    manifest.write_bytes(manifest.read_bytes().replace(b'"num_choices": 5', b'"num_choices": 6'))
    with pytest.raises(DataError, match=r"its entry 'lewm' cannot be used \(it does not have its checksum\)"):
        open_store(tmp_path / "t.lance")


def test_a_picture_with_a_flipped_byte_is_refused_wherever_it_was_flipped() -> None:
    content = encoded(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8))
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 4
        with pytest.raises(DataError, match="cannot be decoded"):
            decoded(bytes(changed), "here")


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_table_of_ours_is_refused_or_gives_what_was_written(seed: int, tmp_path: Path) -> None:
    episodes = write(tmp_path / "t.lance", FULL_META, (2, 3))
    files = sorted(file for kind in ("data", "_versions") for file in tmp_path.glob(f"*.lance/{kind}/*"))
    damage(files[seed % len(files)], seed=seed)
    found = read_all(tmp_path / "t.lance")
    if isinstance(found, str):
        assert str(tmp_path) in found
        return
    meta, found_episodes = found
    assert meta == FULL_META
    for got, expected in zip(found_episodes, episodes, strict=True):
        assert_same_episode(got, expected)


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_table_of_others_is_refused_or_read(seed: int, tmp_path: Path) -> None:
    copied(FIXTURE.with_name("swm_episodes.lance"), tmp_path / "t_episodes.lance")
    path = copied(FIXTURE, tmp_path / "t.lance")
    files = sorted(file for kind in ("data", "_versions") for file in path.glob(f"{kind}/*"))
    damage(files[seed % len(files)], seed=seed)
    found = read_all(path)
    if isinstance(found, str):
        assert str(tmp_path) in found
        return
    assert all(episode.actions is not None and np.isfinite(episode.actions).all() for episode in found[1])
