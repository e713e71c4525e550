"""Writing a native dataset: one writer per directory, whole shards, an index of the finished ones."""

import contextlib
import dataclasses
import io
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from lewm.data.durable import LOCK_FILE, TEMPORARY_PREFIX, DirectoryLock, recover_directories, reported_as_data_error, write_atomically
from lewm.data.episodes import EpisodeStore
from lewm.data.layout import INDEX_DTYPE, INDEX_FILE, META_FILE, SHARDS_DIRECTORY, DatasetMeta, read_meta, write_meta
from lewm.data.shards import check_episode, read_index_rows, read_record, verify_shard, write_shard
from lewm.envs.base import canonical_name
from lewm.errors import DataError
from lewm.schema import Episode
from lewm.versions import other_simulators

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_INDEX_WRITES = 5.0


def check_place(path: Path, *, resume: bool) -> set[str]:
    """The names of what is in a dataset directory; ``DataError`` if something is and ``resume`` is False, or if it is no dataset. Writes nothing."""
    content: set[str] = set()
    with reported_as_data_error(path), contextlib.suppress(FileNotFoundError):
        content = {entry.name for entry in path.iterdir() if entry.name != LOCK_FILE and not entry.name.startswith(TEMPORARY_PREFIX)}
    if content and not resume:
        raise DataError(f"{str(path)!r} already exists; continue it with --resume, or choose another directory")
    if content - {META_FILE} and META_FILE not in content:
        raise DataError(f"{str(path)!r} is not a dataset (no {META_FILE}); choose another directory")
    return content


def check_same_settings(path: Path, existing: DatasetMeta, meta: DatasetMeta) -> None:
    """``DataError`` if the dataset at ``path`` cannot be continued with the settings of ``meta``; two spellings of one environment are the same."""
    if existing.env.get("name") != meta.env.get("name") and "name" in existing.env:
        existing = dataclasses.replace(existing, env=existing.env | {"name": canonical_name(existing.env["name"])})
    difference = existing.difference(meta)
    if difference is not None:
        raise DataError(f"dataset {str(path)!r} was made with {difference}; continue it with the same settings, or choose another directory")


def _warn_of_other_software(path: Path, existing: DatasetMeta, meta: DatasetMeta) -> None:
    """Motion and frames may differ a little between releases and renderers: whoever continues a dataset with others should know."""
    changes = [other_simulators(str(existing.env.get("name", "")), existing.provenance.get("versions", {}))]
    before, now = (each.provenance.get("rendering") for each in (existing, meta))
    if before is not None and before != now:
        changes.append(f"rendering {before} there and {now} here")
    if any(changes):
        logger.warning(
            "dataset %r is continued with other software, so its episodes may differ in kind: %s", str(path), ", ".join(filter(None, changes))
        )


class DatasetDirectory:
    """A dataset directory held by one writer: locked, tidied up after a killed one, with an index of its finished shards.

    The index lists the shards up to the first that is missing, so that ids have no gaps; it lags behind by a few seconds, and a resumed
    writer finds finished shards that it does not list yet.
    """

    def __init__(self, path: Path, meta: DatasetMeta, *, resume: bool) -> None:
        self.path = path
        content = check_place(path, resume=resume)
        with reported_as_data_error(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(path)
        try:
            self.meta = self._existing_or_new_meta(meta, is_new=META_FILE not in content)
            with reported_as_data_error(path):
                (path / SHARDS_DIRECTORY).mkdir(exist_ok=True)
            recover_directories(path)
            recover_directories(path / SHARDS_DIRECTORY)
            self._index: dict[int, np.ndarray] = {}
            self._find_finished_shards()
        except BaseException:
            self._lock.release()
            raise
        self._index_written_s = time.monotonic()

    def _existing_or_new_meta(self, meta: DatasetMeta, *, is_new: bool) -> DatasetMeta:
        if is_new:
            write_meta(self.path, meta)
            return meta
        existing = read_meta(self.path)
        check_same_settings(self.path, existing, meta)
        _warn_of_other_software(self.path, existing, meta)
        return existing

    def _find_finished_shards(self) -> None:
        for directory in sorted((self.path / SHARDS_DIRECTORY).iterdir()):
            if not directory.name.isdigit():
                continue
            shard = int(directory.name)
            try:
                record = read_record(self.path, self.meta, shard)
                verify_shard(self.path, record)
                self._index[shard] = read_index_rows(self.path, shard)
            except DataError as error:
                logger.warning("%s: it is written anew", str(error).split(";")[0])

    def num_finished_episodes(self, shard: int) -> int:
        """How many episodes a shard holds; 0 if it is missing or damaged."""
        return len(self._index.get(shard, ()))

    @property
    def finished_shards(self) -> list[int]:
        """The shards that are whole, in order."""
        return sorted(self._index)

    def add(self, shard: int, rows: np.ndarray) -> None:
        """Take a shard that was just written into the index."""
        self._index[shard] = rows
        if time.monotonic() - self._index_written_s > SECONDS_BETWEEN_INDEX_WRITES:
            self.write_index()

    def write_index(self) -> None:
        """Write ``episodes.npy``: the finished shards up to the first gap."""
        listed = [np.zeros(0, INDEX_DTYPE)]
        while (rows := self._index.get(len(listed) - 1)) is not None:
            listed.append(rows)
            if len(rows) < self.meta.episodes_per_shard:
                break
        if len(listed) > 1:
            content = io.BytesIO()
            np.save(content, np.concatenate(listed), allow_pickle=False)
            write_atomically(self.path / INDEX_FILE, content.getvalue())
        self._index_written_s = time.monotonic()

    def close(self) -> None:
        """Write the index and let the next writer in."""
        try:
            self.write_index()
        finally:
            self._lock.release()


class EpisodeWriter:
    """Writes episodes in the order given, with ids 0, 1, ...; a context manager.

    A whole shard is hashed and written by a thread while the episodes of the next one arrive; what goes wrong there is raised by the ``append`` or
    ``close`` that comes to hear of it. ``resume=True`` appends to what is there; a damaged last shard is dropped, so ask ``len`` where to go on.
    Leaving the ``with`` block by an exception keeps the finished shards and drops the unfinished one. ``DataError`` if the directory exists and
    ``resume`` is False, is being written by someone else, or was made with other settings.
    """

    def __init__(self, path: Path | str, meta: DatasetMeta, *, resume: bool = False) -> None:
        self._directory = DatasetDirectory(Path(path), meta, resume=resume)
        self.meta = self._directory.meta
        self._episodes: list[Episode] = []
        self._shard = 0
        while self._directory.num_finished_episodes(self._shard) == self.meta.episodes_per_shard:
            self._shard += 1
        if self._directory.finished_shards[-1:] > [self._shard]:
            self._directory.close()
            raise DataError(f"dataset {str(path)!r} has no whole shard {self._shard:05d} but later ones; restore it, or write to another directory")
        if self._directory.num_finished_episodes(self._shard) > 0:
            self._directory.write_index()
            store = EpisodeStore(self._directory.path)
            self._episodes = [store.episode(episode_id) for episode_id in range(self._shard * self.meta.episodes_per_shard, len(store))]
        self._num_written = len(self._episodes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lewm-shards")
        self._writing: Future[None] | None = None

    def __len__(self) -> int:
        return self._shard * self.meta.episodes_per_shard + len(self._episodes)

    def append(self, episode: Episode) -> int:
        """Add an episode and return its id; ``DataError`` if it is not of the dataset's kind or the disk is full."""
        check_episode(self.meta, episode)
        self._episodes.append(episode)
        episode_id = len(self) - 1
        if len(self._episodes) == self.meta.episodes_per_shard:
            self._finish_writing()
            self._writing = self._thread.submit(self._write_shard, self._shard, self._episodes)
            self._shard, self._episodes, self._num_written = self._shard + 1, [], 0
        return episode_id

    def close(self) -> None:
        """Write the last shard, however short, and the index."""
        try:
            self._finish_writing()
            if len(self._episodes) > self._num_written:
                self._write_shard(self._shard, self._episodes)
        finally:
            self._episodes, self._num_written = [], 0
            self._let_go()

    def _write_shard(self, shard: int, episodes: list[Episode]) -> None:
        rows = write_shard(self._directory.path, self.meta, shard, episodes)
        self._directory.add(shard, rows)

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _let_go(self) -> None:
        """End the thread, whose shard is written to its end, and let the next writer in."""
        self._thread.shutdown()
        self._directory.close()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._let_go()
