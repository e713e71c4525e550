"""Minari datasets: Minari's own are read as they are meant, ours are Minari's and come back exactly, damaged ones are refused in a sentence.

Foreign datasets are written by the storage classes of the Minari that is installed, from the buffers that its collector fills.
"""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from PIL import Image
from recordings import FULL_META, PLAIN_META, assert_same_episode, copied, damage, make_episode, read_all

from lewm.data.clips import ClipSampler
from lewm.data.episodes import EpisodeStore
from lewm.data.formats.minari import MinariFormat
from lewm.data.formats.minari_files import Hdf5Files
from lewm.data.formats.store import ForeignStore, open_store
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import ConfigError, DataError
from lewm.schema import ActionSpec, Episode, ObservationSpec

SIZE = (36, 40, 3)
ACTIONS = spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))
OBSERVATIONS = spaces.Dict(
    {
        "image": spaces.Box(0, 255, SIZE, np.uint8),
        "arm": spaces.Dict({"angle": spaces.Box(-np.inf, np.inf, (2,), np.float64), "mode": spaces.Discrete(3)}),
        "desired_goal": spaces.Box(-1, 1, (1,), np.float32),
        "mission": spaces.Text(40),
    }
)
LENGTHS = (5, 3, 7)


def observations(number: int) -> dict[str, Any]:
    """Of episode ``number``, as Minari's collector gathers them; frames are smooth, for JPEG's sake."""
    rng, rows = np.random.default_rng(number), LENGTHS[number] + 1
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return {
        "image": np.stack([np.stack([y * 5, x * 5, np.full_like(y, step * 20 + number)], -1) for step in range(rows)]).astype(np.uint8),
        "arm": {"angle": rng.standard_normal((rows, 2)), "mode": rng.integers(0, 3, rows)},
        "desired_goal": rng.uniform(-1, 1, (rows, 1)).astype(np.float32),
        "mission": ["open the door"] * rows,
    }


def buffer(number: int, seen: Any = None, actions: Any = None, **changes: Any) -> EpisodeBuffer:
    """An episode as Minari's collector hands it to its storage."""
    steps = LENGTHS[number]
    fields: dict[str, Any] = {
        "seed": 100 + number,
        "observations": observations(number) if seen is None else seen,
        "actions": np.random.default_rng(number).uniform(-1, 1, (steps, 2)).astype(np.float32) if actions is None else actions,
        "rewards": np.arange(steps, dtype=np.float64),
        "terminations": np.arange(steps) == (steps - 1 if number == 1 else -1),
        "truncations": np.arange(steps) == (steps - 1 if number != 1 else -1),
        "infos": {"state": {"position": np.random.default_rng(number).standard_normal((steps + 1, 3))}},
    }
    return EpisodeBuffer(**(fields | changes))


def write_foreign(
    path: Path,
    observation_space: gymnasium.Space[Any] = OBSERVATIONS,
    action_space: gymnasium.Space[Any] = ACTIONS,
    *,
    episodes: list[EpisodeBuffer] | None = None,
    data_format: str = "hdf5",
    jpeg_encoding: bool = False,
) -> Path:
    """A dataset by Minari itself; returns its path."""
    path.mkdir(parents=True)
    storage = MinariStorage.new(path / "data", observation_space, action_space, data_format=data_format, jpeg_encoding=jpeg_encoding)
    storage.update_metadata({"dataset_id": "made-up-v0", "minari_version": minari.__version__})
    storage.update_episodes(episodes or [buffer(number) for number in range(3)])
    return path


def write(path: Path, meta: DatasetMeta = FULL_META, lengths: tuple[int, ...] = (3, 4, 20)) -> list[Episode]:
    episodes = [make_episode(meta, number, length) for number, length in enumerate(lengths)]
    with MinariFormat.create(path, meta, resume=False) as sink:
        for episode in episodes:
            sink.append(episode)
    return episodes


@pytest.fixture(scope="module")
def foreign_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(tmp_path_factory.mktemp("minari") / "d")


@pytest.fixture
def foreign(foreign_path: Path) -> ForeignStore:
    found = open_store(foreign_path)
    assert isinstance(found, ForeignStore)
    return found


@pytest.fixture
def change(foreign_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the foreign dataset and edits its HDF5 file, or entries of its metadata."""

    def changed(edit: Callable[[h5py.File], object] = lambda file: None, **metadata: Any) -> Path:
        path = copied(foreign_path, tmp_path / "d")
        with h5py.File(path / "data" / "main_data.hdf5", "r+") as file:
            edit(file)
        entries = json.loads((path / "data" / "metadata.json").read_text()) | metadata
        (path / "data" / "metadata.json").write_text(json.dumps({name: value for name, value in entries.items() if value is not None}))
        return path

    return changed


# What Minari wrote


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_every_storage_of_minari_gives_what_was_recorded(data_format: str, tmp_path: Path) -> None:
    store = open_store(write_foreign(tmp_path / "d", data_format=data_format))
    for number in range(3):
        found, seen = store.episode(number), observations(number)
        np.testing.assert_array_equal(found.observations.frames[:, 0], seen["image"])
        expected = np.concatenate([seen["arm"]["angle"], seen["arm"]["mode"][:, None]], 1).astype(np.float32)
        np.testing.assert_array_equal(found.observations.proprioception, expected)
        np.testing.assert_array_equal(found.labels, seen["desired_goal"])
        np.testing.assert_array_equal(found.actions, buffer(number).actions)
        np.testing.assert_array_equal(found.rewards, np.arange(LENGTHS[number]))
        assert found.terminated == (number == 1)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_jpeg_frames_are_decoded_as_minari_decodes_them(data_format: str, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "d", data_format=data_format, jpeg_encoding=True)
    theirs = list(minari.MinariDataset(path / "data").iterate_episodes())
    np.testing.assert_array_equal(open_store(path).episode(2).observations.frames[:, 0], theirs[2].observations["image"])


def test_a_dataset_is_recognised_by_itself_and_by_its_data(foreign_path: Path) -> None:
    assert len(open_store(foreign_path)) == len(open_store(foreign_path / "data")) == 3


def test_names_come_from_the_spaces(foreign: ForeignStore) -> None:
    assert foreign.observation_spec == ObservationSpec(
        height_px=36, width_px=40, cameras=("image",), proprioception=("arm/angle_0", "arm/angle_1", "arm/mode")
    )
    assert foreign.label_names == ("desired_goal",)


def test_bounds_are_those_of_the_space(foreign: ForeignStore) -> None:
    assert foreign.action_spec == ActionSpec(kind="continuous", low=(-1, -2), high=(1, 2))


def test_bounds_that_the_space_does_not_have_are_those_that_were_seen(tmp_path: Path) -> None:
    store = open_store(write_foreign(tmp_path / "d", action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32)))
    seen = np.concatenate([buffer(number).actions for number in range(3)])
    np.testing.assert_array_equal(store.action_spec.low, seen.min(0))


def test_choices_are_counted_from_the_first(tmp_path: Path) -> None:
    episodes = [buffer(number, actions=np.array([4, 3, 6, 4, 3, 5, 5])[: LENGTHS[number]]) for number in range(3)]
    store = open_store(write_foreign(tmp_path / "d", action_space=spaces.Discrete(4, start=3), episodes=episodes))
    assert store.action_spec.num_choices == 4
    np.testing.assert_array_equal(store.reader.rows("actions", 1, np.arange(4)), np.array([1, 0, 3, -1], np.int64))  # type: ignore[union-attr]


def test_seed_and_mission_of_an_episode_are_its_provenance(foreign: ForeignStore) -> None:
    assert foreign.episode(1).provenance == {"source": "d", "episode": 1, "task": "open the door", "id": 1, "seed": 101, "total_steps": 3}


def test_infos_are_labels_if_they_are_asked_for(foreign_path: Path) -> None:
    store = MinariFormat.open(foreign_path, labels="infos/state/position,arm/mode")
    expected = [np.random.default_rng(1).standard_normal((4, 3)), observations(1)["arm"]["mode"][:, None]]
    np.testing.assert_array_equal(store.episode(1).labels, np.concatenate(expected, 1).astype(np.float32))
    assert store.label_names == (*(f"infos/state/position_{place}" for place in range(3)), "arm/mode")


@pytest.mark.parametrize(
    ("space", "as_rgb"),
    [
        (spaces.Box(0, 255, (40, 36), np.uint8), lambda frames: frames[..., None].repeat(3, -1)),
        (spaces.Box(0, 255, (40, 36, 1), np.uint8), lambda frames: frames.repeat(3, -1)),
        (spaces.Box(0, 255, (3, 40, 36), np.uint8), lambda frames: frames.transpose(0, 2, 3, 1)),
        (spaces.Box(0, 1, (40, 36, 3), np.float32), lambda frames: np.rint(frames * 255)),
    ],
    ids=["grey", "one-channel", "channels-first", "floats"],
)
def test_pictures_whose_colours_are_clear_become_rgb(space: spaces.Box, as_rgb: Callable[[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    space.seed(0)
    seen = [np.stack([space.sample() for _ in range(length + 1)]) for length in LENGTHS]
    path = write_foreign(tmp_path / "d", space, episodes=[buffer(number, seen[number]) for number in range(3)])
    np.testing.assert_array_equal(open_store(path).episode(0).observations.frames[:, 0], as_rgb(seen[0]))


def test_several_pictures_need_a_choice_and_can_be_cameras(tmp_path: Path) -> None:
    space = spaces.Tuple([spaces.Box(0, 255, SIZE, np.uint8)] * 2)
    seen = tuple(observations(number)["image"] for number in range(1))
    path = write_foreign(tmp_path / "d", space, episodes=[buffer(0, (seen[0], 255 - seen[0]))])
    with pytest.raises(DataError, match=r"has 2 pictures among its observations .* choose with --option frames=NAME"):
        open_store(path)
    store = MinariFormat.open(path, frames="1,0")
    assert store.observation_spec.cameras == ("1", "0")
    np.testing.assert_array_equal(store.episode(0).observations.frames, np.stack([255 - seen[0], seen[0]], 1))


def test_only_the_frames_that_are_asked_for_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(write_foreign(tmp_path / "d", jpeg_encoding=True))
    opened = []
    really = Image.open
    monkeypatch.setattr(Image, "open", lambda content, **options: opened.append(1) or really(content, **options))
    store.reader.rows("frames.image", 2, np.array([1, 6]))  # type: ignore[union-attr]
    assert len(opened) == 2


def test_a_clip_is_the_same_from_minari_and_from_a_native_store(foreign: ForeignStore, tmp_path: Path) -> None:
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
    np.testing.assert_array_equal(clips[0].observations.proprioception, clips[1].observations.proprioception)


def test_many_threads_read_the_same_as_one(foreign: ForeignStore) -> None:
    expected = observations(2)["image"]
    found: list[bool] = []

    def read() -> None:
        found.extend(np.array_equal(foreign.reader.rows("frames.image", 2, np.arange(8)), expected) for _ in range(5))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


def test_a_closed_reader_opens_its_file_again(foreign: ForeignStore) -> None:
    foreign.reader.close()
    foreign.reader.close()
    np.testing.assert_array_equal(foreign.episode(0).rewards, np.arange(5))


# What we write


@pytest.mark.parametrize("meta", [FULL_META, PLAIN_META], ids=["full", "plain"])
def test_what_was_written_comes_back_exactly(meta: DatasetMeta, tmp_path: Path) -> None:
    episodes = write(tmp_path / "d", meta)
    store = open_store(tmp_path / "d")
    assert store.meta == meta
    for number, episode in enumerate(episodes):
        assert_same_episode(store.episode(number), episode)


def test_minari_loads_what_was_written_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = write(tmp_path / "push-v2")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    theirs = minari.load_dataset("push-v2")
    assert list(minari.list_local_datasets()) == ["push-v2"]
    assert (theirs.total_episodes, theirs.total_steps) == (3, 27)
    for found, episode in zip(theirs.iterate_episodes(), episodes, strict=True):
        np.testing.assert_array_equal(found.observations["frames_side-2"], episode.observations.frames[:, 1])
        np.testing.assert_array_equal(found.observations["proprioception"], episode.observations.proprioception)
        np.testing.assert_array_equal(found.actions, episode.actions)
        np.testing.assert_array_equal(found.rewards, episode.rewards)
        np.testing.assert_array_equal(found.infos["labels"], episode.labels)
        assert (bool(found.terminations[-1]), bool(found.truncations[-1])) == (episode.terminated, not episode.terminated)


@pytest.mark.parametrize(
    ("meta", "observation_space", "action_space"),
    [
        (
            FULL_META,
            spaces.Dict(
                {
                    **{f"frames_{camera}": spaces.Box(0, 255, (34, 40, 3), np.uint8) for camera in ("front", "side-2")},
                    "proprioception": spaces.Box(-np.inf, np.inf, (2,), np.float32),
                }
            ),
            spaces.Box(np.float32([-1, -0.1]), np.float32([1, 0.3])),
        ),
        (PLAIN_META, spaces.Box(0, 255, (33, 32, 3), np.uint8), spaces.Discrete(5)),
    ],
    ids=["full", "plain"],
)
def test_minari_finds_our_spaces(meta: DatasetMeta, observation_space: object, action_space: object, tmp_path: Path) -> None:
    write(tmp_path / "d", meta)
    theirs = minari.MinariDataset(tmp_path / "d" / "data")
    assert (theirs.observation_space, theirs.action_space) == (observation_space, action_space)


def test_minari_can_add_to_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "d", PLAIN_META)
    more = make_episode(PLAIN_META, 7, 3)
    ends = np.zeros(3, bool)
    minari.MinariDataset(tmp_path / "d" / "data").update_dataset_from_buffer(
        [EpisodeBuffer(observations=more.observations.frames[:, 0], actions=more.actions, rewards=np.zeros(3), terminations=ends, truncations=ends)]
    )
    np.testing.assert_array_equal(open_store(tmp_path / "d").episode(3).observations.frames, more.observations.frames)


def test_an_interrupted_writer_keeps_its_episodes_and_makes_no_dataset_of_them(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), MinariFormat.create(tmp_path / "d", FULL_META, resume=False) as sink:
        sink.append(make_episode(FULL_META, 0, 5))
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="is not finished: its writer was stopped; go on with --resume"):
        open_store(tmp_path / "d")
    with MinariFormat.create(tmp_path / "d", FULL_META, resume=True) as sink:
        assert len(sink) == 1
        sink.append(make_episode(FULL_META, 1, 4))
    assert_same_episode(open_store(tmp_path / "d").episode(0), make_episode(FULL_META, 0, 5))


def test_a_writer_that_was_killed_between_its_two_files_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "d")
    before = (tmp_path / "d" / "data" / "metadata.json").read_bytes()
    with contextlib.suppress(KeyboardInterrupt), MinariFormat.create(tmp_path / "d", FULL_META, resume=True) as sink:
        sink.append(make_episode(FULL_META, 3, 6))
        raise KeyboardInterrupt
    waiting = copied(tmp_path / "d" / "unfinished", tmp_path / "kept")
    with MinariFormat.create(tmp_path / "d", FULL_META, resume=True):
        pass
    (tmp_path / "d" / "data" / "metadata.json").write_bytes(before)
    waiting.rename(tmp_path / "d" / "unfinished")
    with pytest.raises(DataError, match=r"has 4 episodes, metadata\.json says 3: its writer was stopped"):
        open_store(tmp_path / "d")
    with MinariFormat.create(tmp_path / "d", FULL_META, resume=True) as sink:
        assert len(sink) == 4
    assert_same_episode(open_store(tmp_path / "d").episode(3), make_episode(FULL_META, 3, 6))


def test_an_existing_dataset_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path / "d")
    with pytest.raises(DataError, match="already exists; continue it with --resume"):
        MinariFormat.create(tmp_path / "d", FULL_META, resume=False)


def test_other_peoples_datasets_are_not_continued(change: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="was not written by lewm; it can be read but not continued"):
        MinariFormat.create(change(), FULL_META, resume=True)


def test_a_dataset_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    write(tmp_path / "d")
    with pytest.raises(DataError, match="was made with action_spec"):
        MinariFormat.create(tmp_path / "d", PLAIN_META, resume=True)


def test_two_writers_do_not_share_a_dataset(tmp_path: Path) -> None:
    with MinariFormat.create(tmp_path / "d", FULL_META, resume=False), pytest.raises(DataError, match="is being written by another process"):
        MinariFormat.create(tmp_path / "d", FULL_META, resume=True)


def test_video_without_actions_cannot_be_written(tmp_path: Path) -> None:
    meta = DatasetMeta(observation_spec=ObservationSpec(height_px=8, width_px=8), action_spec=ActionSpec(kind="none"))
    with pytest.raises(DataError, match="Minari has no episodes without actions"):
        MinariFormat.create(tmp_path / "d", meta, resume=False)


# What is not as it should be


def _replace(name: str, values: Any) -> Callable[[h5py.File], object]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=values)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda file: file.pop("episode_1"), r"has 2 episodes, metadata\.json says 3"),
        (lambda file: file.move("episode_1", "episode_7"), "episode 1 is missing"),
        (lambda file: file.pop("episode_1/actions"), "episode 1: it has no actions"),
        (lambda file: file.pop("episode_1/rewards"), "episode 1: rewards has 0 rows, must have 3"),
        (lambda file: file.pop("episode_1/observations/image"), "observations/image has 0 rows, must have 4"),
        (_replace("episode_1/observations/image", np.zeros((3, *SIZE), np.uint8)), "observations/image has 3 rows, must have 4"),
        (_replace("episode_1/observations/image", np.zeros((4, 36, 41, 3), np.uint8)), r"is uint8 \[36, 41, 3\], its space says \[36, 40, 3\]"),
        (_replace("episode_1/observations/image", np.zeros((4, *SIZE), np.float64) + 2), "frames of floats must be from 0 to 1"),
        (_replace("episode_1/observations/image", np.zeros((4, *SIZE), np.int32)), "frames must be uint8, got int32"),
        (_replace("episode_1/observations/image", np.zeros((4, 99), np.uint8)), "the frame cannot be decoded"),
        (_replace("episode_1/observations/arm/angle", np.full((4, 2), np.nan)), "proprioception must be finite, got nan"),
        (_replace("episode_1/observations/arm/angle", [["a", "b"]] * 4), r"is object \[2\], its space says \[2\]"),
        (_replace("episode_1/actions", np.zeros((3, 3), np.float32)), r"is float32 \[3\], its space says \[2\]"),
        (_replace("episode_1/actions", np.full((3, 2), np.nan)), r"episode 1: the action of env step 0 is \[nan, nan\]"),
        (_replace("episode_1/rewards", np.full(3, 1e300)), "rewards must be finite, got inf"),
        (_replace("episode_1/terminations", [b"no"] * 3), "its space says"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_an_episode_that_is_not_as_its_spaces_say_is_refused(edit: Callable[[h5py.File], object], message: str, change: Callable[..., Path]) -> None:
    path = change(edit)
    with pytest.raises(DataError, match=message):
        open_store(path).episode(1)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"total_episodes": "many"}, "total_episodes is 'many'"),
        ({"total_episodes": None}, "KeyError: 'total_episodes'"),
        ({"data_format": "pickle"}, "data_format is 'pickle', not one of arrow, hdf5, parquet"),
        ({"observation_space": None}, "it names no observation_space"),
        ({"observation_space": "{"}, "the observation space of .* cannot be read"),
        ({"observation_space": '{"type": "Graph"}'}, "a space of type 'Graph' is unknown"),
        ({"observation_space": "[" * 100_000}, "the observation space of .* cannot be read"),
        ({"observation_space": '{"type": "Box", "dtype": "object", "shape": [1], "low": [0], "high": [1]}'}, "a Box of object holds no numbers"),
        ({"observation_space": '{"type": "Box", "dtype": "uint8", "shape": [9], "low": [0], "high": [1]}'}, r"a Box of shape \(9,\) has bounds"),
        ({"action_space": '{"type": "Dict", "subspaces": {}}'}, "has actions of nothing; lewm knows one Box or one Discrete"),
        ({"action_space": '{"type": "MultiDiscrete", "nvec": [2, 3], "dtype": "int64", "start": [0, 0]}'}, "has actions of MultiDiscrete"),
        ({"action_space": '{"type": "Discrete", "n": 1, "start": 0}'}, "is float32 .* its space says|a discrete action needs at least 2"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else next(iter(value)),
)
def test_metadata_that_describe_no_recording_are_refused(metadata: dict[str, Any], message: str, change: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=message):
        open_store(change(**metadata))


def test_an_episode_without_steps_is_left_out_and_told(change: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    def empty(file: h5py.File) -> None:
        _replace("episode_1/actions", np.zeros((0, 2), np.float32))(file)
        for name in ("rewards", "terminations", "truncations"):
            _replace(f"episode_1/{name}", np.zeros(0))(file)
        for name in ("image", "arm/angle", "arm/mode", "desired_goal"):
            whole = file[f"episode_1/observations/{name}"][:1]
            _replace(f"episode_1/observations/{name}", whole)(file)

    store = open_store(change(empty))
    assert store.index["length"].tolist() == [5, 7]
    assert "1 of 3 episodes" in caplog.text
    np.testing.assert_array_equal(store.episode(1).observations.frames[:, 0], observations(2)["image"])


def test_an_action_that_nobody_recorded_is_zero_if_that_is_asked_for(change: Callable[..., Path]) -> None:
    path = change(_replace("episode_1/actions", np.full((3, 2), np.nan)))
    np.testing.assert_array_equal(MinariFormat.open(path, missing_actions="zero").episode(1).actions, np.zeros((3, 2)))


def test_data_in_another_file_are_refused(change: Callable[..., Path], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "elsewhere.hdf5", "w") as file:
        file["rewards"] = np.zeros(3)

    def link(file: h5py.File) -> None:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = h5py.ExternalLink(str(tmp_path / "elsewhere.hdf5"), "rewards")

    with pytest.raises(DataError, match="entry 'rewards' of episode 1 is no data of this file"):
        open_store(change(link))


def test_bytes_of_any_other_file_are_refused(change: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))

    def link(file: h5py.File) -> None:
        del file["episode_1/rewards"]
        file.create_dataset("episode_1/rewards", (3,), "f8", external=[(str(tmp_path / "secret"), 0, 24)])

    with pytest.raises(DataError, match="entry 'rewards' of episode 1 is no data of this file"):
        open_store(change(link))


def test_an_endless_episode_that_was_never_written_is_refused(change: Callable[..., Path]) -> None:
    def promise(file: h5py.File) -> None:
        del file["episode_1/actions"]
        file.create_dataset("episode_1/actions", (2**40, 2), "f4", chunks=(1024, 2))

    with pytest.raises(DataError, match="entry 'actions' of episode 1 was never written"):
        open_store(change(promise))


def test_more_arrow_episodes_than_there_are_are_refused(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "d", data_format="arrow")
    entries = json.loads((path / "data" / "metadata.json").read_text()) | {"total_episodes": 10**15}
    (path / "data" / "metadata.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=r"it has 3 episodes, metadata\.json says 1000000000000000"):
        open_store(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": "imag"}, r"has no entry 'imag' for the option frames\. Did you mean 'image'"),
        ({"labels": "infos/nothing"}, "has no numbers 'infos/nothing' in its first episode"),
        ({"proprioception": "mission"}, "has no entry 'mission' for the option proprioception"),
    ],
)
def test_an_option_that_names_nothing_is_refused(options: dict[str, str], message: str, foreign_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        MinariFormat.open(foreign_path, **options)


def test_an_option_that_means_nothing_is_refused(foreign_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing_actions must be refuse or zero, got 'guess'"):
        MinariFormat.open(foreign_path, missing_actions="guess")


def test_stacked_frames_are_no_picture(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (4, 40, 36), np.uint8)
    path = write_foreign(tmp_path / "d", space, episodes=[buffer(1, np.zeros((4, 4, 40, 36), np.uint8))])
    with pytest.raises(DataError, match=r"has 0 pictures among its observations \(observation Box \[4, 40, 36\]\)"):
        open_store(path)


def test_a_long_episode_is_opened_without_reading_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d", PLAIN_META, (300,))
    read = []
    really = Hdf5Files.read
    monkeypatch.setattr(
        Hdf5Files, "read", lambda self, episode, name, rows, shape: read.append((name, len(rows))) or really(self, episode, name, rows, shape)
    )
    open_store(tmp_path / "d")
    assert read == [(("terminations",), 1)]


@pytest.mark.parametrize("name", ["actions", "rewards", "observations/proprioception", "observations/frames_front", "infos/labels"])
def test_a_flipped_byte_in_an_array_of_ours_is_noticed(name: str, tmp_path: Path) -> None:
    write(tmp_path / "d")
    main = tmp_path / "d" / "data" / "main_data.hdf5"
    with h5py.File(main) as file:
        chunk = file[f"episode_1/{name}"].id.get_chunk_info(0)
    content = bytearray(main.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    main.write_bytes(bytes(content))
    with pytest.raises(DataError, match="of a Minari dataset cannot be read"):
        open_store(tmp_path / "d").episode(1)


def test_a_flipped_byte_in_a_remark_on_an_episode_of_ours_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "d")
    main = tmp_path / "d" / "data" / "main_data.hdf5"
    main.write_bytes(main.read_bytes().replace(b"push 1", b"pull 1"))
    with pytest.raises(DataError, match="of a Minari dataset cannot be read"):
        open_store(tmp_path / "d").episode(1)


def test_a_long_remark_on_an_episode_comes_back(tmp_path: Path) -> None:
    episode = dataclasses.replace(make_episode(PLAIN_META, 0, 2), provenance={"scene": "x" * 200_000})
    with MinariFormat.create(tmp_path / "d", PLAIN_META, resume=False) as sink:
        sink.append(episode)
    assert_same_episode(open_store(tmp_path / "d").episode(0), episode)


@pytest.mark.parametrize("change_by", [-4, 1024, 2**40])
def test_a_damaged_heap_of_pictures_is_refused_where_hdf5_would_read_forever(change_by: int, tmp_path: Path) -> None:
    main = write_foreign(tmp_path / "d", jpeg_encoding=True) / "data" / "main_data.hdf5"
    content = bytearray(main.read_bytes())
    place = content.index(b"GCOL") + 24  # the size of the first object
    size = int.from_bytes(content[place : place + 8], "little")
    content[place : place + 8] = (size + change_by).to_bytes(8, "little")
    main.write_bytes(bytes(content))
    found = read_all(tmp_path / "d")
    assert isinstance(found, str)
    assert "of a Minari dataset cannot be read" in found


def test_a_changed_setting_does_not_pass_its_checksum(tmp_path: Path) -> None:
    write(tmp_path / "d")
    file = tmp_path / "d" / "data" / "metadata.json"
    file.write_text(file.read_text().replace("block/y", "block/z"))
    with pytest.raises(DataError, match=r"its entry 'lewm' cannot be used \(it does not have its checksum\)"):
        open_store(tmp_path / "d")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_a_file_that_was_cut_is_refused(name: str, share: float, foreign_path: Path, tmp_path: Path) -> None:
    path = copied(foreign_path, tmp_path / "d")
    content = (path / "data" / name).read_bytes()
    (path / "data" / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="of a Minari dataset cannot be read"):
        open_store(path)


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_dataset_of_ours_is_refused_or_gives_what_was_written(seed: int, tmp_path: Path) -> None:
    episodes = write(tmp_path / "d", FULL_META, (2, 3))
    damage(tmp_path / "d" / "data" / ("metadata.json" if seed % 5 == 0 else "main_data.hdf5"), seed=seed)
    found = read_all(tmp_path / "d")
    if isinstance(found, str):
        assert str(tmp_path) in found
        return
    meta, found_episodes = found
    assert meta == FULL_META
    for got, expected in zip(found_episodes, episodes, strict=True):
        assert_same_episode(got, expected)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("jpeg_encoding", [False, True], ids=["raw", "jpeg"])
def test_a_damaged_dataset_of_others_is_refused_or_read(seed: int, jpeg_encoding: bool, tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "d", jpeg_encoding=jpeg_encoding)
    damage(path / "data" / ("metadata.json" if seed % 5 == 0 else "main_data.hdf5"), seed=seed)
    found = read_all(path)
    if isinstance(found, str):
        assert str(tmp_path) in found
        return
    assert all(episode.actions is not None and np.isfinite(episode.actions).all() for episode in found[1])
