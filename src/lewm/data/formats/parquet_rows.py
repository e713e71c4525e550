"""Rows of parquet files, read a row group at a time.

Axes: n row.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data.formats.recent import Recent
from lewm.errors import DataError

MAX_KEPT_BYTES = 128 * 2**20
MAX_OPEN_FILES = 16


@contextmanager
def reported_as_damaged(path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a file into one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{str(path)!r} is missing; restore it") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{str(path)!r} cannot be read as parquet ({reason}): it is cut off, damaged or of another kind; restore it") from None


def read_columns(path: Path, names: Sequence[str] | None = None, *, optional: Sequence[str] = ()) -> dict[str, pa.ChunkedArray]:
    """Whole columns of a file, all of them if no names are given; ``DataError`` if one is missing that is not optional."""
    with reported_as_damaged(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        known = file.schema_arrow.names
        missing = [name for name in names or () if name not in known]
        if missing:
            raise DataError(f"{str(path)!r} has no column {missing[0]!r}; it has {', '.join(known)}")
        wanted = known if names is None else [*names, *(name for name in optional if name in known)]
        table = file.read(columns=wanted)
        return {name: table.column(name) for name in wanted}


def as_matrix(column: pa.Array | pa.ChunkedArray, where: str) -> np.ndarray:
    """Numbers [n], or lists of numbers of one length [n, length], with the type that they have in the file; missing ones are NaN.

    ``DataError`` for anything else.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    kind, num_rows = column.type, len(column)
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False)) if num_rows else np.array([getattr(kind, "list_size", 0)])
        if len(lengths) != 1 or column.null_count:
            raise DataError(f"{where} has lists of different lengths, {lengths[:3].tolist()}; all must be of one")
        return _as_numbers(column.flatten(), where).reshape(num_rows, int(lengths[0]))
    return _as_numbers(column, where)


def as_bytes(column: pa.Array) -> list[bytes | None]:
    """Contents of files that are kept as such, or as a structure with a field ``bytes``; None where there is something else."""
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = column.field("bytes")
    is_binary = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    return list(column.to_pylist()) if is_binary else [None] * len(column)


def _as_numbers(values: pa.Array, where: str) -> np.ndarray:
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{where} has values of type {kind}; numbers are needed, or lists of numbers")
    return np.asarray(values.to_numpy(zero_copy_only=False))


class ParquetRows:
    """Any rows of any number of files; the row groups used last are kept. Safe from several threads."""

    def __init__(self) -> None:
        self._kept: Recent[tuple[Path, int, str], pa.Array] = Recent(MAX_KEPT_BYTES, lambda values: values.nbytes)
        self._open: Recent[Path, tuple[pq.ParquetFile, np.ndarray]] = Recent(MAX_OPEN_FILES, lambda _: 1)
        self._reading = threading.Lock()

    def read(self, path: Path, name: str, rows: np.ndarray) -> pa.Array:
        """Rows of a column; ``rows`` int64 [n], ascending."""
        file, first_rows = self._open.get(path, lambda: _opened(path))
        groups = np.searchsorted(first_rows, rows, side="right") - 1
        parts = []
        for group in np.unique(groups):
            values = self._kept.get((path, int(group), name), lambda group=group: self._row_group(path, file, int(group), name))  # type: ignore[misc]
            with reported_as_damaged(path):
                parts.append(values.take(pa.array(rows[groups == group] - first_rows[group])))
        return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)

    def close(self) -> None:
        """Let go of files and rows."""
        self._kept.clear()
        self._open.clear()

    def _row_group(self, path: Path, file: pq.ParquetFile, group: int, name: str) -> Any:
        with self._reading, reported_as_damaged(path):
            column = file.read_row_group(group, columns=[name], use_threads=False).column(name)
            return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _opened(path: Path) -> tuple[pq.ParquetFile, np.ndarray]:
    """A file, and the first row of each of its row groups."""
    with reported_as_damaged(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        return file, np.cumsum([0, *counts])[:-1]
