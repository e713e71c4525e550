"""The native dataset keeps what it is given, says so when it no longer has it, and refuses what does not belong."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lewm.data.episodes import EpisodeStore
from lewm.data.info import describe_dataset
from lewm.data.layout import Column, DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import DataError
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

NewEpisode = Callable[..., Episode]


def write(path: Path, meta: DatasetMeta, episodes: list[Episode], **options: bool) -> EpisodeStore:
    with EpisodeWriter(path, meta, **options) as writer:
        for episode in episodes:
            writer.append(episode)
    return EpisodeStore(path)


def assert_equal(left: Episode, right: Episode) -> None:
    np.testing.assert_array_equal(left.observations.frames, right.observations.frames)
    for name in ("actions", "labels", "rewards"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert (left.seed, left.terminated, left.provenance) == (right.seed, right.terminated, right.provenance)


def test_an_episode_comes_back_as_it_was_written(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    episodes = [dataclasses.replace(new_episode(i, 4 + i), terminated=i % 2 == 0, provenance={"task": f"number {i}"}) for i in range(8)]
    store = write(tmp_path / "d", meta, episodes)
    assert len(store) == 8
    assert store.num_env_steps == sum(episode.num_env_steps for episode in episodes)
    for number, episode in enumerate(episodes):
        assert_equal(store.episode(number), episode)


def test_a_video_without_actions_rewards_and_labels_is_a_dataset_too(tmp_path: Path) -> None:
    meta = DatasetMeta(observation_spec=ObservationSpec(height_px=2, width_px=2), action_spec=ActionSpec(kind="none"))
    frames = np.arange(5 * 12, dtype=np.uint8).reshape(5, 1, 2, 2, 3)
    episode = write(tmp_path / "d", meta, [Episode(observations=Observation(frames), actions=None)]).episode(0)
    np.testing.assert_array_equal(episode.observations.frames, frames)
    assert episode.actions is None
    assert episode.rewards is None
    assert episode.labels is None


def test_every_column_is_an_ordinary_npy_file(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write(tmp_path / "d", meta, [new_episode(i) for i in range(3)])
    frames = np.load(tmp_path / "d/shards/00000/frames.top.npy", mmap_mode="r")
    assert frames.shape == (39, 6, 7, 3)
    np.testing.assert_array_equal(frames[13], new_episode(1).observations.frames[0, 0])
    actions = np.load(tmp_path / "d/shards/00000/actions.npy")
    assert np.isnan(actions[12]).all()  # the last observation of an episode has no action
    assert np.isfinite(np.delete(actions, [12, 25, 38], axis=0)).all()


@pytest.mark.parametrize("column", [Column(np.dtype("u1"), (224, 224, 3)), Column(np.dtype("<i8"), ()), Column(np.dtype("<f4"), (3,))])
def test_a_header_is_understood_by_numpy(tmp_path: Path, column: Column) -> None:
    header = column.header(123_456)
    assert len(header) == 128
    (tmp_path / "h.npy").write_bytes(header)
    with open(tmp_path / "h.npy", "rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == ((123_456, *column.shape), False, column.dtype)


def test_a_default_shard_is_at_most_64_megabytes(meta: DatasetMeta) -> None:
    big = dataclasses.replace(meta, observation_spec=ObservationSpec(height_px=64, width_px=64)).with_shards_for(100)
    assert 32 * 2**20 < big.episodes_per_shard * 101 * big.row_bytes <= 64 * 2**20
    assert dataclasses.replace(meta, observation_spec=ObservationSpec(height_px=512, width_px=512)).with_shards_for(1000).episodes_per_shard == 1


def test_appending_gives_the_same_dataset_as_writing_at_once(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    episodes = [new_episode(i) for i in range(10)]
    at_once = write(tmp_path / "a", meta, episodes)
    write(tmp_path / "b", meta, episodes[:4])
    write(tmp_path / "b", meta, episodes[4:5], resume=True)
    in_parts = write(tmp_path / "b", meta, episodes[5:], resume=True)
    assert in_parts.dataset_sha256 == at_once.dataset_sha256
    np.testing.assert_array_equal(in_parts.index, at_once.index)
    assert_equal(in_parts.episode(4), episodes[4])


def test_the_hash_names_the_content_and_not_its_provenance(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    original = write(tmp_path / "a", meta, [new_episode(0)]).dataset_sha256
    assert write(tmp_path / "b", dataclasses.replace(meta, provenance={"command": "another"}), [new_episode(0)]).dataset_sha256 == original
    changed = new_episode(0)
    changed.observations.frames[3, 0, 2, 2, 2] ^= 1
    assert write(tmp_path / "c", meta, [changed]).dataset_sha256 != original
    assert write(tmp_path / "e", dataclasses.replace(meta, label_names=("episode", "moment")), [new_episode(0)]).dataset_sha256 != original


def test_existing_output_is_not_overwritten(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write(tmp_path / "d", meta, [new_episode(0)])
    with pytest.raises(DataError, match=r"already exists; continue it with --resume"):
        EpisodeWriter(tmp_path / "d", meta)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"is not a dataset"):
        EpisodeWriter(tmp_path / "other", meta, resume=True)


def test_resuming_with_other_settings_names_the_difference(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write(tmp_path / "d", meta, [new_episode(0)])
    other = dataclasses.replace(meta, env={"name": "made-up", "version": 2, "options": {}})
    with pytest.raises(DataError, match=r"made with env\.version 1, not 2"):
        EpisodeWriter(tmp_path / "d", other, resume=True)


def test_two_writers_cannot_share_a_directory(tmp_path: Path, meta: DatasetMeta) -> None:
    with EpisodeWriter(tmp_path / "d", meta), pytest.raises(DataError, match=r"is being written by another process"):
        EpisodeWriter(tmp_path / "d", meta, resume=True)
    EpisodeWriter(tmp_path / "d", meta, resume=True).close()


def test_an_exception_while_writing_keeps_the_finished_shards(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    with pytest.raises(KeyboardInterrupt), EpisodeWriter(tmp_path / "d", meta) as writer:  # noqa: PT012 - interrupted in the middle
        for i in range(7):
            writer.append(new_episode(i))
        raise KeyboardInterrupt
    assert len(EpisodeStore(tmp_path / "d")) == 6


BAD_EPISODES = {
    "frames of another type": (
        lambda e: dataclasses.replace(e, observations=Observation(e.observations.frames.astype(np.float32))),
        r"frames must be uint8 \[13, 1, 6, 7, 3\], got float32",
    ),
    "frames of another size": (
        lambda e: dataclasses.replace(e, observations=Observation(e.observations.frames[:, :, :5])),
        r"frames must be uint8 .*, got uint8 \[13, 1, 5, 7, 3\]",
    ),
    "an action too many": (
        lambda e: dataclasses.replace(e, actions=np.zeros((13, 2), np.float32)),
        r"actions must be float32 \[12, 2\], got float32 \[13, 2\]",
    ),
    "float64 actions": (lambda e: dataclasses.replace(e, actions=np.zeros((12, 2))), r"actions must be float32 \[12, 2\], got float64"),
    "an action out of bounds": (
        lambda e: dataclasses.replace(e, actions=np.full((12, 2), 1.5, np.float32)),
        r"actions must be within \[-1.0, -2.0\]",
    ),
    "an action that is NaN": (lambda e: dataclasses.replace(e, actions=np.full((12, 2), np.nan, np.float32)), r"actions must be finite, got nan"),
    "infinite labels": (lambda e: dataclasses.replace(e, labels=np.full((13, 2), np.inf, np.float32)), r"labels must be finite, got inf"),
    "no rewards": (lambda e: dataclasses.replace(e, rewards=None), r"has a column 'rewards', but the episode has none"),
    "unknown column": (
        lambda e: dataclasses.replace(e, observations=Observation(e.observations.frames, np.zeros((13, 1), np.float32))),
        r"has no column 'proprioception', but the episode does",
    ),
    "a single frame": (
        lambda e: Episode(observations=e.observations[:1], actions=e.actions[:0], labels=e.labels[:1], rewards=e.rewards[:0]),
        r"at least one env step",
    ),
    "provenance that is no JSON": (lambda e: dataclasses.replace(e, provenance={"path": Path()}), r"provenance must be plain JSON"),
}


@pytest.mark.parametrize("name", BAD_EPISODES)
def test_an_episode_of_another_kind_is_refused(name: str, tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    change, message = BAD_EPISODES[name]
    with EpisodeWriter(tmp_path / "d", meta) as writer, pytest.raises(DataError, match=message):  # noqa: PT012
        for _ in range(meta.episodes_per_shard):
            writer.append(change(new_episode(0)))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "shards/00001/frames.top.npy",
            4_000,
            r"is damaged: shards/00001/frames.top.npy has 4,000 of 5,042 bytes; `lewm collect --resume` rewrites it",
        ),
        ("shards/00000/actions.npy", None, r"shards/00000/actions.npy is missing"),
        ("shards/00000/labels.npy", b"\x93NUMPY\x03", r"shards/00000/labels.npy does not begin with the header of 39 rows of float32 \[2\]"),
        ("shards/00001/shard.json", b"[", r"shards/00001/shard.json cannot be used"),
        ("episodes.npy", 200, r"episodes.npy cannot be read"),
        ("meta.json", 100, r"meta.json cannot be read"),
        ("meta.json", b'{"format": 2}    ', r"has format 2, this version of lewm reads format 1|meta.json cannot be read"),
        ("meta.json", None, r"there is no dataset at"),
        ("episodes.npy", None, r"has no finished episodes yet"),
    ],
)
def test_opening_a_damaged_dataset_says_what_is_wrong(
    file: str, content: int | bytes | None, message: str, tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode
) -> None:
    write(tmp_path / "d", meta, [new_episode(i) for i in range(6)])
    path = tmp_path / "d" / file
    original = path.read_bytes()
    path.unlink()
    if isinstance(content, int):
        path.write_bytes(original[:content])
    elif isinstance(content, bytes):
        path.write_bytes(content + original[len(content) :])
    with pytest.raises(DataError, match=message):
        EpisodeStore(tmp_path / "d")


def test_verify_finds_one_flipped_bit_that_opening_cannot_see(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    store = write(tmp_path / "d", meta, [new_episode(i) for i in range(6)])
    told: list[tuple[int, int]] = []
    store.verify(lambda done, total: told.append((done, total)))
    assert told[-1] == (store.num_bytes, store.num_bytes)
    path = tmp_path / "d/shards/00001/frames.top.npy"
    content = bytearray(path.read_bytes())
    content[1000] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shards/00001/frames.top.npy has SHA-256 \w{12}, was written with \w{12}"):
        EpisodeStore(tmp_path / "d").verify()
    with pytest.raises(DataError, match="SHA-256"):
        describe_dataset(tmp_path / "d", verify=True)


def test_info_counts_what_is_there_and_is_plain_json(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    store = write(tmp_path / "d", meta, [new_episode(i, 5 + i) for i in range(4)])
    description = json.loads(json.dumps(describe_dataset(tmp_path / "d", verify=True)))
    assert description["num_episodes"] == 4
    assert description["num_env_steps"] == 5 + 6 + 7 + 8
    assert description["episode_env_steps"] == {"min": 5, "mean": 6.5, "max": 8}
    assert description["num_shards"] == 2
    assert description["dataset_sha256"] == store.dataset_sha256
    assert description["bytes"] == sum(path.stat().st_size for path in (tmp_path / "d").rglob("*") if path.parent.parent.name == "shards") - sum(
        path.stat().st_size for path in (tmp_path / "d").rglob("shard.json")
    )


def test_an_id_that_is_not_there_is_refused(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    with pytest.raises(DataError, match="has episodes 0 to 0, got 1"):
        write(tmp_path / "d", meta, [new_episode(0)]).episode(1)


def test_action_statistics_are_those_of_the_chosen_episodes(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    store = write(tmp_path / "d", meta, [new_episode(i, 5 + i) for i in range(5)])
    chosen = np.concatenate([new_episode(i, 5 + i).actions for i in (1, 3, 4)]).astype(np.float64)
    mean, std = store.action_statistics(np.array([1, 3, 4]))
    np.testing.assert_allclose(mean, chosen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std(0), rtol=1e-9)


def test_more_shards_than_the_process_may_open_can_be_read(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode, few_descriptors: None) -> None:
    store = write(tmp_path / "d", dataclasses.replace(meta, episodes_per_shard=1), [new_episode(i) for i in range(80)])
    for i in [*range(80), *range(80)]:
        assert store.episode(i).labels[0, 0] == i


def test_a_replacement_cut_off_between_its_two_renames_is_undone(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write(tmp_path / "d", meta, [new_episode(i) for i in range(4)])
    shards = tmp_path / "d/shards"
    (shards / "00001").rename(shards / ".replaced-00001")
    (shards / ".writing-00001-99").mkdir()
    with EpisodeWriter(tmp_path / "d", meta, resume=True) as writer:
        assert len(writer) == 4
    assert sorted(path.name for path in shards.iterdir()) == ["00000", "00001"]


def test_a_gap_before_whole_shards_is_not_appended_to(tmp_path: Path, meta: DatasetMeta, new_episode: NewEpisode) -> None:
    write(tmp_path / "d", meta, [new_episode(i) for i in range(9)])
    shutil.rmtree(tmp_path / "d/shards/00001")
    with pytest.raises(DataError, match="no whole shard 00001 but later ones"):
        EpisodeWriter(tmp_path / "d", meta, resume=True)


def test_output_that_cannot_be_written_is_one_sentence(tmp_path: Path, meta: DatasetMeta) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write '.*file/d'"):
        EpisodeWriter(tmp_path / "file" / "d", meta)


FULL_DISK = """
import resource, sys
import numpy as np
from lewm.data.layout import DatasetMeta
from lewm.data.writing import EpisodeWriter
from lewm.errors import DataError
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

meta = DatasetMeta(observation_spec=ObservationSpec(height_px=8, width_px=8), action_spec=ActionSpec(kind="none"), episodes_per_shard=2)
small, large = (Episode(observations=Observation(np.zeros((n, 1, 8, 8, 3), np.uint8)), actions=None) for n in (10, 1000))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with EpisodeWriter(sys.argv[1], meta) as writer:
        for episode in (small, small, small, large):
            writer.append(episode)
except DataError as error:
    print(error)
"""


@pytest.mark.faults
def test_a_full_disk_is_one_sentence_and_costs_only_the_unfinished_shard(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "d")], capture_output=True, text=True, check=True)
    assert "no space left to write" in done.stdout
    assert "00001" in done.stdout
    assert done.stdout.count("\n") == 1
    assert [path.name for path in (tmp_path / "d/shards").iterdir()] == ["00000"]
    assert len(EpisodeStore(tmp_path / "d")) == 2
