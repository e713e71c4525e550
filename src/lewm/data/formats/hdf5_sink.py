"""Writing one HDF5 file of flat columns that le-wm and stable-worldmodel read.

Axes: n row, N env step, k numbers of a column.

The file is written under another name and renamed when it is whole. Until then it is in HDF5's mode for one writer and many readers, in which what
was flushed can be read after a crash; a resumed writer copies the whole episodes of such a file and goes on.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from lewm.data.durable import sync_directory
from lewm.data.formats.own_metadata import KEY, from_text, to_text
from lewm.data.layout import DatasetMeta
from lewm.data.shards import check_episode
from lewm.data.writing import check_same_settings
from lewm.errors import DataError
from lewm.schema import Episode

PARTIAL_SUFFIX, LINES_SUFFIX, REST_SUFFIX = ".partial", ".partial.jsonl", ".partial.old"
ROWS_PER_CHUNK = 1024
"""Of columns of numbers; frames have chunks of their own."""
PER_EPISODE = {"ep_len": "<i8", "ep_offset": "<i8"}


class Hdf5Sink:
    """Appends episodes; one that is not whole is never listed. An exception in the ``with`` block keeps the partial file for a resumed writer."""

    def __init__(self, path: Path, meta: DatasetMeta, *, resume: bool) -> None:
        self.path, self.meta = path, meta
        self._partial, self._lines_path = (path.with_name(path.name + suffix) for suffix in (PARTIAL_SUFFIX, LINES_SUFFIX))
        if not resume and (path.exists() or self._partial.exists()):
            raise DataError(f"{str(path)!r} already exists; continue it with --resume, or choose another name")
        self._num_rows = 0
        self._lines: list[str] = []
        before = self._earlier() if resume else None
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._create()
            if before is not None:
                self._copy(before)

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, episode: Episode) -> int:
        """Add an episode and return its number; ``DataError`` if it is not of the dataset's kind or the disk is full."""
        check_episode(self.meta, episode)
        number, num_rows = len(self), episode.num_env_steps + 1
        values = _columns_of(self.meta, episode, number)
        with _writing(self.path):
            for name, rows in values.items():
                column = self._file[name]
                column.resize(self._num_rows + num_rows, axis=0)
                column[self._num_rows :] = rows
            self._list(num_rows, json.dumps(episode.provenance))
        return number

    def _list(self, num_rows: int, line: str) -> None:
        """The rows first, then what lists them."""
        self._file.flush()
        with open(self._lines_path, "a") as lines:
            lines.write(line + "\n")
        for name, value in (("ep_len", num_rows), ("ep_offset", self._num_rows)):
            column = self._file[name]
            column.resize(len(self) + 1, axis=0)
            column[-1] = value
        self._file.flush()
        self._num_rows += num_rows
        self._lines.append(line)

    def _create(self) -> h5py.File:
        self._lines_path.write_text("")
        file = h5py.File(self._partial, "w", libver="latest", locking=False)
        file.attrs[KEY] = to_text(self.meta)
        for name, (dtype, shape) in _layout(self.meta).items():
            is_frames = name.startswith("pixels")
            chunk = (1, *shape) if is_frames else (ROWS_PER_CHUNK, *shape)
            file.create_dataset(
                name, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunk, fletcher32=True, **hdf5plugin.Blosc(cname="zstd", clevel=3)
            )
        for name, dtype in PER_EPISODE.items():
            file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(ROWS_PER_CHUNK,), fletcher32=True)
        file.swmr_mode = True
        return file

    def _earlier(self) -> Path | None:
        """The file of an earlier writer, moved aside; None if there is none."""
        rest = self.path.with_name(self.path.name + REST_SUFFIX)
        source = next((file for file in (rest, self._partial, self.path) if file.exists()), None)
        if source is None:
            return None
        with _writing(self.path), h5py.File(source, "r", libver="latest", swmr=True, locking=False) as file:
            text = file.attrs.get(KEY)
            if text is None:
                raise DataError(f"{str(source)!r} was not written by lewm; it can be read but not continued: write to another name")
            check_same_settings(self.path, from_text(str(text), str(source)), self.meta)
        if source != rest:
            with _writing(self.path):
                lines = self._lines_path.read_text() if source == self._partial else _lines_in(source)
                _lines_beside(rest).write_text(lines)
                os.replace(source, rest)
        return rest

    def _copy(self, rest: Path) -> None:
        """Whole episodes of an earlier file, one at a time."""
        lines_path = _lines_beside(rest)
        lines = lines_path.read_text().splitlines()
        with h5py.File(rest, "r", libver="latest", swmr=True, locking=False) as earlier:
            lengths = np.asarray(earlier["ep_len"][:])[: len(lines)]
            for length, line in zip(lengths.tolist(), lines, strict=False):
                part = slice(self._num_rows, self._num_rows + length)
                for name in _layout(self.meta):
                    column = self._file[name]
                    column.resize(part.stop, axis=0)
                    column[part] = earlier[name][part]
                self._list(length, line)
        rest.unlink()
        lines_path.unlink()

    def __enter__(self) -> "Hdf5Sink":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with _writing(self.path):
            self._file.close()
            if kind is not None:
                return
            with h5py.File(self._partial, "r+", libver="latest", locking=False) as file:
                file.create_dataset("lewm_episodes", data=self._lines, dtype=h5py.string_dtype())
            with open(self._partial, "rb") as written:
                os.fsync(written.fileno())
            os.replace(self._partial, self.path)
            sync_directory(self.path.parent)
            self._lines_path.unlink(missing_ok=True)


def _layout(meta: DatasetMeta) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of a row of each column."""
    spec = meta.observation_spec
    cameras = ["pixels"] if len(spec.cameras) == 1 else [f"pixels_{camera}" for camera in spec.cameras]
    found: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(cameras, ("u1", (spec.height_px, spec.width_px, 3)))
    if meta.action_spec.kind == "continuous":
        found["action"] = ("<f4", (meta.action_spec.dimension,))
    if meta.action_spec.kind == "discrete":
        found["action"] = ("<i8", ())
    if spec.proprioception:
        found["proprio"] = ("<f4", (len(spec.proprioception),))
    if meta.label_names:
        found["state"] = ("<f4", (len(meta.label_names),))
    if meta.has_rewards:
        found["reward"] = ("<f4", ())
    return {**found, "terminated": ("?", ()), "ep_idx": ("<i4", ()), "step_idx": ("<i8", ())}


def _columns_of(meta: DatasetMeta, episode: Episode, number: int) -> dict[str, np.ndarray]:
    """An episode's rows: actions stand where they start, rewards and ends where they were reached."""
    frames, num_rows = episode.observations.frames, episode.num_env_steps + 1
    names = [name for name in _layout(meta) if name.startswith("pixels")]
    found: dict[str, np.ndarray] = {name: frames[:, view] for view, name in enumerate(names)}
    optional: dict[str, Any] = {"proprio": episode.observations.proprioception, "state": episode.labels}
    if episode.actions is not None:
        padding = -1 if meta.action_spec.kind == "discrete" else np.nan
        optional["action"] = np.concatenate([episode.actions, np.full((1, *episode.actions.shape[1:]), padding, episode.actions.dtype)])
    if episode.rewards is not None:
        optional["reward"] = np.concatenate([np.full(1, np.nan, np.float32), episode.rewards])
    found |= {name: values for name, values in optional.items() if values is not None}
    terminated = np.zeros(num_rows, bool)
    terminated[-1] = episode.terminated
    return found | {"terminated": terminated, "ep_idx": np.full(num_rows, number, np.int32), "step_idx": np.arange(num_rows)}


def _lines_beside(rest: Path) -> Path:
    return rest.with_name(rest.name + ".jsonl")


def _lines_in(path: Path) -> str:
    """What a finished file says of its episodes, a line each."""
    with h5py.File(path, "r", locking=False) as file:
        return "".join(f"{text.decode()}\n" for text in file["lewm_episodes"][:])


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"cannot write {str(path)!r}: {error}; free some space or choose another place, then go on with --resume") from error
