"""LeRobot v3 datasets: what the lerobot library wrote is read as it was meant, and what contradicts itself is refused.

``fixtures/lerobot_video.zip`` and ``lerobot_images.zip`` were written by lerobot 0.4.4 (numpy 2.2.6, datasets 4.8.5, PyAV 15.1; videos in AV1):
``LeRobotDataset.create(fps=10, robot_type="toy", features=...)`` with two cameras 64 x 80 px, ``observation.state`` [3] named a, b, c, ``action`` [2]
named x, y, ``next.reward`` and ``next.done``; ``add_frame`` for frames t = 0 .. 4 + e of episodes e = 0, 1, 2, ``save_episode``, ``finalize``. The
dataset was reopened before episode 2, which therefore has files of its own. All pixels of a frame are (40 + 50 e, 20 + 20 t, 60 for camera ``top`` or
180 for ``wrist``); state is (e, t, 0.5), action (e + t / 10, -t), reward t; tasks are push, pull, push.

Axes: E episode, N env step, n row, Y X image.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from film import assert_clips_are_those_of_a_native_copy, pictures, write_film

from lewm.data.formats.lerobot_layout import filled
from lewm.data.formats.store import open_store
from lewm.errors import ConfigError, DataError

FIXTURES = Path(__file__).parent / "fixtures"
AV1_ERROR = 6
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"


@pytest.fixture(params=["video", "images"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What the library wrote."""
    with zipfile.ZipFile(FIXTURES / f"lerobot_{request.param}.zip") as archive:
        archive.extractall(tmp_path / "dataset")
    return tmp_path / "dataset"


@pytest.fixture
def video_dataset(tmp_path: Path) -> Path:
    with zipfile.ZipFile(FIXTURES / "lerobot_video.zip") as archive:
        archive.extractall(tmp_path / "dataset")
    return tmp_path / "dataset"


def edit_info(dataset: Path, change: Callable[[dict], object]) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    change(info)
    (dataset / "meta/info.json").write_text(json.dumps(info))


def edit_table(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def with_column(name: str, values: object) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.schema.get_field_index(name), name, values if isinstance(values, pa.Array) else pa.array(values))


def test_episodes_of_the_library_are_read_with_every_frame_in_its_place(dataset: Path) -> None:
    store = open_store(dataset)
    np.testing.assert_array_equal(store.index["length"], [4, 5, 6])
    assert store.observation_spec.cameras == ("top", "wrist")
    for e in range(3):
        t = np.arange(5 + e)
        expected = np.stack([np.stack([np.full_like(t, 40 + 50 * e), 20 + 20 * t, np.full_like(t, blue)], -1) for blue in (60, 180)], 1)
        frames = store.episode(e).observations.frames.astype(int)
        assert np.abs(frames - expected[:, :, None, None, :]).max() <= AV1_ERROR


def test_numbers_of_the_library_are_read_exactly(dataset: Path) -> None:
    store = open_store(dataset)
    assert store.observation_spec.proprioception == ("a", "b", "c")
    assert store.meta.provenance["action_names"] == ["x", "y"]
    for e in range(3):
        episode, t = store.episode(e), np.arange(5 + e)
        np.testing.assert_array_equal(episode.observations.proprioception, np.stack([0 * t + e, t, 0 * t + 0.5], -1).astype(np.float32))
        np.testing.assert_array_equal(episode.actions, np.stack([e + t / 10, -t], -1)[:-1].astype(np.float32))
        np.testing.assert_array_equal(episode.rewards, t[:-1])


def test_the_action_of_the_last_frame_is_dropped_and_bounds_are_those_of_the_others(dataset: Path) -> None:
    spec = open_store(dataset).action_spec
    assert (spec.low, spec.high) == ((0.0, -5.0), (2.5, 0.0))


def test_task_and_file_are_kept_as_provenance(dataset: Path) -> None:
    store = open_store(dataset)
    assert [store.episode(e).provenance["task"] for e in range(3)] == ["push", "pull", "push"]
    assert store.episode(2).provenance["source"] == "data/chunk-000/file-001.parquet"
    assert store.meta.provenance["fps"] == 10


def test_one_camera_can_be_chosen(dataset: Path) -> None:
    store = open_store(dataset, options={"cameras": "wrist"})
    assert store.observation_spec.cameras == ("wrist",)
    assert store.episode(0).observations.frames[0, 0, 0, 0, 2] > 150


def test_clips_are_those_of_a_native_copy(dataset: Path, tmp_path: Path) -> None:
    assert_clips_are_those_of_a_native_copy(open_store(dataset), tmp_path / "native")


def test_another_feature_can_be_read_as_labels(dataset: Path) -> None:
    store = open_store(dataset, options={"labels": "observation.state", "proprioception": ""})
    assert (store.label_names, store.observation_spec.proprioception) == (("a", "b", "c"), ())


def test_a_feature_that_is_not_there_is_refused_with_the_nearest_name(dataset: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no feature 'observation\.stat'.* Did you mean 'observation\.state'"):
        open_store(dataset, options={"labels": "observation.stat"})


def test_a_camera_that_is_not_there_is_refused_with_the_nearest_name(dataset: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no camera 'wrst'\. Did you mean 'wrist'"):
        open_store(dataset, options={"cameras": "wrst"})


def test_version_2_is_refused_with_the_way_to_convert_it(dataset: Path) -> None:
    edit_info(dataset, lambda info: info.update(codebase_version="v2.1"))
    with pytest.raises(DataError, match=r"version v2\.1, version 3 is read; .*convert_dataset_v21_to_v30"):
        open_store(dataset)


def test_cameras_of_different_sizes_are_refused_unless_one_is_chosen(video_dataset: Path) -> None:
    edit_info(video_dataset, lambda info: info["features"]["observation.images.wrist"].update(shape=[32, 40, 3]))
    with pytest.raises(DataError, match=r"different sizes \(top 64 x 80, wrist 32 x 40 px\).*cameras=NAME"):
        open_store(video_dataset)
    assert len(open_store(video_dataset, options={"cameras": "top"})) == 3


def test_cameras_whose_names_end_alike_are_told_apart(video_dataset: Path) -> None:
    edit_info(video_dataset, lambda info: info["features"].update({"observation.top": info["features"]["observation.images.top"]}))
    with pytest.raises(DataError, match=r"has no column 'videos/observation\.top/chunk_index'"):
        open_store(video_dataset, options={"cameras": "2_observation_top"})


def test_depth_maps_are_left_out(video_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_info(video_dataset, lambda info: info["features"]["observation.images.wrist"]["info"].update({"video.is_depth_map": True}))
    assert open_store(video_dataset).observation_spec.cameras == ("top",)
    assert "depth maps are left out" in caplog.text


def test_a_video_of_another_size_is_refused_at_opening(video_dataset: Path) -> None:
    write_film(video_dataset / VIDEO, pictures(11))
    with pytest.raises(DataError, match=r"file-000\.mp4' has frames of 32 x 48 px, meta/info\.json says 64 x 80"):
        open_store(video_dataset)


def test_a_missing_video_is_refused_at_opening(video_dataset: Path) -> None:
    (video_dataset / VIDEO).unlink()
    with pytest.raises(DataError, match=r"top/chunk-000/file-000\.mp4' is missing"):
        open_store(video_dataset)


def test_a_frame_that_the_video_does_not_have_is_refused_by_its_number(video_dataset: Path) -> None:
    edit_table(video_dataset / EPISODES, with_column("videos/observation.images.top/from_timestamp", [0.0, 0.8]))
    store = open_store(video_dataset)
    with pytest.raises(DataError, match=r"file-000\.mp4' has no frame of its own for frame 3 of episode 1"):
        store.episode(1)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("name", ["meta/info.json", EPISODES, DATA, VIDEO])
def test_a_file_that_is_cut_off_is_refused_at_opening(video_dataset: Path, name: str, share: float) -> None:
    content = (video_dataset / name).read_bytes()
    (video_dataset / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=Path(name).name.replace(".", r"\.")):
        open_store(video_dataset)


@pytest.mark.parametrize("name", ["meta/info.json", EPISODES, DATA, VIDEO])
def test_flipped_bytes_lead_to_episodes_or_to_one_sentence(video_dataset: Path, name: str) -> None:
    content, generator, outcomes = (video_dataset / name).read_bytes(), np.random.default_rng(0), []
    for _ in range(12):
        spoilt = np.frombuffer(content, np.uint8).copy()
        spoilt[generator.integers(len(spoilt), size=3)] = generator.integers(256, size=3)
        (video_dataset / name).write_bytes(spoilt.tobytes())
        outcomes.append(_outcome_of(video_dataset))
    assert all(outcome is None or len(outcome) > 20 for outcome in outcomes)
    assert any(outcomes)


def _outcome_of(path: Path) -> str | None:
    """What is said of a dataset, None if it can be read."""
    try:
        store = open_store(path, format="lerobot")
        for number in range(len(store)):
            store.episode(number)
    except (DataError, ConfigError) as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (EPISODES, with_column("episode_index", [0, 0]), "lists episode 0 twice"),
        (EPISODES, lambda table: table.slice(0, 1), "lists 2 of 3 episodes"),
        (EPISODES, with_column("length", [5, 7]), "has 6 of the 7 rows of episode 1"),
        (EPISODES, with_column("length", ["5", "6"]), "numbers are needed"),
        (EPISODES, with_column("data/file_index", [0, -1]), "numbers from 0 on in column 'data/file_index'"),
        (EPISODES, with_column("data/file_index", [0, 7]), r"file-007\.parquet' is missing"),
        (EPISODES, lambda table: table.drop_columns(["length"]), "has no column 'length'"),
        (DATA, lambda table: table.drop_columns(["action"]), "has no column 'action'"),
        (DATA, with_column("episode_index", [0, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1]), "has episode 0 in two pieces"),
        (DATA, with_column("episode_index", [float("nan")] * 11), "'episode_index' must be whole numbers"),
        (DATA, with_column("frame_index", [0, 1, 2, 4, 3, 0, 1, 2, 3, 4, 5]), "episode 0 are not in the order of their frames"),
        (DATA, with_column("action", [[1.0]] * 5 + [[1.0, 2.0]] * 6), "lists of different lengths"),
        (DATA, with_column("action", ["left"] * 11), "numbers are needed"),
        (DATA, with_column("action", [[1.0, 2.0, 3.0]] * 11), "has actions of 2 numbers, other files of 3"),
        (DATA, with_column("action", list(range(11))), "has actions of different types in its files|has actions of 2 numbers, other files of 1"),
    ],
)
def test_tables_that_contradict_each_other_are_refused_at_opening(
    video_dataset: Path, file: str, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    edit_table(video_dataset / file, change)
    with pytest.raises(DataError, match=message):
        open_store(video_dataset)


def test_images_that_are_only_named_in_the_rows_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(FIXTURES / "lerobot_images.zip") as archive:
        archive.extractall(tmp_path / "dataset")
    edit_table(tmp_path / "dataset" / DATA, with_column("observation.images.top", ["../../frame.png"] * 11))
    store = open_store(tmp_path / "dataset")
    with pytest.raises(DataError, match=r"observation\.images\.top of frame 0 of episode 0 is no image in the file"):
        store.episode(0)


def test_a_missing_action_is_refused_or_made_zero_as_the_option_says(video_dataset: Path) -> None:
    actions = [[float("nan"), 1.0] if row == 2 else [0.5, 1.0] for row in range(11)]
    edit_table(video_dataset / DATA, with_column("action", actions))
    with pytest.raises(DataError, match=r"episode 0: the action of env step 2 is .*missing_actions=zero"):
        open_store(video_dataset)
    np.testing.assert_array_equal(open_store(video_dataset, options={"missing_actions": "zero"}).episode(0).actions[2], [0, 1])


def test_a_missing_action_of_the_last_frame_is_of_no_account(video_dataset: Path) -> None:
    edit_table(video_dataset / DATA, with_column("action", [[float("nan")] * 2 if row == 4 else [0.5, 1.0] for row in range(11)]))
    assert np.isfinite(open_store(video_dataset).episode(0).actions).all()


@pytest.mark.parametrize("column", ["observation.state", "next.reward"])
def test_what_is_not_finite_is_refused_when_it_is_read(video_dataset: Path, column: str) -> None:
    width = {"observation.state": 3, "next.reward": 0}[column]
    values = [[float("nan") if row == 7 else 0.0] * width if width else float("nan") if row == 7 else 0.0 for row in range(11)]
    edit_table(video_dataset / DATA, with_column(column, values))
    store = open_store(video_dataset)
    with pytest.raises(DataError, match=rf"episode 1: {column} of frame 2 is not finite"):
        store.episode(1)


@pytest.mark.parametrize(
    "template", ["../outside/file-{file_index:03d}.parquet", "/etc/passwd", "data/{chunk_index.__class__}", "{chunk_index:0999999999d}", ""]
)
def test_paths_that_lead_out_of_the_dataset_or_do_anything_else_are_refused(video_dataset: Path, template: str) -> None:
    edit_info(video_dataset, lambda info: info.update(data_path=template))
    with pytest.raises(DataError, match=r"info\.json' has a wrong entry .* is not a path of a file in the dataset"):
        open_store(video_dataset)


def test_the_name_of_a_camera_cannot_lead_out_of_the_dataset() -> None:
    with pytest.raises(ValueError, match="is not a path of a file in the dataset"):
        filled("videos/{video_key}/{file_index}.mp4", 0, 0, "../../outside")


@pytest.mark.parametrize("change", [{"fps": 0}, {"fps": "many"}, {"total_episodes": None}, {"features": {"a": 1}}, {"features": []}])
def test_a_wrong_entry_is_refused(video_dataset: Path, change: dict[str, object]) -> None:
    edit_info(video_dataset, lambda info: info.update(change))
    with pytest.raises(DataError, match=r"info\.json' has a wrong entry"):
        open_store(video_dataset)


def test_episodes_of_one_frame_are_left_out_and_the_others_keep_their_numbers(video_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_table(video_dataset / EPISODES, with_column("length", [1, 6]))
    edit_table(video_dataset / DATA, lambda table: table.slice(4).set_column(5, "frame_index", pa.array([0, 0, 1, 2, 3, 4, 5])))
    store = open_store(video_dataset)
    assert [store.episode(number).provenance["lerobot_episode"] for number in range(len(store))] == [1, 2]
    assert "1 of 3 episodes have fewer than two observations" in caplog.text
