"""Writing a Minari dataset, one HDF5 file that ``minari.load_dataset`` reads; episodes wait in files of their own until all are there.

Axes: n row, N env step, Y X image, P proprioception.

A killed writer can leave an HDF5 file that nobody can open, so none is ever written to twice: each episode goes to a small file that is then
renamed, and leaving the ``with`` block copies them into a new main file, which takes the place of the old one.
"""

import contextlib
import io
import json
import os
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from lewm.data.durable import LOCK_FILE, TEMPORARY_PREFIX, DirectoryLock, reported_as_data_error, write_atomically
from lewm.data.formats.minari_files import MAIN_FILE, METADATA_FILE, damaged, reading
from lewm.data.formats.minari_spaces import Name, box
from lewm.data.formats.own_metadata import KEY, from_text, to_text
from lewm.data.layout import DatasetMeta
from lewm.data.shards import check_episode
from lewm.data.writing import check_same_settings
from lewm.errors import DataError
from lewm.schema import Episode

UNFINISHED = "unfinished"
SETTINGS_FILE = "settings.json"
GROUP = "episode"
MINARI_VERSION = "0.5.4"
"""The first that reads frames which are not JPEG."""
LAYOUT = ("v110", "v110")
"""Of HDF5 1.10 (2016): every piece of the file's bookkeeping has a checksum."""
OWN_PROVENANCE = "lewm_provenance"
ROWS_PER_CHUNK = 1024


def own_names(meta: DatasetMeta) -> dict[str, Name]:
    """Which entry of an episode holds which column: observations are plain frames if there is nothing else to observe."""
    spec = meta.observation_spec
    is_plain = len(spec.cameras) == 1 and not spec.proprioception
    found: dict[str, Name] = {f"frames.{camera}": ("observations",) if is_plain else ("observations", f"frames_{camera}") for camera in spec.cameras}
    if spec.proprioception:
        found["proprioception"] = ("observations", "proprioception")
    if meta.label_names:
        found["labels"] = ("infos", "labels")
    return found


def own_provenance(attributes: dict[str, Any], file: Path) -> dict[str, Any]:
    """An episode's provenance as it was written; ``DataError`` if it is no longer that."""
    try:
        return dict(json.loads(attributes[OWN_PROVENANCE]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged(file.with_name(MAIN_FILE), str(error)) from None


class MinariSink:
    """Appends episodes; leaving the ``with`` block by an exception keeps them for ``--resume``, but makes no dataset of them yet."""

    def __init__(self, path: Path, meta: DatasetMeta, *, resume: bool) -> None:
        if meta.action_spec.kind == "none":
            raise DataError("Minari has no episodes without actions; write another format, or the native one")
        self.path, self.meta = path, meta
        self._data, self._unfinished = path / "data", path / UNFINISHED
        with reported_as_data_error(path):
            has_content = path.exists() and (not path.is_dir() or any(entry.name != LOCK_FILE for entry in path.iterdir()))
            if has_content and not resume:
                raise DataError(f"{str(path)!r} already exists; continue it with --resume, or choose another directory")
            path.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(path)
        try:
            self._num_finished = self._read_finished()
            self._num_waiting = self._read_waiting()
        except BaseException:
            self._lock.release()
            raise

    def __len__(self) -> int:
        return self._num_finished + self._num_waiting

    def append(self, episode: Episode) -> int:
        """Add an episode and return its number; ``DataError`` if it is not of the dataset's kind or the disk is full."""
        check_episode(self.meta, episode)
        number = len(self)
        content = io.BytesIO()
        with h5py.File(content, "w", libver=LAYOUT) as file:
            _write_episode(file.create_group(GROUP), number, self.meta, episode)
        write_atomically(self._waiting(number), content.getvalue())
        self._num_waiting += 1
        return number

    def _waiting(self, number: int) -> Path:
        return self._unfinished / f"{number:08d}.hdf5"

    def _read_finished(self) -> int:
        """How many episodes the dataset has; ``DataError`` if it is not ours or has other settings."""
        file = self._data / METADATA_FILE
        if not file.is_file():
            return 0
        try:
            metadata = json.loads(file.read_text())
            text, num_episodes = metadata.get(KEY), int(metadata["total_episodes"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged(file, str(error)) from None
        if text is None:
            raise DataError(f"{str(self.path)!r} was not written by lewm; it can be read but not continued: write to another directory")
        check_same_settings(self.path, from_text(text, str(file)), self.meta)
        return num_episodes

    def _read_waiting(self) -> int:
        """How many episodes wait for the main file, the directory they wait in being made or tidied up."""
        settings = self._unfinished / SETTINGS_FILE
        with reported_as_data_error(self._unfinished):
            self._unfinished.mkdir(exist_ok=True)
            for leftover in self._unfinished.glob(f"{TEMPORARY_PREFIX}*"):
                leftover.unlink()
            if settings.is_file():
                check_same_settings(self.path, from_text(settings.read_bytes(), str(settings)), self.meta)
            write_atomically(settings, to_text(self.meta).encode())
            num_waiting = 0
            while self._waiting(self._num_finished + num_waiting).is_file():
                num_waiting += 1
        return num_waiting

    def _finish(self) -> None:
        """Make one dataset of what is finished and what waits."""
        if self._num_waiting:
            main, temporary = self._data / MAIN_FILE, self._data / f"{TEMPORARY_PREFIX}{MAIN_FILE}"
            with reported_as_data_error(self.path):
                self._data.mkdir(exist_ok=True)
                try:
                    num_env_steps = self._copy_into(temporary)
                    os.replace(temporary, main)
                finally:
                    temporary.unlink(missing_ok=True)
            write_atomically(self._data / METADATA_FILE, json.dumps(self._metadata(num_env_steps, main.stat().st_size)).encode())
        with reported_as_data_error(self._unfinished):
            shutil.rmtree(self._unfinished)

    def _copy_into(self, temporary: Path) -> int:
        """Write all episodes into one file; returns their env steps."""
        num_env_steps, main = 0, self._data / MAIN_FILE
        with PatientFile(temporary, "w+b") as target:
            with h5py.File(target, "w", libver=LAYOUT) as file, contextlib.ExitStack() as stack:
                old = stack.enter_context(_opened(main)) if self._num_finished else None
                for number in range(len(self)):
                    if target.failure is None:
                        with contextlib.nullcontext(old) if number < self._num_finished else _opened(self._waiting(number)) as source:
                            num_env_steps += _copy_episode(source, f"episode_{number}" if source is old else GROUP, file, number)
            if target.failure is not None:
                raise target.failure
            os.fsync(target.fileno())
        return num_env_steps

    def _metadata(self, num_env_steps: int, num_bytes: int) -> dict[str, Any]:
        """What Minari keeps beside the episodes, and ours."""
        name = self.path.name
        if not re.fullmatch(r"[-_\w]+-v\d+", name):
            name = re.sub(r"[^-_\w]", "_", name) + "-v0"
        spaces = {"observation_space": _observation_space(self.meta), "action_space": _action_space(self.meta)}
        return {
            "total_episodes": len(self),
            "total_steps": num_env_steps,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            **{key: json.dumps(space) for key, space in spaces.items()},
            "dataset_id": name,
            "minari_version": MINARI_VERSION,
            "algorithm_name": str(self.meta.policy.get("name", "unknown")),
            "author": [],
            "author_email": [],
            "dataset_size": round(num_bytes / 1e6, 1),
            KEY: to_text(self.meta),
        }

    def __enter__(self) -> "MinariSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._lock.release()


class PatientFile(io.FileIO):
    """A file that keeps its first failure to itself: after one that it is told of, such as a full disk, HDF5 ends the process when it closes."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """All of the data, or as if."""
        left = memoryview(data).cast("B")
        num_bytes = len(left)
        try:
            while len(left) and self.failure is None:
                left = left[super().write(left) or 0 :]
        except OSError as error:
            self.failure = error
        return num_bytes

    def truncate(self, size: int | None = None, /) -> int:
        """To a size, or as if."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


def _opened(path: Path) -> h5py.File:
    with reading(path):
        return h5py.File(path, "r")


def _copy_episode(source: h5py.File, group: str, target: h5py.File, number: int) -> int:
    """Copy an episode as it is stored; returns its env steps."""
    with reading(Path(source.filename)):
        num_env_steps = int(source[group].attrs["total_steps"])
        source.copy(group, target, name=f"episode_{number}")
    return num_env_steps


def _write_episode(group: h5py.Group, number: int, meta: DatasetMeta, episode: Episode) -> None:
    """An episode's arrays and attributes."""
    num_env_steps, observations = episode.num_env_steps, episode.observations
    provenance = np.bytes_(json.dumps(episode.provenance).encode())
    ends = np.zeros(num_env_steps, bool)
    ends[-1] = True
    group.attrs.update({"id": number, "seed": episode.seed, "total_steps": num_env_steps, OWN_PROVENANCE: provenance})
    columns: dict[str, np.ndarray | None] = {"proprioception": observations.proprioception, "labels": episode.labels}
    columns |= {f"frames.{camera}": observations.frames[:, view] for view, camera in enumerate(meta.observation_spec.cameras)}
    arrays = {"/".join(map(str, name)): columns[column] for column, name in own_names(meta).items()}
    arrays |= {"actions": episode.actions, "terminations": ends & episode.terminated, "truncations": ends & (not episode.terminated)}
    arrays["rewards"] = np.zeros(num_env_steps, np.float32) if episode.rewards is None else episode.rewards
    for name, array in arrays.items():
        assert array is not None  # check_episode saw it
        is_frames = array.dtype == np.uint8
        group.create_dataset(
            name,
            data=array,
            chunks=(1 if is_frames else min(len(array), ROWS_PER_CHUNK), *array.shape[1:]),
            maxshape=(None, *array.shape[1:]),
            fletcher32=True,
            compression="gzip" if is_frames else None,
        )


def _observation_space(meta: DatasetMeta) -> dict[str, Any]:
    spec = meta.observation_spec
    frames = box((spec.height_px, spec.width_px, 3), 0, 255, "uint8")
    names = own_names(meta)
    parts = {name[1]: frames for column, name in names.items() if column.startswith("frames.") and len(name) > 1}
    if not parts:
        return frames
    if spec.proprioception:
        parts["proprioception"] = box((len(spec.proprioception),), -np.inf, np.inf, "float32")
    return {"type": "Dict", "subspaces": parts}


def _action_space(meta: DatasetMeta) -> dict[str, Any]:
    spec = meta.action_spec
    if spec.kind == "discrete":
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": spec.num_choices}
    return box((spec.dimension,), spec.low, spec.high, "float32")
