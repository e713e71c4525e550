"""Which format a path is of, told by names and first bytes: no extra is needed, and nothing is opened that is not needed."""

import zipfile
from collections.abc import Callable
from pathlib import Path

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HDF5_MAGIC_OFFSETS = (0, 512, 1024, 2048)
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
OGBENCH_ARRAYS = {"observations.npy", "actions.npy", "terminals.npy"}


def recognise(path: Path) -> str | None:
    """The name of the format of what is at ``path``, None if it is none that is known."""
    return next((name for name, is_of in RECOGNISERS if is_of(path)), None)


def _is_native(path: Path) -> bool:
    return (path / "meta.json").is_file()


def _is_lerobot(path: Path) -> bool:
    return (path / "meta" / "info.json").is_file()


def _is_minari(path: Path) -> bool:
    """A dataset, its directory ``data``, or one that lewm has not finished."""
    return any(file.is_file() for file in (path / "metadata.json", path / "data" / "metadata.json", path / "unfinished" / "settings.json"))


def _is_lance(path: Path) -> bool:
    """A table, or a directory of some."""
    return (path / "_versions").is_dir() or any((table / "_versions").is_dir() for table in path.glob("*.lance"))


def _is_hdf5(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        for offset in HDF5_MAGIC_OFFSETS:
            file.seek(offset)
            if file.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
                return True
    return False


def _is_robomimic(path: Path) -> bool:
    """An HDF5 file with a group ``data`` of demonstrations; without h5py nobody can tell."""
    if not _is_hdf5(path):
        return False
    try:
        import h5py

        with h5py.File(path, "r", locking=False) as file:
            return "data" in file and any(name.startswith("demo") for name in file["data"])
    except (ImportError, OSError, RuntimeError, TypeError, KeyError):
        return False


def _is_ogbench(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return OGBENCH_ARRAYS.issubset(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _is_video(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in VIDEO_SUFFIXES
    return path.is_dir() and _has_file(path, VIDEO_SUFFIXES)


def _is_images(path: Path) -> bool:
    return path.is_dir() and (_has_file(path, IMAGE_SUFFIXES) or any(_has_file(part, IMAGE_SUFFIXES) for part in path.iterdir() if part.is_dir()))


def _has_file(directory: Path, suffixes: tuple[str, ...]) -> bool:
    return any(entry.suffix.lower() in suffixes and entry.is_file() for entry in directory.iterdir())


RECOGNISERS: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("native", _is_native),
    ("lerobot", _is_lerobot),
    ("minari", _is_minari),
    ("lance", _is_lance),
    ("robomimic", _is_robomimic),
    ("hdf5", _is_hdf5),
    ("ogbench", _is_ogbench),
    ("video", _is_video),
    ("images", _is_images),
)
"""The first that says yes decides."""
