"""Arrays in an ``.npz`` file of any size as memory maps: where they lie if they are stored, else decompressed once into a file that has no name.

Axes: n row.
"""

import shutil
import tempfile
import threading
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from lewm.errors import DataError

COPY_BYTES = 2**20
SPARE_BYTES = 2**28
"""Left free on the disk of the temporary file."""
LOCAL_HEADER_BYTES = 30
DAMAGED = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, OverflowError, MemoryError)


class NpzFile:
    """The arrays of an archive, none of them read before it is asked for. Safe from several threads.

    A stored array is mapped where it lies; a compressed one is decompressed, at its first use, into a temporary file in ``directory`` (by default the
    system's) that vanishes when this object does, however the process ends. ``DataError`` if that disk has too little room.
    """

    def __init__(self, path: Path, directory: Path | None = None) -> None:
        self.path = path
        self._directory = directory
        self._lock = threading.Lock()
        self._arrays: dict[str, np.ndarray] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
                self.kinds = {name: self._kind(archive, info) for name, info in self._members.items()}
                """Name -> shape and dtype."""
        except DAMAGED as error:
            raise self._damaged(error) from None

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def array(self, name: str) -> np.ndarray:
        """The array called ``name``, read-only [n, ...]."""
        with self._lock:
            if name not in self._arrays:
                try:
                    self._arrays[name] = self._map(name)
                except DAMAGED as error:
                    raise self._damaged(error) from None
            return self._arrays[name]

    def close(self) -> None:
        """Forget the maps; what still uses one keeps it."""
        with self._lock:
            self._arrays.clear()

    def _kind(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype; ``DataError`` for anything that is not a plain array of its member's size."""
        with archive.open(info) as file:
            shape, is_fortran, dtype = _read_header(file)
            num_bytes = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
        where = f"{str(self.path)!r}: {info.filename}"
        if dtype.hasobject:
            raise DataError(f"{where} holds Python objects, which are never loaded; save plain arrays")
        if is_fortran and len(shape) > 1:
            raise DataError(f"{where} is in Fortran order, so that its rows lie scattered; save numpy.ascontiguousarray of it")
        if num_bytes != info.file_size or not shape or dtype.kind not in "biuf":
            raise DataError(f"{where} is damaged: {dtype} {list(shape)} cannot be {info.file_size:,} bytes of numbers; download it anew")
        return shape, dtype

    def _map(self, name: str) -> np.ndarray:
        info, (shape, dtype) = self._members[name], self.kinds[name]
        offset = info.file_size - int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if 0 in shape:
            return np.empty(shape, dtype)
        if info.compress_type == zipfile.ZIP_STORED:
            return np.memmap(self.path, dtype, "r", self._start(info) + offset, shape)
        with self._temporary(info) as file:
            return np.memmap(file, dtype, "r", offset, shape)

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Where the bytes of a stored member begin: after its local header, whose variable parts may differ from the directory's."""
        with open(self.path, "rb") as file:
            file.seek(info.header_offset)
            header = file.read(LOCAL_HEADER_BYTES)
            if len(header) < LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
                raise zipfile.BadZipFile(f"no header of {info.filename}")
            start = info.header_offset + LOCAL_HEADER_BYTES + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            file.seek(0, 2)
            if start + info.file_size > file.tell():
                raise zipfile.BadZipFile(f"{info.filename} ends after the file")
        return start

    def _temporary(self, info: zipfile.ZipInfo) -> IO[bytes]:
        """A nameless file with a member's bytes; the archive's checksum has been compared."""
        directory = self._directory or Path(tempfile.gettempdir())
        free = shutil.disk_usage(directory).free
        if info.file_size + SPARE_BYTES > free:
            raise DataError(
                f"{str(self.path)!r}: {info.filename} is compressed and needs {info.file_size / 1e9:.1f} GB of temporary space, {str(directory)!r} "
                f"has {free / 1e9:.1f} GB free; name another place with --option temporary=DIR, or save the archive with numpy.savez"
            )
        file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - the caller closes it
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(info) as member:
                shutil.copyfileobj(member, file, COPY_BYTES)
            file.flush()
        except BaseException:
            file.close()
            raise
        return file

    def _damaged(self, error: BaseException) -> DataError:
        return DataError(f"{str(self.path)!r} cannot be read: it is damaged or no .npz archive ({error}); download it anew")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version} of .npy")
