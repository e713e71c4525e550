"""What is written as a LeRobot v3 dataset comes back, whole episodes only, and can be continued.

lerobot 0.4.4 reads what is written here, frames with 42 dB and actions exactly, and can append to it; that was tried by hand, for the library
needs more packages than a test may ask for.

Axes: N env step, n row, V view (here: camera), Y X image.
"""

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from film import assert_clips_are_those_of_a_native_copy, pictures

from lewm.data.formats import lerobot_writing
from lewm.data.formats.lerobot import LeRobotFormat
from lewm.data.formats.lerobot_statistics import combined, frame_statistics, statistics_of
from lewm.data.formats.store import ForeignStore, open_store
from lewm.data.layout import DatasetMeta
from lewm.errors import DataError
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

FIXTURES = Path(__file__).parent / "fixtures"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA = "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"

META = DatasetMeta(
    observation_spec=ObservationSpec(height_px=32, width_px=48, cameras=("top", "wrist"), proprioception=("arm", "grip")),
    action_spec=ActionSpec(kind="continuous", low=(-1.0, -2.0, -3.0), high=(1.0, 2.0, 3.0), action_repeat=2),
    label_names=("only",),
    has_rewards=True,
    env={"name": "two-room", "version": 1, "options": {}},
    provenance={"fps": 20, "action_names": ["x", "y", "z"]},
)


def new_episode(number: int, num_env_steps: int = 9, meta: DatasetMeta = META) -> Episode:
    generator, rows = np.random.default_rng(number), num_env_steps + 1
    frames = np.stack([pictures(rows, number), pictures(rows, number)[:, ::-1]], 1)
    return Episode(
        observations=Observation(frames, generator.normal(size=(rows, 2)).astype(np.float32)),
        actions=generator.uniform(-1, 1, (num_env_steps, 3)).astype(np.float32),
        labels=generator.normal(size=(rows, 1)).astype(np.float32),
        rewards=generator.normal(size=num_env_steps).astype(np.float32),
        terminated=number % 2 == 0,
        provenance={"task": f"task {number % 2}", "number": number},
    )


def write(path: Path, numbers: range, *, resume: bool = False, meta: DatasetMeta = META) -> ForeignStore:
    with LeRobotFormat.create(path, meta, resume=resume) as sink:
        for number in numbers:
            assert sink.append(new_episode(number)) == number
    return LeRobotFormat.open(path)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two episodes to a file."""
    monkeypatch.setattr(lerobot_writing, "MAX_GROUP_S", 0.6)


def test_what_is_written_comes_back(tmp_path: Path, small_groups: None) -> None:
    store = write(tmp_path / "d", range(5))
    assert store.meta.difference(META) is None
    assert store.meta.provenance["action_names"] == ["x", "y", "z"]
    for number in range(5):
        episode, written = store.episode(number), new_episode(number)
        for name in ("actions", "labels", "rewards", "terminated"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(written, name), err_msg=name)
        np.testing.assert_array_equal(episode.observations.proprioception, written.observations.proprioception)
        assert episode.provenance.items() >= written.provenance.items()
        assert_alike(episode.observations.frames, written.observations.frames)


def assert_alike(frames: np.ndarray, others: np.ndarray) -> None:
    """With 38 dB or more, each of them."""
    error = frames.astype(np.float64) - others
    assert ((error**2).mean((2, 3, 4)) <= 255**2 / 10**3.8).all()


def test_several_episodes_share_a_file_and_a_file_ends_when_it_is_long_enough(tmp_path: Path, small_groups: None) -> None:
    write(tmp_path / "d", range(5))
    files = sorted(file.name for file in (tmp_path / "d/videos/observation.images.top/chunk-000").iterdir())
    assert files == ["file-000.mp4", "file-001.mp4", "file-002.mp4"]
    assert pq.read_table(tmp_path / "d" / EPISODES, columns=["length"])["length"].to_pylist() == [10, 10]


def test_discrete_actions_come_back_with_their_number_of_choices(tmp_path: Path) -> None:
    meta = DatasetMeta(
        observation_spec=ObservationSpec(height_px=32, width_px=48, cameras=("top", "wrist")), action_spec=ActionSpec(kind="discrete", num_choices=7)
    )
    episode = Episode(observations=Observation(new_episode(0).observations.frames), actions=np.arange(9) % 5)
    with LeRobotFormat.create(tmp_path / "d", meta, resume=False) as sink:
        sink.append(episode)
    store = LeRobotFormat.open(tmp_path / "d")
    assert store.action_spec == meta.action_spec
    np.testing.assert_array_equal(store.columns("actions", [0])[0][:], [*(np.arange(9) % 5), -1])


def test_video_without_actions_can_be_written(tmp_path: Path) -> None:
    meta = DatasetMeta(observation_spec=ObservationSpec(height_px=32, width_px=48), action_spec=ActionSpec(kind="none"))
    with LeRobotFormat.create(tmp_path / "d", meta, resume=False) as sink:
        sink.append(Episode(observations=Observation(new_episode(0).observations.frames[:, :1]), actions=None))
    assert LeRobotFormat.open(tmp_path / "d").episode(0).actions is None


def test_writing_goes_on_where_it_ended(tmp_path: Path, small_groups: None) -> None:
    write(tmp_path / "a", range(3))
    with LeRobotFormat.create(tmp_path / "a", META, resume=True) as sink:
        assert len(sink) == 3
    resumed, whole = write(tmp_path / "a", range(3, 6), resume=True), write(tmp_path / "b", range(6))
    for number in range(6):
        np.testing.assert_array_equal(resumed.episode(number).actions, whole.episode(number).actions)
        assert_alike(resumed.episode(number).observations.frames, whole.episode(number).observations.frames)
    assert json.loads((tmp_path / "a/meta/info.json").read_text()) == json.loads((tmp_path / "b/meta/info.json").read_text())
    statistics = [json.loads((tmp_path / name / "meta/stats.json").read_text()) for name in "ab"]
    np.testing.assert_allclose(statistics[0]["action"]["std"], statistics[1]["action"]["std"], rtol=1e-9)


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
import test_lerobot_writing as t
t.lerobot_writing.MAX_GROUP_S = 0.6
sink = t.LeRobotFormat.create(t.Path({path!r}), t.META, resume=False)
for number in range(5):
    sink.append(t.new_episode(number))
os.kill(os.getpid(), 9)
"""


def test_a_killed_writer_leaves_whole_episodes_only_and_writing_goes_on_after_them(tmp_path: Path, small_groups: None) -> None:
    here = Path(__file__).parent
    code = KILLED.format(paths=[str(here)], path=str(tmp_path / "d"))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(LeRobotFormat.open(tmp_path / "d")) == 4
    with LeRobotFormat.create(tmp_path / "d", META, resume=True) as sink:
        assert len(sink) == 4
        sink.append(new_episode(4))
    assert not list((tmp_path / "d").glob("**/.writing-*"))
    np.testing.assert_array_equal(LeRobotFormat.open(tmp_path / "d").episode(4).actions, new_episode(4).actions)


def test_an_error_in_the_block_leaves_only_finished_files(tmp_path: Path, small_groups: None) -> None:
    def write_and_fail() -> None:
        with LeRobotFormat.create(tmp_path / "d", META, resume=False) as sink:
            for number in range(3):
                sink.append(new_episode(number))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    assert len(LeRobotFormat.open(tmp_path / "d")) == 2
    assert not list((tmp_path / "d").glob("**/.writing-*"))


@pytest.mark.parametrize("missing", [DATA, VIDEO])
def test_a_group_that_is_not_whole_is_written_anew(tmp_path: Path, small_groups: None, missing: str, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "d", range(4))
    (tmp_path / "d" / missing).unlink()
    with LeRobotFormat.create(tmp_path / "d", META, resume=True) as sink:
        assert len(sink) == 0
    assert "is missing: it is written anew" in caplog.text


def test_rows_whose_episodes_were_not_listed_yet_are_removed_when_writing_goes_on(tmp_path: Path, small_groups: None) -> None:
    write(tmp_path / "d", range(4))
    (tmp_path / "d/meta/episodes/chunk-000/file-001.parquet").unlink()  # it is written last
    with LeRobotFormat.create(tmp_path / "d", META, resume=True) as sink:
        assert len(sink) == 2
    assert not (tmp_path / "d/data/chunk-000/file-001.parquet").exists()
    assert len(LeRobotFormat.open(tmp_path / "d")) == 2


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "d", range(1))
    with pytest.raises(DataError, match="already exists; continue it with --resume"):
        LeRobotFormat.create(tmp_path / "d", META, resume=False)


def test_a_dataset_to_which_other_software_appended_is_read_but_not_continued(tmp_path: Path, small_groups: None) -> None:
    write(tmp_path / "d", range(4))
    (tmp_path / "d/meta/lewm/provenance/chunk-000/file-001.jsonl").unlink()
    assert len(LeRobotFormat.open(tmp_path / "d")) == 4
    with pytest.raises(DataError, match="has episodes that other software appended"):
        LeRobotFormat.create(tmp_path / "d", META, resume=True)
    assert len(LeRobotFormat.open(tmp_path / "d")) == 4


def test_what_others_wrote_is_not_continued(tmp_path: Path) -> None:
    with zipfile.ZipFile(FIXTURES / "lerobot_video.zip") as archive:
        archive.extractall(tmp_path / "d")
    with pytest.raises(DataError, match="was not written by lewm"):
        LeRobotFormat.create(tmp_path / "d", META, resume=True)


def test_a_dataset_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    write(tmp_path / "d", range(1))
    with pytest.raises(DataError, match="was made with label_names"):
        LeRobotFormat.create(tmp_path / "d", dataclasses.replace(META, label_names=("other",)), resume=True)


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    with (
        LeRobotFormat.create(tmp_path / "d", META, resume=False),
        pytest.raises(DataError, match="is being written by another process"),
    ):
        LeRobotFormat.create(tmp_path / "d", META, resume=True)


def test_an_episode_of_another_kind_is_refused(tmp_path: Path) -> None:
    with LeRobotFormat.create(tmp_path / "d", META, resume=False) as sink, pytest.raises(DataError, match="actions must be within"):
        sink.append(dataclasses.replace(new_episode(0), actions=np.full((9, 3), 5, np.float32)))


def test_a_full_disk_is_reported_in_one_sentence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 2, 32, 48, 3), dtype=np.uint8)
    episode = dataclasses.replace(new_episode(0), observations=dataclasses.replace(new_episode(0).observations, frames=noise))

    def write_too_much() -> None:
        with LeRobotFormat.create(tmp_path / "d", META, resume=False) as sink, files_of_at_most(20_000):
            for _ in range(5):
                sink.append(episode)
            sink.close()

    with pytest.raises(DataError, match="no space left to write"):
        write_too_much()


def test_after_a_full_disk_nothing_more_is_taken_and_what_was_finished_stays(tmp_path: Path, small_groups: None) -> None:
    write(tmp_path / "d", range(2))
    noise = np.random.default_rng(0).integers(0, 256, (10, 2, 32, 48, 3), dtype=np.uint8)
    episode = dataclasses.replace(new_episode(0), observations=dataclasses.replace(new_episode(0).observations, frames=noise))
    sink = LeRobotFormat.create(tmp_path / "d", META, resume=True)

    def fill_a_group() -> None:
        for _ in range(2):
            sink.append(episode)

    with files_of_at_most(5_000), pytest.raises(DataError, match="no space left to write"):
        fill_a_group()
    with pytest.raises(DataError, match="has failed before; close it, and go on with --resume"):
        sink.append(episode)
    sink.close()
    assert len(LeRobotFormat.open(tmp_path / "d")) == 2


@contextlib.contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_changed_bounds_are_those_that_were_seen_if_the_noted_ones_do_not_hold(tmp_path: Path) -> None:
    write(tmp_path / "d", range(1))
    table = pq.read_table(tmp_path / "d" / DATA)
    place = table.schema.get_field_index("action")
    pq.write_table(table.set_column(place, "action", pa.array([[5.0, 5.0, 5.0]] * 10)), tmp_path / "d" / DATA)
    assert open_store(tmp_path / "d").action_spec.high == (6.0, 6.0, 6.0)


def test_statistics_of_parts_combine_to_those_of_the_whole() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    parts, whole = combined([statistics_of(values[:7]), statistics_of(values[7:])]), statistics_of(values)
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12, err_msg=name)


def test_quantiles_of_parts_are_averaged_by_their_sizes() -> None:
    values = np.arange(30.0)
    np.testing.assert_allclose(combined([statistics_of(values[:10]), statistics_of(values[10:])])["q50"], [(4.5 * 10 + 19.5 * 20) / 30])


def test_statistics_of_frames_are_per_channel_and_scaled_to_one() -> None:
    frames = pictures(5, height_px=200, width_px=100)
    found = frame_statistics(frames)
    assert found["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(found["mean"][:, 0, 0], frames.mean((0, 1, 2)) / 255, atol=0.02)


def test_clips_of_a_written_dataset_are_those_of_a_native_copy(tmp_path: Path, small_groups: None) -> None:
    assert_clips_are_those_of_a_native_copy(write(tmp_path / "d", range(4)), tmp_path / "native")


def test_a_moved_dataset_keeps_its_name(tmp_path: Path) -> None:
    before = write(tmp_path / "a", range(2)).dataset_sha256
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert open_store(tmp_path / "b").dataset_sha256 == before
