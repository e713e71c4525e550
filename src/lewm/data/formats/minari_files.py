"""The files in which Minari keeps episodes: one HDF5 file, or one Arrow or Parquet file each; rows are read by number.

Axes: n row.
"""

import contextlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lewm.data.formats.hdf5_heap import variable_rows
from lewm.data.formats.minari_spaces import Name, spelled
from lewm.errors import DataError, MissingExtraError

MAIN_FILE = "main_data.hdf5"
METADATA_FILE = "metadata.json"
MAX_PICTURE_BYTES = 2**28


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report what HDF5 and Arrow raise over a damaged file in one sentence."""
    try:
        yield
    except (
        OSError,
        ValueError,
        RuntimeError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        MemoryError,
        NotImplementedError,
    ) as error:
        raise damaged(path, str(error)) from None


def damaged(path: Path, what: str) -> DataError:
    """The error for a file that cannot be read."""
    first_line = what.split("\n", maxsplit=1)[0][:300]
    return DataError(f"{str(path)!r} of a Minari dataset cannot be read ({first_line}); restore it or write it anew")


class EpisodeFiles(ABC):
    """Entries of episodes by name. Safe from several threads; a forked process opens files anew."""

    path: Path
    """The directory that Minari calls ``data``."""

    @abstractmethod
    def num_rows(self, episode: int, name: Name) -> int | None:
        """How many rows an entry has, None if the episode has no such entry."""

    @abstractmethod
    def row_shape(self, episode: int, name: Name) -> tuple[int, ...] | None:
        """Shape of a row of numbers, None if rows are something else."""

    @abstractmethod
    def read(self, episode: int, name: Name, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | list[bytes]:
        """Some rows: numbers [n, *shape], or encoded pictures; ``DataError`` if they are of another shape."""

    @abstractmethod
    def text(self, episode: int, name: Name) -> str:
        """The first row of an entry of texts."""

    @abstractmethod
    def attributes(self, episode: int) -> dict[str, Any]:
        """Numbers and short texts that stand beside an episode."""

    @abstractmethod
    def files(self) -> list[Path]:
        """All files."""

    def close(self) -> None:  # noqa: B027  # only some keep files open
        """Let go of open files."""


class Hdf5Files(EpisodeFiles):
    """All episodes in one file, a group each."""

    def __init__(self, path: Path, num_episodes: int) -> None:
        self.path = path
        self._main = path / MAIN_FILE
        self._lock = threading.Lock()
        self._file: Any = None
        self._process = -1
        if not self._main.is_file():
            raise damaged(self._main, "it is missing")
        with reading(self._main):
            num_groups = sum(name.startswith("episode_") for name in self._opened())
        if num_groups != num_episodes:
            raise damaged(self._main, f"it has {num_groups} episodes, {METADATA_FILE} says {num_episodes}: its writer was stopped, or it is damaged")

    def num_rows(self, episode: int, name: Name) -> int | None:
        """Of the data set's first axis."""
        with reading(self._main):
            found = self._find(episode, name)
            return None if found is None else int(found.shape[0]) if found.ndim else 0

    def row_shape(self, episode: int, name: Name) -> tuple[int, ...] | None:
        """Of the data set's other axes."""
        with reading(self._main):
            found = self._find(episode, name)
            return tuple(found.shape[1:]) if found is not None and found.dtype.kind in "biuf" else None

    def read(self, episode: int, name: Name, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | list[bytes]:
        """As few chunks as the rows are in."""
        where = f"entry {spelled(name)!r} of episode {episode}"
        with reading(self._main):
            found = self._find(episode, name)
            if found is None or found.ndim == 0:
                raise ValueError(f"{where} is missing")
            if len(shape) >= 2 and h5py.check_vlen_dtype(found.dtype) == np.uint8:
                return variable_rows(found, self._main, rows)
            is_encoded = len(shape) >= 2 and found.ndim == 2 and found.dtype == np.uint8
            if is_encoded and found.shape[1] > MAX_PICTURE_BYTES:
                raise ValueError(f"{where} has pictures of {found.shape[1]:,} bytes")
            if not is_encoded and (found.shape[1:] != shape or found.dtype.kind not in "biuf"):
                raise ValueError(f"{where} is {found.dtype} {list(found.shape[1:])}, its space says {list(shape)}")
            runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []  # HDF5 takes far longer over a list of rows
            parts = [found[int(run[0]) : int(run[-1]) + 1] for run in runs]
            values = np.concatenate(parts) if parts else found[:0]
            if len(values) != len(rows):
                raise ValueError(f"{where} has {len(found)} rows, not {int(rows[-1]) + 1}")
            return [value.tobytes() for value in values] if is_encoded else np.asarray(values)

    def text(self, episode: int, name: Name) -> str:
        """Decoded."""
        with reading(self._main):
            found = self._find(episode, name)
            kind = None if found is None else h5py.check_string_dtype(found.dtype)
            if kind is None or kind.length is not None:
                raise ValueError(f"entry {spelled(name)!r} of episode {episode} is no text")
            return variable_rows(found, self._main, np.array([0]))[0].decode()

    def attributes(self, episode: int) -> dict[str, Any]:
        """Of the episode's group."""
        with reading(self._main):
            attributes, found = self._group(episode).attrs, {}
            for name in attributes:
                kind = attributes.get_id(name).dtype
                if kind.kind in "biufS":  # texts of variable length can make HDF5 read forever
                    value = np.asarray(attributes[name])
                    if value.ndim == 0:
                        found[name] = value.item().decode() if kind.kind == "S" else value.item()
            return found

    def files(self) -> list[Path]:
        """One."""
        return [self._main]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None and self._process == os.getpid():
                self._file.close()
            self._file = None

    def _opened(self) -> Any:
        with self._lock:
            if self._file is None or self._process != os.getpid():
                self._file, self._process = h5py.File(self._main, "r"), os.getpid()
            return self._file

    def _group(self, episode: int) -> Any:
        group = self._opened().get(f"episode_{episode}")
        if not isinstance(group, h5py.Group):
            raise ValueError(f"episode {episode} is missing")
        return group

    def _find(self, episode: int, name: Name) -> Any:
        """The data set; ``ValueError`` for one that lies in another file."""
        entry = "/".join(f"_index_{part}" if isinstance(part, int) else part for part in name)
        file = self._opened().id
        try:
            found = h5py.h5d.open(file, f"episode_{episode}/{entry}".encode())
        except KeyError:
            self._group(episode)
            return None
        layout = found.get_create_plist()
        is_elsewhere = layout.get_external_count() > 0 or layout.get_layout() == h5py.h5d.VIRTUAL or h5py.h5i.get_file_id(found).name != file.name
        if is_elsewhere:
            raise ValueError(f"entry {spelled(name)!r} of episode {episode} is no data of this file")
        if found.shape and min(found.shape) > 0 and not found.get_storage_size():
            raise ValueError(f"entry {spelled(name)!r} of episode {episode} was never written")
        return h5py.Dataset(found)


class ArrowFiles(EpisodeFiles):
    """A directory per episode with a file or more of columns; Minari pads actions, rewards and ends to the length of the observations."""

    def __init__(self, path: Path, num_episodes: int, *, suffix: str) -> None:
        try:
            import pyarrow
        except ImportError:
            raise MissingExtraError(f"{str(path)!r} is kept as {suffix}, which needs 'pyarrow': pip install 'lewm[lance]'") from None
        self._arrow = pyarrow
        self.path, self._suffix, self._num_episodes = path, suffix, num_episodes
        num_found = sum(entry.name.isdecimal() and entry.is_dir() for entry in path.iterdir())
        if num_found != num_episodes:
            raise damaged(path, f"it has {num_found} episodes, {METADATA_FILE} says {num_episodes}: its writer was stopped, or it is damaged")

    def num_rows(self, episode: int, name: Name) -> int | None:
        """Without the padding."""
        with reading(self.path / str(episode)):
            found = self._find(episode, name)
            return None if found is None else len(found) - (name[0] in ("actions", "rewards", "terminations", "truncations"))

    def row_shape(self, episode: int, name: Name) -> tuple[int, ...] | None:
        """Of a list of fixed size."""
        with reading(self.path / str(episode)):
            found, types = self._find(episode, name), self._arrow.types
            if found is None:
                return None
            if types.is_fixed_size_list(found.type):
                return (int(found.type.list_size),)
            return () if types.is_primitive(found.type) else None

    def read(self, episode: int, name: Name, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | list[bytes]:
        """Arrow files are mapped, of Parquet the whole column is decoded."""
        where, types = f"entry {spelled(name)!r} of episode {episode}", self._arrow.types
        with reading(self.path / str(episode)):
            found = self._find(episode, name)
            if found is None or (len(rows) and int(rows[-1]) >= len(found)):
                raise ValueError(f"{where} is missing, or shorter than others")
            chosen = found.take(self._arrow.array(rows, self._arrow.int64()))
            if types.is_binary(chosen.type) or types.is_large_binary(chosen.type):
                return [bytes(content or b"") for content in chosen.to_pylist()]
            values = chosen.flatten() if types.is_fixed_size_list(chosen.type) else chosen
            if chosen.null_count or values.null_count or not types.is_primitive(values.type):
                raise ValueError(f"{where} has missing values, or no numbers")
            return np.asarray(values.to_numpy(zero_copy_only=False).reshape(len(rows), *shape))

    def text(self, episode: int, name: Name) -> str:
        """As it is."""
        with reading(self.path / str(episode)):
            found = self._find(episode, name)
            if found is None or not self._arrow.types.is_string(found.type):
                raise ValueError(f"entry {spelled(name)!r} of episode {episode} is no text")
            return str(found[0].as_py())

    def attributes(self, episode: int) -> dict[str, Any]:
        """Of the episode's own metadata."""
        with reading(self.path / str(episode) / METADATA_FILE):
            values = json.loads((self.path / str(episode) / METADATA_FILE).read_text())
            return {str(name): value for name, value in values.items() if isinstance(value, bool | int | float | str)}

    def files(self) -> list[Path]:
        """Of all episodes."""
        return [file for episode in range(self._num_episodes) for file in self._of(episode)]

    def _of(self, episode: int) -> list[Path]:
        found = sorted((self.path / str(episode)).glob(f"*.{self._suffix}"))
        if not found:
            raise damaged(self.path / str(episode), f"it has no .{self._suffix} file")
        return found

    def _find(self, episode: int, name: Name) -> Any:
        """The column, an array."""
        tables = [self._table(file, str(name[0])) for file in self._of(episode)]
        if any(name[0] not in table.schema.names for table in tables):
            return None
        whole = self._arrow.concat_tables(tables).column(name[0])
        found = whole.chunk(0) if whole.num_chunks == 1 else whole.combine_chunks()  # which copies all frames, however few are needed
        for part in name[1:]:
            if not self._arrow.types.is_struct(found.type) or found.type.get_field_index(str(part)) < 0:
                return None
            found = found.field(str(part))
        return found

    def _table(self, file: Path, column: str) -> Any:
        if self._suffix == "parquet":
            from pyarrow import parquet

            content = parquet.ParquetFile(file)
            return content.read(columns=[column] if column in content.schema_arrow.names else [])
        with self._arrow.memory_map(str(file)) as mapped:
            return self._arrow.ipc.open_file(mapped).read_all()


def open_files(path: Path, data_format: object, num_episodes: int) -> EpisodeFiles:
    """The files of the format that the metadata name; ``DataError`` if it is none of Minari's."""
    if data_format == "hdf5":
        return Hdf5Files(path, num_episodes)
    if data_format in ("arrow", "parquet"):
        return ArrowFiles(path, num_episodes, suffix=str(data_format))
    raise damaged(path / METADATA_FILE, f"data_format is {data_format!r}, not one of arrow, hdf5, parquet")
