"""Writing a LeRobot v3 dataset: episodes are collected into groups; a group is one file of rows and one video of each camera.

Axes: N env step, n row, V view (here: camera), Y X image. An episode of N env steps has N + 1 rows; the last one repeats the last action, for LeRobot
has an action in every row, and has reward 0.
"""

import contextlib
import io
import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data.durable import LOCK_FILE, DirectoryLock, reported_as_data_error, sync_directory, write_atomically
from lewm.data.formats import own_metadata
from lewm.data.formats.lerobot_features import DEFAULT_TASK, camera_key, info_of, rows_of, tasks_table
from lewm.data.formats.lerobot_index import read_own_meta
from lewm.data.formats.lerobot_layout import (
    DATA_TEMPLATE,
    EPISODES_TEMPLATE,
    FILES_PER_CHUNK,
    INFO_FILE,
    OWN_DIRECTORY,
    OWN_META_FILE,
    PROVENANCE_TEMPLATE,
    STATISTICS_FILE,
    TASKS_FILE,
    VIDEO_TEMPLATE,
    filled,
)
from lewm.data.formats.lerobot_statistics import NAMES, Statistics, combined, frame_statistics, statistics_of
from lewm.data.formats.parquet_rows import read_columns
from lewm.data.formats.video_containers import check_not_cut_off
from lewm.data.formats.video_encoding import VideoWriter
from lewm.data.layout import DatasetMeta
from lewm.data.shards import check_episode
from lewm.data.writing import check_same_settings
from lewm.errors import DataError
from lewm.schema import Episode

logger = logging.getLogger(__name__)
DEFAULT_FPS = 10.0
MAX_GROUP_BYTES = 256 * 2**20
"""Of frames before encoding."""
MAX_GROUP_S = 500.0
"""LeRobot looks frames up by time in single precision, which is too coarse late in long files."""
UNFINISHED_PREFIX = ".writing-"


class LeRobotSink:
    """Appends episodes. What a killed writer had not finished, at most a group, is lost; ``len`` says where to go on."""

    def __init__(self, path: Path, meta: DatasetMeta, *, resume: bool) -> None:
        self.path, self.meta = path, meta
        content = {entry.name for entry in path.iterdir()} - {LOCK_FILE} if path.is_dir() else set()
        if (content or path.is_file()) and not resume:
            raise DataError(f"{str(path)!r} already exists; continue it with --resume, or choose another directory")
        is_new = not (path / OWN_META_FILE).is_file()
        if is_new and (content - {"meta"} or (path / INFO_FILE).is_file()):
            raise DataError(f"{str(path)!r} was not written by lewm, so it cannot be continued; choose another directory")
        with reported_as_data_error(path):
            (path / OWN_DIRECTORY).mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(path)
        try:
            self._start(is_new=is_new)
        except BaseException:
            self._lock.release()
            raise

    def _start(self, *, is_new: bool) -> None:
        if is_new:
            write_atomically(self.path / OWN_META_FILE, own_metadata.to_text(self.meta).encode())
        else:
            existing = read_own_meta(self.path)
            assert existing is not None  # it was seen before
            check_same_settings(self.path, existing, self.meta)
            self.meta = existing
        fps = self.meta.provenance.get("fps")
        self._fps = float(fps) if isinstance(fps, int | float) and fps > 0 else DEFAULT_FPS
        self._tasks: dict[str, int] = {}
        self._statistics: dict[str, Statistics] = {}
        self._num_groups = self._num_episodes = self._num_rows = 0
        self._group: _Group | None = None
        self._is_broken = False
        self._find_finished_groups()
        self._write_summary()

    def __len__(self) -> int:
        return self._num_episodes + (len(self._group.episodes) if self._group else 0)

    def append(self, episode: Episode) -> int:
        """Add an episode and return its number; ``DataError`` if it is not of the dataset's kind or the disk is full."""
        check_episode(self.meta, episode)
        if self._is_broken:
            raise DataError(f"writing {str(self.path)!r} has failed before; close it, and go on with --resume")
        self._is_broken = True
        group = self._group = self._group or _Group(self.path, self.meta, self._num_groups, self._fps)
        task = episode.provenance.get("task")
        task = task if isinstance(task, str) else str(self.meta.env.get("name") or DEFAULT_TASK)
        number = len(self)
        group.append(episode, number, self._num_rows + group.num_rows, task, self._tasks.setdefault(task, len(self._tasks)))
        frames_bytes = group.num_rows * int(np.prod(self.meta.observation_spec.frame_shape))
        if frames_bytes >= MAX_GROUP_BYTES or group.num_rows / self._fps >= MAX_GROUP_S:
            self._finish_group()
        self._is_broken = False
        return number

    def close(self) -> None:
        """Write the last group, however small, unless writing it has failed before, and let the next writer in."""
        try:
            if self._group is not None and self._is_broken:
                self._group.abandon()
            elif self._group is not None:
                self._finish_group()
        finally:
            self._lock.release()

    def __enter__(self) -> "LeRobotSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        if self._group is not None:
            self._group.abandon()
        self._lock.release()

    def _finish_group(self) -> None:
        """Videos and rows first, then the list of episodes that makes them count, then what sums all up."""
        group = self._group
        assert group is not None  # append made it
        write_atomically(self.path / TASKS_FILE, parquet_bytes(tasks_table(list(self._tasks))))
        group.finish()
        for statistics in group.statistics:
            self._add(statistics)
        self._num_groups += 1
        self._num_episodes += len(group.episodes)
        self._num_rows += group.num_rows
        self._group = None
        self._write_summary()

    def _add(self, statistics: dict[str, Statistics]) -> None:
        for key, value in statistics.items():
            self._statistics[key] = combined([self._statistics[key], value]) if key in self._statistics else value

    def _write_summary(self) -> None:
        if self._num_groups == 0:
            write_atomically(self.path / TASKS_FILE, parquet_bytes(tasks_table(list(self._tasks))))
        plain = {key: {name: value.tolist() for name, value in each.items()} for key, each in self._statistics.items()}
        write_atomically(self.path / STATISTICS_FILE, (json.dumps(plain, indent=4) + "\n").encode())
        info = info_of(self.meta, fps=self._fps, num_episodes=self._num_episodes, num_rows=self._num_rows, num_tasks=len(self._tasks))
        write_atomically(self.path / INFO_FILE, (json.dumps(info, indent=4) + "\n").encode())

    def _find_finished_groups(self) -> None:
        """Take up what is there, group by group, and remove what comes after the first that is not whole."""
        if (self.path / TASKS_FILE).is_file():
            columns = read_columns(self.path / TASKS_FILE)
            self._tasks = {str(task): number for number, task in enumerate(columns["__index_level_0__"].to_pylist())}
        while (self.path / place(EPISODES_TEMPLATE, self._num_groups)).is_file():
            if not (self.path / place(PROVENANCE_TEMPLATE, self._num_groups)).is_file():
                raise DataError(f"{str(self.path)!r} has episodes that other software appended, so it cannot be continued; convert it into a new one")
            try:
                self._take_up_group()
            except DataError as error:
                logger.warning("%s: it is written anew", str(error).split(";")[0])
                break
        with reported_as_data_error(self.path):
            _remove_from(self.path, self.meta, self._num_groups)

    def _take_up_group(self) -> None:
        read_columns(self.path / place(DATA_TEMPLATE, self._num_groups), ["index"])
        for camera in self.meta.observation_spec.cameras:
            video = self.path / place(VIDEO_TEMPLATE, self._num_groups, camera_key(camera))
            if not video.is_file():
                raise DataError(f"{str(video)!r} is missing; restore it")
            check_not_cut_off(video)
        columns = read_columns(self.path / place(EPISODES_TEMPLATE, self._num_groups))
        features = {name.removeprefix("stats/").rpartition("/")[0] for name in columns if name.startswith("stats/")}
        rows = {name: [np.array(value) for value in columns[name].to_pylist()] for name in columns if name.startswith("stats/")}
        for row in range(len(columns["length"])):
            self._add({key: {name: rows[f"stats/{key}/{name}"][row] for name in NAMES} for key in features})
        self._num_groups += 1
        self._num_episodes += len(columns["length"])
        self._num_rows += int(sum(columns["length"].to_pylist()))


class _Group:
    """Episodes whose rows share a file. Frames are encoded as they come; rows stay in memory until the end."""

    def __init__(self, root: Path, meta: DatasetMeta, number: int, fps: float) -> None:
        self._root, self._meta, self._number, self._fps = root, meta, number, fps
        self.episodes: list[dict[str, Any]] = []
        self.statistics: list[dict[str, Statistics]] = []
        self.num_rows = 0
        self._provenance: list[dict[str, Any]] = []
        self._columns: dict[str, list[np.ndarray]] = {}
        self._videos: dict[str, VideoWriter] = {}
        spec = meta.observation_spec
        for camera in spec.cameras:
            final = root / place(VIDEO_TEMPLATE, number, camera_key(camera))
            with reported_as_data_error(final):
                final.parent.mkdir(parents=True, exist_ok=True)
            unfinished = final.with_name(UNFINISHED_PREFIX + final.name)
            self._videos[camera] = VideoWriter(unfinished, height_px=spec.height_px, width_px=spec.width_px, fps=fps)

    def append(self, episode: Episode, number: int, first_index: int, task: str, task_index: int) -> None:
        """Encode an episode's frames and keep its rows."""
        columns = rows_of(episode, self._fps, number, first_index, task_index)
        statistics = {key: statistics_of(values) for key, values in columns.items()}
        num_rows = episode.num_env_steps + 1
        chunk, file = divmod(self._number, FILES_PER_CHUNK)
        entry: dict[str, Any] = {"episode_index": number, "tasks": [task], "length": num_rows, "data/chunk_index": chunk, "data/file_index": file}
        entry |= {"dataset_from_index": first_index, "dataset_to_index": first_index + num_rows}
        for view, (camera, video) in enumerate(self._videos.items()):
            key = camera_key(camera)
            times = {"from_timestamp": self.num_rows / self._fps, "to_timestamp": (self.num_rows + num_rows) / self._fps}
            entry |= {f"videos/{key}/{name}": value for name, value in {"chunk_index": chunk, "file_index": file, **times}.items()}
            video.append(episode.observations.frames[:, view])
            statistics[key] = frame_statistics(episode.observations.frames[:, view])
        entry |= {f"stats/{key}/{name}": value.tolist() for key, each in statistics.items() for name, value in each.items()}
        entry |= {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        self.episodes.append(entry)
        self._provenance.append({"episode_index": number, "provenance": episode.provenance})
        self.statistics.append(statistics)
        self.num_rows += num_rows

    def finish(self) -> None:
        """Give the files their names, the list of episodes last."""
        for video in self._videos.values():
            video.close()
            final = video.path.with_name(video.path.name.removeprefix(UNFINISHED_PREFIX))
            with reported_as_data_error(final):
                os.replace(video.path, final)
                sync_directory(final.parent)
        table = pa.table({name: _column(np.concatenate(values)) for name, values in self._columns.items()})
        episodes = pa.table({name: [entry[name] for entry in self.episodes] for name in self.episodes[0]})
        contents = {
            DATA_TEMPLATE: parquet_bytes(table),
            PROVENANCE_TEMPLATE: "".join(f"{json.dumps(entry)}\n" for entry in self._provenance).encode(),
            EPISODES_TEMPLATE: parquet_bytes(episodes),
        }
        for template, content in contents.items():
            final = self._root / place(template, self._number)
            with reported_as_data_error(final):
                final.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(final, content)

    def abandon(self) -> None:
        """Remove what is not finished."""
        for video in self._videos.values():
            video.abandon()


def place(template: str, group: int, key: str = "") -> Path:
    """Where a file of a group is, below the dataset."""
    return Path(filled(template, *divmod(group, FILES_PER_CHUNK), key))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a parquet file with checksums."""
    content = io.BytesIO()
    pq.write_table(table, content, compression="snappy", write_page_checksum=True)
    return content.getvalue()


def _column(values: np.ndarray) -> pa.Array:
    """Numbers [n], or [n, d] as lists of d; LeRobot has a list of one as a number."""
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _remove_from(root: Path, meta: DatasetMeta, first_group: int) -> None:
    """Remove the files of groups from a number on, and unfinished ones."""
    for leftover in root.glob(f"**/{UNFINISHED_PREFIX}*"):
        leftover.unlink()
    group = first_group
    while True:
        names = [place(template, group) for template in (DATA_TEMPLATE, PROVENANCE_TEMPLATE, EPISODES_TEMPLATE)]
        names += [place(VIDEO_TEMPLATE, group, camera_key(camera)) for camera in meta.observation_spec.cameras]
        files = [root / name for name in names if (root / name).is_file()]
        if not files:
            return
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
        group += 1
