"""The native dataset: episodes in memory-mapped, checksummed shards.

Axes: N env step, V view (here: camera), Y X image, P proprioception, a env action, s label.
"""

import errno
import hashlib
import json
import mmap
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.layout import HEADER_BYTES, INDEX_DTYPE, INDEX_FILE, DatasetMeta, read_meta
from lewm.data.shards import damaged, read_episode_lines, read_record, shard_path, verify_shard
from lewm.errors import DataError
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

MAX_OPEN_COLUMNS = 512


class EpisodeStore:
    """A dataset opened for reading. Ids are 0 .. len - 1.

    Opening checks the size and header of every file and raises ``DataError`` for a missing or damaged one; ``verify`` checks contents. Reading is
    lazy and safe from several threads; what a dataset gains after it was opened is not seen.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.meta: DatasetMeta = read_meta(self.path)
        self.index = read_index(self.path, self.meta)
        """``INDEX_DTYPE`` [episodes]."""
        num_shards = int(self.index["shard"][-1]) + 1
        self._records = [read_record(self.path, self.meta, shard) for shard in range(num_shards)]
        last_rows = self.index["offset"] + self.index["length"] + 1
        num_rows = np.array([record.num_rows for record in self._records])
        if (last_rows > num_rows[self.index["shard"]]).any():
            raise damaged(self.path, f"{INDEX_FILE} lists more than the shards hold")
        self._columns = self.meta.columns
        self._open_columns: dict[tuple[str, int], np.ndarray] = {}
        self._max_open_columns = _max_open_columns()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def episode_ids(self) -> np.ndarray:
        """int64 [episodes]."""
        return self.index["id"].copy()

    @property
    def num_env_steps(self) -> int:
        """Env steps of all episodes together."""
        return int(self.index["length"].sum())

    @property
    def num_shards(self) -> int:
        """How many shards the episodes are in."""
        return len(self._records)

    @property
    def num_bytes(self) -> int:
        """Size of the shards' files."""
        return sum(int(entry["bytes"]) for record in self._records for entry in record.files.values())

    @property
    def observation_spec(self) -> ObservationSpec:
        """Of the stored frames: one view per camera."""
        return self.meta.observation_spec

    @property
    def action_spec(self) -> ActionSpec:
        """The actions, in env units."""
        return self.meta.action_spec

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return self.meta.label_names

    @property
    def env(self) -> dict[str, Any]:
        """``name``, ``version`` and ``options`` of the world; empty for other people's recordings."""
        return dict(self.meta.env)

    @property
    def dataset_sha256(self) -> str:
        """Names the content: the same for the same data however it was collected, another after any change of a value or setting."""
        digest = hashlib.sha256(json.dumps(self.meta.identity(), sort_keys=True).encode())
        for record in self._records:
            for name, entry in sorted(record.files.items()):
                digest.update(f"\n{record.shard}/{name} {entry['sha256']}".encode())
        return digest.hexdigest()

    def episode(self, episode_id: int) -> Episode:
        """The episode with an id, as copies."""
        if not 0 <= episode_id < len(self):
            raise DataError(f"dataset {str(self.path)!r} has episodes 0 to {len(self) - 1}, got {episode_id}")
        row = self.index[episode_id]
        shard, first, num_env_steps = int(row["shard"]), int(row["offset"]), int(row["length"])

        def read(name: str, num_rows: int) -> np.ndarray | None:
            return self.columns(name, [shard])[0][first : first + num_rows].copy() if name in self._columns else None

        cameras = [self.columns(f"frames.{camera}", [shard])[0][first : first + num_env_steps + 1] for camera in self.observation_spec.cameras]
        line = read_episode_lines(self.path, shard)[episode_id - shard * self.meta.episodes_per_shard]
        return Episode(
            observations=Observation(np.stack(cameras, axis=1), read("proprioception", num_env_steps + 1)),
            actions=read("actions", num_env_steps),
            labels=read("labels", num_env_steps + 1),
            rewards=read("rewards", num_env_steps),
            terminated=bool(row["terminated"]),
            seed=int(row["seed"]),
            provenance=line["provenance"],
        )

    def columns(self, name: str, shards: Sequence[int]) -> list[np.ndarray]:
        """The memory-mapped column ``name`` of each shard, read-only [rows, ...].

        About 500 files stay mapped, the ones opened longest ago are dropped first.
        """
        opened = self._open_columns
        try:
            return [opened[name, shard] for shard in shards]
        except KeyError:
            return [self._open_column(name, shard) for shard in shards]

    def action_statistics(self, episode_ids: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the continuous actions of some episodes, per dimension [a], in env units."""
        if self.action_spec.kind != "continuous":
            raise DataError(
                f"only continuous actions have a mean and a standard deviation, dataset {str(self.path)!r} has kind {self.action_spec.kind!r}"
            )
        count, total, squares = 0, np.zeros(self.action_spec.dimension), np.zeros(self.action_spec.dimension)
        for row in self.index[np.asarray(episode_ids)]:
            first = int(row["offset"])
            actions = self.columns("actions", [int(row["shard"])])[0][first : first + int(row["length"])].astype(np.float64)
            count, total, squares = count + len(actions), total + actions.sum(0), squares + (actions**2).sum(0)
        if count == 0:
            raise DataError(f"no episodes of dataset {str(self.path)!r} to take action statistics from; collect more, or hold out fewer")
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return tuple(mean.tolist()), tuple(std.tolist())

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """``DataError`` unless every file has the SHA-256 with which it was written; ``progress`` is told bytes done and in all."""
        total, done = self.num_bytes, 0

        def advance(num_bytes: int) -> None:
            nonlocal done
            done += num_bytes
            if progress is not None:
                progress(done, total)

        for record in self._records:
            verify_shard(self.path, record, advance)

    def _open_column(self, name: str, shard: int) -> np.ndarray:
        with self._lock:
            opened = self._open_columns.get((name, shard))
            if opened is None:
                while len(self._open_columns) >= self._max_open_columns:
                    self._drop_oldest_column()
                opened = self._open_columns[name, shard] = self._map(name, shard)
            return opened

    def _drop_oldest_column(self) -> None:
        del self._open_columns[next(iter(self._open_columns))]

    def _map(self, name: str, shard: int) -> np.ndarray:
        column, num_rows = self._columns[name], self._records[shard].num_rows
        try:
            with open(shard_path(self.path, shard) / f"{name}.npy", "rb") as file:
                if os.fstat(file.fileno()).st_size != column.file_bytes(num_rows):
                    raise damaged(self.path, f"shards/{shard:05d}/{name}.npy has changed since it was opened")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            if error.errno == errno.EMFILE and self._open_columns:  # the rest of the process holds more descriptors than it did at the start
                self._drop_oldest_column()
                return self._map(name, shard)
            raise damaged(self.path, f"shards/{shard:05d}/{name}.npy cannot be opened ({error.strerror})") from None
        return np.frombuffer(mapped, column.dtype, offset=HEADER_BYTES).reshape(num_rows, *column.shape)


def read_index(path: Path, meta: DatasetMeta) -> np.ndarray:
    """``episodes.npy``, ``INDEX_DTYPE`` [episodes]; ``DataError`` if it is missing, empty or damaged."""
    file = path / INDEX_FILE
    if not file.is_file():
        raise DataError(f"dataset {str(path)!r} has no finished episodes yet; `lewm collect --resume` continues it")
    try:
        index: np.ndarray = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise damaged(path, f"{INDEX_FILE} cannot be read ({error})") from None
    is_usable = index.dtype == INDEX_DTYPE and index.ndim == 1 and len(index) > 0
    if not is_usable or (index["id"] != np.arange(len(index))).any() or (index["shard"] != index["id"] // meta.episodes_per_shard).any():
        raise damaged(path, f"{INDEX_FILE} does not list episodes 0, 1, ... in shards of {meta.episodes_per_shard}")
    return index


def _max_open_columns() -> int:
    """Each mapped file holds a descriptor, of which a process may have few."""
    if sys.platform == "win32":
        return MAX_OPEN_COLUMNS
    import resource

    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_COLUMNS if soft_limit == resource.RLIM_INFINITY else max(16, min(MAX_OPEN_COLUMNS, soft_limit // 2))
