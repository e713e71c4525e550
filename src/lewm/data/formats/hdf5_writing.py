"""Writing a flat HDF5 file that stable-worldmodel and le-wm read: parts beside it that are whole or absent, joined at the end.

Axes: n row, N env step, V view (here: camera), Y X image, P proprioception, a env action, s label.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from lewm.data.durable import TEMPORARY_PREFIX, DirectoryLock, recover_directories, reported_as_data_error, sync_directory, write_atomically
from lewm.data.formats.hdf5_files import Hdf5File, dataset_at
from lewm.data.formats.hdf5_note import camera_columns, read_note, write_note, write_provenance
from lewm.data.layout import DISCRETE_ACTION_PADDING, DatasetMeta
from lewm.data.shards import check_episode
from lewm.errors import DataError
from lewm.schema import Episode

logger = logging.getLogger(__name__)
PART_BYTES = 64 * 2**20
"""Decoded bytes of a part, at least one episode: so much is held in memory, and lost when a writer is killed."""
PARTS_SUFFIX = ".parts"
ROWS_PER_CHUNK = 1000
"""Of the small columns; frames have one row per chunk, so that reading one decodes one."""
COPY_ROWS = 2**13
MEMORY_BLOCK_BYTES = 2**22
SPARE_BYTES = 2**24
NAN = np.float32("nan")


@dataclass(frozen=True)
class _Piece:
    """A whole file with some of the episodes."""

    path: Path
    num_episodes: int
    num_rows: int


class Hdf5Sink:
    """Writes episodes in the order given; a context manager. ``PATH.parts`` is there while it is at work, ``PATH`` appears when it is done.

    A part is written under a temporary name and renamed, so that ``resume=True`` finds whole episodes only; it also appends to a finished file.
    Joining the parts copies compressed bytes and needs as much free space again as they take.
    """

    def __init__(self, path: Path, meta: DatasetMeta, *, resume: bool) -> None:
        self._path, self._meta = path, meta
        self._directory = path.with_name(path.name + PARTS_SUFFIX)
        if (path.exists() or self._directory.exists()) and not resume:
            raise DataError(f"{str(path)!r} already exists, or is being written; continue it with --resume, or choose another path")
        if path.is_dir():
            raise DataError(f"{str(path)!r} is a directory; choose the path of a file, such as {str(path / 'data.h5')!r}")
        with reported_as_data_error(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(self._directory)
        try:
            recover_directories(self._directory)
            self._pieces = self._whole_pieces()
        except BaseException:
            self._lock.release()
            raise
        self._part: _Part | None = None

    def __len__(self) -> int:
        return sum(piece.num_episodes for piece in self._pieces) + (len(self._part.lengths) if self._part else 0)

    def append(self, episode: Episode) -> int:
        """Add an episode and return its number; ``DataError`` if it is not of the file's kind or the disk is full."""
        check_episode(self._meta, episode)
        number = len(self)
        with _reported(self._path):
            if self._part is None:
                self._part = _Part(self._meta)
            self._part.append(episode, number)
            if self._part.num_rows * self._meta.row_bytes >= PART_BYTES:
                self._finish_part()
        return number

    def close(self) -> None:
        """Finish the last part and join them all to the file."""
        try:
            with _reported(self._path):
                if self._part is not None:
                    self._finish_part()
                self._join()
        finally:
            self._lock.release()
        if self._path.exists() or not self._pieces:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> "Hdf5Sink":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        self._part = None
        self._lock.release()

    def _whole_pieces(self) -> list[_Piece]:
        """What is there already, in order. Parts that do not follow are removed: damaged ones, and those that were joined before a kill."""
        pieces = [self._piece(self._path, 0)] if self._path.exists() else []
        parts = sorted(self._directory.glob("*.h5"))
        for number, part in enumerate(parts):
            try:
                pieces.append(self._piece(part, sum(piece.num_episodes for piece in pieces)))
            except DataError as error:
                logger.warning("a part that cannot be used is written anew if it is missing: %s", error)
                for unusable in parts[number:]:
                    unusable.unlink()
                break
        return pieces

    def _piece(self, path: Path, num_before: int) -> _Piece:
        file = Hdf5File(path)
        try:
            with file.reading() as opened:
                note = read_note(opened)
                if note is None:
                    raise DataError(f"{str(path)!r} was not written by lewm, so it cannot be continued; choose another path")
                difference = note.meta.difference(self._meta)
                if difference is not None:
                    raise DataError(f"{str(path)!r} was made with {difference}; continue it with the same settings, or choose another path")
                first = int(dataset_at(opened, "episode_idx")[0])
                if first != num_before:
                    raise DataError(f"{str(path)!r} begins with episode {first}, not {num_before}")
                lengths = dataset_at(opened, "ep_len")[:]
                return _Piece(path, len(lengths), int(lengths.sum()))
        finally:
            file.close()

    def _finish_part(self) -> None:
        assert self._part is not None
        part, self._part = self._part, None
        path = self._directory / f"{len(self._pieces):05d}.h5"
        write_atomically(path, part.finish())
        self._pieces.append(_Piece(path, len(part.lengths), part.num_rows))

    def _join(self) -> None:
        paths = [piece.path for piece in self._pieces]
        if paths in ([], [self._path]):
            return
        if len(paths) == 1:
            os.replace(paths[0], self._path)
        else:
            temporary = self._directory / f"{TEMPORARY_PREFIX}whole.h5"
            _join_files(paths, temporary, self._meta)
            os.replace(temporary, self._path)
        sync_directory(self._path.parent)


class _Part:
    """One HDF5 file that is being made in memory: HDF5 cannot let go of a file that a full disk refuses to take."""

    def __init__(self, meta: DatasetMeta) -> None:
        self._meta = meta
        self.lengths: list[int] = []
        self.num_rows = 0
        self._provenance: list[dict[str, Any]] = []
        self._file = h5py.File("part", "w", libver="latest", driver="core", backing_store=False, block_size=MEMORY_BLOCK_BYTES)
        _create_columns(self._file, meta)

    def append(self, episode: Episode, number: int) -> None:
        """Add an episode, ``number`` of the whole file."""
        columns = episode_columns(self._meta, episode, number)
        num_rows = episode.num_env_steps + 1
        for name, values in columns.items():
            column = self._file[name]
            column.resize(self.num_rows + num_rows, axis=0)
            column[self.num_rows :] = values
        self.lengths.append(num_rows)
        self.num_rows += num_rows
        self._provenance.append(episode.provenance)

    def finish(self) -> bytes:
        """The whole file."""
        _write_episodes(self._file, self.lengths, self._provenance)
        self._file.flush()
        image: bytes = self._file.id.get_file_image()
        self._file.close()
        return image


def episode_columns(meta: DatasetMeta, episode: Episode, number: int) -> dict[str, np.ndarray]:
    """The columns of an episode, [N+1, ...] each, in stable-worldmodel's places: actions where they start, rewards where they lead."""
    num_rows = episode.num_env_steps + 1
    found = {column: episode.observations.frames[:, view] for view, column in enumerate(camera_columns(meta.observation_spec.cameras).values())}
    if episode.actions is not None:
        padding = DISCRETE_ACTION_PADDING if meta.action_spec.kind == "discrete" else NAN
        found["action"] = np.concatenate([episode.actions, np.full((1, *episode.actions.shape[1:]), padding, episode.actions.dtype)])
    if episode.observations.proprioception is not None:
        found["proprio"] = episode.observations.proprioception
    if episode.labels is not None:
        found["state"] = episode.labels
    if episode.rewards is not None:
        found["reward"] = np.concatenate([[NAN], episode.rewards]).astype(np.float32)
    found["terminated"] = np.arange(num_rows) == (num_rows - 1 if episode.terminated else -1)
    found["step_idx"] = np.arange(num_rows)
    found["episode_idx"] = np.full(num_rows, number, np.int32)
    return found


def _create_columns(file: h5py.File, meta: DatasetMeta) -> None:
    """Give a new file the columns of ``meta``, empty, and the note."""
    spec, columns = meta.observation_spec, meta.columns
    # zstd 1 without shuffling: bytes of pixels have none to shuffle, and higher levels take far longer for a few percent.
    compressed = {"chunks": (1, spec.height_px, spec.width_px, 3), "fletcher32": True, **hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=0)}
    for column in camera_columns(spec.cameras).values():
        file.create_dataset(column, (0, spec.height_px, spec.width_px, 3), np.uint8, maxshape=(None, spec.height_px, spec.width_px, 3), **compressed)
    small: dict[str, tuple[Any, tuple[int, ...]]] = {"terminated": (bool, ()), "step_idx": (np.int64, ()), "episode_idx": (np.int32, ())}
    for name, column in {"actions": "action", "proprioception": "proprio", "labels": "state", "rewards": "reward"}.items():
        if name in columns:
            small[column] = (columns[name].dtype, columns[name].shape)
    for column, (dtype, shape) in small.items():
        file.create_dataset(column, (0, *shape), dtype, maxshape=(None, *shape), chunks=(ROWS_PER_CHUNK, *shape), fletcher32=True)
    write_note(file, meta)


def _write_episodes(file: h5py.File, lengths: Sequence[int], provenance: Sequence[dict[str, Any]]) -> None:
    sizes = np.asarray(lengths, np.int64)
    file.create_dataset("ep_len", data=sizes.astype(np.int32), maxshape=(None,), chunks=(ROWS_PER_CHUNK,))
    file.create_dataset("ep_offset", data=np.cumsum(sizes) - sizes, maxshape=(None,), chunks=(ROWS_PER_CHUNK,))
    write_provenance(file, provenance)


def _join_files(sources: Sequence[Path], target: Path, meta: DatasetMeta) -> None:
    """Write the episodes of several files into one, frames as the compressed bytes that they are."""
    lengths: list[int] = []
    provenance: list[dict[str, Any]] = []
    frames = set(camera_columns(meta.observation_spec.cameras).values())
    _check_room(sum(source.stat().st_size for source in sources), target)
    with h5py.File(target, "w", libver="latest") as joined:
        _create_columns(joined, meta)
        for source in sources:
            with h5py.File(source, "r") as file:
                note = read_note(file)
                assert note is not None  # _piece saw it
                first = joined["episode_idx"].shape[0]
                for name in list(joined):
                    copy = _copy_chunks if name in frames else _copy_rows
                    copy(file[name], joined[name], first)
                lengths += file["ep_len"][:].tolist()
                provenance += note.provenance
        _write_episodes(joined, lengths, provenance)
    with open(target, "rb") as written:
        os.fsync(written.fileno())


def _check_room(num_bytes: int, target: Path) -> None:
    """``OSError`` now unless the disk has room: HDF5 would go on about it for every object in the file."""
    if shutil.disk_usage(target.parent).free < num_bytes + SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: joining the parts takes {num_bytes / 1e9:.1f} GB")


def _copy_chunks(source: h5py.Dataset, target: h5py.Dataset, first: int) -> None:
    """Append chunks of one row each without decoding them."""
    target.resize(first + source.shape[0], axis=0)
    for row in range(source.shape[0]):
        mask, data = source.id.read_direct_chunk((row, 0, 0, 0))
        target.id.write_direct_chunk((first + row, 0, 0, 0), data, mask)


def _copy_rows(source: h5py.Dataset, target: h5py.Dataset, first: int) -> None:
    target.resize(first + source.shape[0], axis=0)
    for start in range(0, source.shape[0], COPY_ROWS):
        values = source[start : start + COPY_ROWS]
        target[first + start : first + start + len(values)] = values


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a ``DataError``; HDF5 tells some of it as a RuntimeError."""
    with reported_as_data_error(path):
        try:
            yield
        except RuntimeError as error:
            raise OSError(None, str(error)) from error
