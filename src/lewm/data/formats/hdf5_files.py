"""An HDF5 file by somebody else: opened lazily, read by rows, and never trusted.

Axes: n row.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  # registers the compressions that such files use
import numpy as np

from lewm.errors import DataError

CHUNK_CACHE_BYTES = 64 * 2**20
"""Per column: the last chunks read stay decoded, because older recorders put 100 frames into one."""
REFUSED = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError, ArithmeticError)
"""What h5py raises for files that are cut, damaged or of another kind."""


class Hdf5File:
    """One open file handle, opened when it is first needed, again after ``close`` and again in a forked process.

    Reading is safe from several threads: HDF5 lets one at a time in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._opened: tuple[int, h5py.File] | None = None

    @contextlib.contextmanager
    def reading(self, what: str = "it") -> Iterator[h5py.File]:
        """The open file; whatever h5py finds wrong with it while ``what`` is read becomes a ``DataError``."""
        try:
            yield self._handle()
        except REFUSED as error:
            raise DataError(f"{str(self.path)!r} cannot be read: {what} is damaged or of another kind ({_one_line(error)}); restore it") from error

    @contextlib.contextmanager
    def opening(self) -> Iterator[h5py.File]:
        """The same for a reader's constructor: a file that is refused is closed at once, not when the error is forgotten."""
        try:
            with self.reading() as file:
                yield file
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; harmless when called twice."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None and opened[0] == os.getpid():
                opened[1].close()

    def _handle(self) -> h5py.File:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), open_for_reading(self.path))
            return self._opened[1]


def open_for_reading(path: Path) -> h5py.File:
    """A file as it is, or, where a recorder that was killed left it marked as being written, as a recorder's readers see it."""
    try:
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking="best-effort")
    except OSError as error:
        if "already open for" not in str(error):
            raise
        return h5py.File(path, "r", swmr=True, rdcc_nbytes=CHUNK_CACHE_BYTES, locking="best-effort")


def dataset_at(group: h5py.Group, name: str) -> h5py.Dataset:
    """The dataset ``name``, a path below ``group``; ``DataError`` if there is none or its values lie in another file."""
    where = f"{group.file.filename!r}: {group.name.rstrip('/')}/{name}"
    found = group
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            raise DataError(f"{where} is missing")
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{where} is a link to another place, which is not followed; copy the values into the file")
        found = found[part]
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{where} must be a dataset, it is a group")
    if found.is_virtual or found.external:
        raise DataError(f"{where} keeps its values in other files, which are not opened; copy the values into the file")
    if found.dtype.kind not in "biufS":
        raise DataError(f"{where} holds {found.dtype} values, which are not read; numbers are")
    return found


def take_rows(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Rows, int64 [n] ascending and distinct, of a dataset: [n, ...]. Each chunk is decoded once, and only chunks with a row in them are."""
    if len(rows) and rows[-1] >= dataset.shape[0]:
        raise DataError(f"{dataset.file.filename!r}: {dataset.name} has {dataset.shape[0]:,} rows, row {rows[-1]:,} is missing")
    out = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    rows_per_chunk = dataset.chunks[0] if dataset.chunks else 1
    is_break = (np.diff(rows) > 1) & (np.diff(rows // rows_per_chunk) > 0)
    edges = [0, *(np.flatnonzero(is_break) + 1).tolist(), len(rows)] if len(rows) else [0]
    for start, stop in pairwise(edges):
        first, last = int(rows[start]), int(rows[stop - 1])
        if last - first == stop - start - 1:
            dataset.read_direct(out, np.s_[first : last + 1], np.s_[start:stop])
        else:
            out[start:stop] = dataset[first : last + 1][rows[start:stop] - first]
    return out


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
