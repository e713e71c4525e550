"""Files that are either complete or absent: written under a temporary name, flushed to the disk, then renamed."""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lewm.errors import DataError

LOCK_FILE = ".lock"
TEMPORARY_PREFIX = ".writing-"
REPLACED_PREFIX = ".replaced-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def reported_as_data_error(path: Path) -> Iterator[None]:
    """Turn what the file system refuses while ``path`` is written into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            message = f"no space left to write {str(path)!r} ({error.strerror}); finished files are intact: free some space, then go on with --resume"
        else:
            message = f"cannot write {str(path)!r}: {error.strerror or error}; check its permissions or choose another place"
        raise DataError(message) from error


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` survive a power cut (Windows has no such call and needs none)."""
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part; ``DataError`` if the disk refuses."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    with reported_as_data_error(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)


@contextlib.contextmanager
def directory_written_atomically(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes ``path``, in place of an older one, when the block ends well and vanishes when it does not.

    The caller syncs the files that it writes. A kill between the two renames of a replacement leaves the old directory under
    ``REPLACED_PREFIX``; ``recover_directories`` puts it back.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    replaced = path.with_name(REPLACED_PREFIX + path.name)
    with reported_as_data_error(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            sync_directory(temporary)
            if path.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                os.rename(path, replaced)
            os.rename(temporary, path)
            sync_directory(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def recover_directories(parent: Path) -> None:
    """Tidy up after a killed writer: unfinished directories go, one that was being replaced comes back. Only under the writer's lock."""
    with reported_as_data_error(parent):
        for leftover in parent.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for replaced in parent.glob(f"{REPLACED_PREFIX}*"):
            original = replaced.with_name(replaced.name.removeprefix(REPLACED_PREFIX))
            if original.exists():
                shutil.rmtree(replaced)
            else:
                os.rename(replaced, original)


class DirectoryLock:
    """One writer per directory: an advisory lock that the operating system drops when its holder dies."""

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_FILE
        with reported_as_data_error(path):
            self._file: IO[str] | None = open(path, "w")  # noqa: SIM115 - held until release()
        try:
            _lock(self._file)
        except OSError as error:
            self._file.close()
            raise DataError(f"{str(directory)!r} is being written by another process; wait for it or choose another directory") from error

    def release(self) -> None:
        """Let the next writer in; harmless when called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: IO[str]) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
