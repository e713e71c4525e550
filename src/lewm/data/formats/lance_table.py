"""One Lance table: rows by number, columns by name, and every refusal of the library as a ``DataError``.

Axes: n row, k numbers of a row.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from lewm.data.formats.base import fingerprint_of
from lewm.errors import DataError

COMPANIONS = ("_episodes", "_videos")
"""Tables beside the one of the frames: what is particular to an episode, and frames as videos."""
SCAN_ROWS = 2**16


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report what Lance and Arrow raise over a damaged table in one sentence; a panic of their Rust code is no ``Exception``."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise damaged(path, str(error)) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise damaged(path, str(error)) from None


def damaged(path: Path, what: str) -> DataError:
    """The error for a table that cannot be read."""
    first_line = what.split("\n", maxsplit=1)[0][:300]
    return DataError(f"Lance table {str(path)!r} cannot be read ({first_line}); restore it or write it anew")


def find_table(path: Path) -> Path:
    """The directory of the table of frames: ``path`` itself, or the only one in it; ``DataError`` if that is unclear."""
    if (path / "_versions").is_dir():
        return path
    tables = frame_tables(path)
    if len(tables) == 1:
        return tables[0]
    found = ", ".join(repr(table.name) for table in tables) or "none"
    raise DataError(f"{str(path)!r} is no Lance table, and those in it are {found}; name one")


def frame_tables(path: Path) -> list[Path]:
    """The tables in a directory that are no companions of another."""
    if not path.is_dir():
        return []
    found = (table for table in path.glob("*.lance") if (table / "_versions").is_dir())
    return sorted(table for table in found if not table.stem.endswith(COMPANIONS))


def companion(table: Path, kind: str) -> Path:
    """The directory that a companion table has."""
    return table.with_name(f"{table.stem}{kind}.lance")


class LanceTable:
    """A table at the version that it had when it was opened. Safe from several threads, but not in a forked process."""

    def __init__(self, path: Path) -> None:
        self.path, self._process = path, os.getpid()
        with reading(path):
            self._dataset = lance.dataset(str(path.absolute()))
            self.version = int(self._dataset.version)
            self.schema: pa.Schema = self._dataset.schema
            self.num_rows = int(self._dataset.count_rows())
            self._files = [file.path for fragment in self._dataset.get_fragments() for file in fragment.data_files()]
        for name in self._files:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise damaged(path, f"it names a file outside of itself: {name!r}")

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Rows by number, int64 [n], of some columns, in that order."""
        with reading(self.path):
            found = self._opened().take(rows.tolist(), columns=list(columns))
        if found.num_rows != len(rows):
            raise damaged(self.path, f"{found.num_rows} of {len(rows)} rows were found")
        return found

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows of some columns, a batch at a time."""
        with reading(self.path):
            batches = iter(self._opened().scanner(columns=list(columns), batch_size=SCAN_ROWS, scan_in_order=True).to_batches())
        while True:
            with reading(self.path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def fingerprint(self, *more: str) -> str:
        """Names the content by the files of this version."""
        deletions = [file for file in (self.path / "_deletions").glob("*") if file.is_file()]
        with reading(self.path):
            return fingerprint_of(self.path, [*(self.path / "data" / name for name in self._files), *deletions], *more)

    def _opened(self) -> Any:
        if self._process != os.getpid():
            raise DataError(
                f"{str(self.path)!r} was opened before this process was forked, which Lance does not survive; start processes with 'spawn'"
            )
        return self._dataset


def width(kind: pa.DataType) -> int | None:
    """How many numbers a row has in a column: 1, or the size of its lists; None for columns of other things."""
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size if _is_numeric(kind.value_type) and kind.list_size > 0 else None
    return 1 if _is_numeric(kind) else None


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column holds encoded pictures."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def numbers(column: pa.ChunkedArray | pa.Array, path: Path, name: str) -> np.ndarray:
    """The column as an array [n, k] of its own type; ``DataError`` for missing values."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = []
    with reading(path):
        for chunk in chunks:
            values = chunk.flatten() if pa.types.is_fixed_size_list(chunk.type) else chunk
            if chunk.null_count or values.null_count:
                raise ValueError(f"column {name!r} has missing values")
            parts.append(values.to_numpy(zero_copy_only=False).reshape(len(chunk), -1))
        return np.concatenate(parts) if parts else np.zeros((0, 1))


def as_float32(values: np.ndarray) -> np.ndarray:
    """The same numbers as float32; what is too large becomes infinite, which readers refuse."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)
