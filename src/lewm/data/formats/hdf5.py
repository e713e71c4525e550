"""One HDF5 file of flat columns, as le-wm and stable-worldmodel write it: rows of all episodes after each other, read a window at a time.

Axes: n row, N env step, Y X image, P proprioception, a env action, s label, k numbers of a column.

``ep_len`` and ``ep_offset`` say where episodes lie (or a column of episode numbers does). Frames are uint8 arrays; other columns are numbers. The
action of a row leads to the next row, so an episode's last one is padding; a reward and ``terminated`` stand in the row that was reached.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers the filters with which such files are compressed
import numpy as np

from lewm.data.formats.base import EpisodeReader, EpisodeSink, checked_actions, fingerprint_of, leave_out, observed_action_spec, padded
from lewm.data.formats.hdf5_sink import Hdf5Sink
from lewm.data.formats.own_metadata import KEY, from_text, listed
from lewm.data.formats.pictures import as_rgb, rgb_shape
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError, LewmError
from lewm.registry import did_you_mean
from lewm.schema import ActionSpec, ObservationSpec

ACTION, REWARD, TERMINATED, PROPRIOCEPTION = "action", "reward", "terminated", "proprio"
LENGTH, OFFSET = "ep_len", "ep_offset"
EPISODE_NUMBERS = ("ep_idx", "episode_idx")
BOOKKEEPING = frozenset((*EPISODE_NUMBERS, LENGTH, OFFSET, "step_idx", ACTION, REWARD, TERMINATED, "truncated", "id", "render_time", PROPRIOCEPTION))
MAX_LABEL_WIDTH = 64
"""A column of more numbers is no label unless it is asked for."""
READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError, AttributeError)
"""All that h5py has been seen to raise over damaged files."""


class Hdf5File:
    """An open file whose handle is shared by threads, one at a time, and opened anew in another process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: h5py.File | None = None
        self._owner = 0

    @contextlib.contextmanager
    def reading(self, what: str) -> Iterator[h5py.File]:
        """The open file; whatever h5py raises becomes a ``DataError`` that says ``what`` was being read."""
        with self._lock:
            try:
                if self._file is None or self._owner != os.getpid():
                    self._file, self._owner = h5py.File(self.path, "r", locking=False), os.getpid()
                yield self._file
            except DataError:
                raise
            except READ_ERRORS as error:
                raise DataError(f"{str(self.path)!r} is damaged or no such file: {what} cannot be read ({error}); restore it") from None

    def close(self) -> None:
        """Let go of the handle."""
        with self._lock:
            if self._file is not None and self._owner == os.getpid():
                self._file.close()
            self._file = None

    def rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Rows [n] of a column, ascending and distinct: neighbours in one read, others one by one: quicker than h5py's lists."""
        with self.reading(f"column {name!r}") as file:
            column = file[name]
            if len(rows) == 0:
                return np.zeros((0, *column.shape[1:]), column.dtype)
            if int(rows[-1]) - int(rows[0]) + 1 == len(rows):
                return np.asarray(column[int(rows[0]) : int(rows[-1]) + 1])
            return np.stack([column[row] for row in rows.tolist()])


class Hdf5Reader(EpisodeReader):
    """Episodes of one file."""

    def __init__(self, path: Path, *, missing_actions: str, num_choices: int, **options: tuple[str, ...] | None) -> None:
        self.path, self._file, self._missing_actions = path, Hdf5File(path), missing_actions
        self._shapes = self._columns()
        own = None if any(option is not None for option in options.values()) else self._own_meta()
        self._is_own = own is not None
        offsets, lengths = self._episodes()
        self._kept = leave_out(path, lengths - 1)
        self._starts, self.lengths = offsets[self._kept], lengths[self._kept] - 1
        self._frames = self._frame_columns(options["frames"])
        self._proprioception = self._chosen(
            "proprioception", options["proprioception"], [PROPRIOCEPTION] if PROPRIOCEPTION in self._numbers() else []
        )
        self._labels = self._chosen("labels", options["labels"], ["state"] if own is not None and own.label_names else self._default_labels())
        if own is not None and not own.label_names:
            self._labels = []
        self.meta = self._foreign_meta(num_choices) if own is None else self._checked_own(own)
        self.terminated = self._read_terminated()

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a column."""
        start, where = int(self._starts[episode]), f"{str(self.path)!r}, episode {int(self._kept[episode])}"
        if column.startswith("frames."):
            return as_rgb(self._file.rows(self._frames[column.removeprefix("frames.")], start + rows))
        if column in ("labels", "proprioception"):
            names = self._labels if column == "labels" else self._proprioception
            return _finite(np.concatenate([self._values(name, start + rows) for name in names], axis=1), column, where)
        transitions = rows[rows < self.lengths[episode]]
        if column == "rewards":
            values = _finite(self._values(REWARD, start + transitions + 1)[:, 0], column, where)
            return values if len(transitions) == len(rows) else padded(values)
        spec = self.meta.action_spec
        if spec.kind == "discrete":
            actions = _choices(self._file.rows(ACTION, start + transitions).reshape(len(transitions), -1)[:, 0], spec, where)
        else:
            actions = checked_actions(self._values(ACTION, start + transitions), where, missing=self._missing_actions)
        return actions if len(transitions) == len(rows) else padded(actions, spec)

    def provenance(self, episode: int) -> dict[str, Any]:
        """Which file and episode; of ours, what was recorded of it."""
        number = int(self._kept[episode])
        if not self._is_own:
            return {"source": self.path.name, "episode": number}
        with self._file.reading("the provenance of episodes") as file:
            text = file["lewm_episodes"][number]
            found: dict[str, Any] = json.loads(text)
            return found

    def fingerprint(self) -> str:
        """Of the file's size and ends, and of its columns."""
        return fingerprint_of(self.path, [self.path], json.dumps({name: [list(shape), kind] for name, (shape, kind) in sorted(self._shapes.items())}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _columns(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and kind of each column."""
        with self._file.reading("the list of columns") as file:
            found = {name: (tuple(item.shape), item.dtype.kind) for name, item in file.items() if isinstance(item, h5py.Dataset)}
        if not found:
            raise DataError(f"{str(self.path)!r} has no columns at its top; it is no file of episodes as stable-worldmodel writes it")
        return found

    def _own_meta(self) -> DatasetMeta | None:
        with self._file.reading("its metadata") as file:
            text = file.attrs.get(KEY)
        return None if text is None else from_text(str(text), str(self.path))

    def _episodes(self) -> tuple[np.ndarray, np.ndarray]:
        """First row and number of rows of each episode, int64; ``DataError`` unless they lie in order and apart."""
        if LENGTH in self._shapes and OFFSET in self._shapes:
            lengths, offsets = (self._whole(name).astype(np.int64) for name in (LENGTH, OFFSET))
            if lengths.shape != offsets.shape or lengths.ndim != 1:
                raise self._damaged(f"{LENGTH} and {OFFSET} have shapes {lengths.shape} and {offsets.shape}")
        else:
            offsets, lengths = self._by_number()
        order = np.argsort(offsets, kind="stable")
        ends = offsets + lengths
        if (lengths < 0).any() or (offsets < 0).any() or (offsets[order][1:] < ends[order][:-1]).any():
            raise self._damaged(f"{OFFSET} and {LENGTH} do not lie apart and in order: an episode is listed twice, or its length is wrong")
        return offsets, lengths

    def _by_number(self) -> tuple[np.ndarray, np.ndarray]:
        name = next((name for name in EPISODE_NUMBERS if name in self._shapes), None)
        if name is None:
            raise DataError(f"{str(self.path)!r} does not say where episodes begin: it has neither {LENGTH} and {OFFSET} nor {EPISODE_NUMBERS[0]}")
        numbers = self._whole(name).ravel()
        edges = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1, [len(numbers)]]).astype(np.int64)
        if len(np.unique(numbers[edges[:-1]])) < len(edges) - 1:
            raise self._damaged(f"an episode of {name!r} comes twice; give each episode a number of its own")
        return edges[:-1], np.diff(edges)

    def _whole(self, name: str) -> np.ndarray:
        if self._shapes[name][1] not in "iuf":
            raise self._damaged(f"column {name!r} holds no numbers")
        with self._file.reading(f"column {name!r}") as file:
            return np.asarray(file[name][:])

    def _numbers(self) -> list[str]:
        """Columns of numbers that may be labels or proprioception: [rows] or [rows, k]."""
        return [name for name, (shape, kind) in self._shapes.items() if kind in "iufb" and len(shape) in (1, 2) and name not in (LENGTH, OFFSET)]

    def _default_labels(self) -> list[str]:
        return [
            name
            for name in self._numbers()
            if name not in BOOKKEEPING and (len(self._shapes[name][0]) == 1 or self._shapes[name][0][1] <= MAX_LABEL_WIDTH)
        ]

    def _chosen(self, option: str, names: tuple[str, ...] | None, default: Sequence[str]) -> list[str]:
        for name in names or ():
            if name not in self._numbers():
                raise DataError(f"{str(self.path)!r} has no column {name!r} of numbers for the option {option}.{did_you_mean(name, self._numbers())}")
        return list(default if names is None else names)

    def _frame_columns(self, names: tuple[str, ...] | None) -> dict[str, str]:
        """Column by camera; ``DataError`` unless all are pictures of one size."""
        pictures = {name: rgb_shape(shape[1:]) for name, (shape, kind) in self._shapes.items() if kind == "u" and len(shape) in (3, 4)}
        usable = [name for name, size in pictures.items() if size is not None]
        chosen = list(names) if names is not None else [name for name in usable if name == "pixels" or name.startswith("pixels_")] or usable
        if not chosen:
            raise DataError(f"{str(self.path)!r} has no column of frames, uint8 [rows, Y, X, 3]; its columns are {', '.join(sorted(self._shapes))}")
        for name in chosen:
            if name not in usable:
                raise DataError(f"{str(self.path)!r} has no column {name!r} of frames.{did_you_mean(name, usable)}")
        sizes = {pictures[name] for name in chosen}
        if len(sizes) > 1:
            raise DataError(f"{str(self.path)!r} has frames of several sizes, {sorted(map(str, sizes))}; choose with --option frames=NAMES")
        return {name.removeprefix("pixels_"): name for name in chosen}

    def _used(self) -> list[str]:
        return [
            *self._frames.values(),
            *self._labels,
            *self._proprioception,
            *(name for name in (ACTION, REWARD, TERMINATED) if name in self._shapes),
        ]

    def _check_lengths(self) -> None:
        needed = int((self._starts + self.lengths + 1).max())
        for name in self._used():
            if self._shapes[name][0][0] < needed:
                raise self._damaged(f"column {name!r} has {self._shapes[name][0][0]:,} of {needed:,} rows")

    def _foreign_meta(self, num_choices: int) -> DatasetMeta:
        self._check_lengths()
        height, width = rgb_shape(self._shapes[next(iter(self._frames.values()))][0][1:]) or (0, 0)
        try:
            return DatasetMeta(
                observation_spec=ObservationSpec(
                    height_px=height, width_px=width, cameras=tuple(self._frames), proprioception=self._number_names(self._proprioception)
                ),
                action_spec=self._foreign_actions(num_choices),
                label_names=self._number_names(self._labels),
                has_rewards=REWARD in self._shapes and self._shapes[REWARD][1] in "iuf",
                provenance={"format": "hdf5", "source": self.path.name},
            )
        except LewmError as error:
            raise DataError(f"{str(self.path)!r} cannot be read: {error}") from None

    def _checked_own(self, meta: DatasetMeta) -> DatasetMeta:
        """Our own metadata, if the columns are what it promises."""
        self._check_lengths()
        spec = meta.observation_spec
        sizes = {rgb_shape(self._shapes[name][0][1:]) for name in self._frames.values()}
        widths = {ACTION: meta.action_spec.dimension if meta.action_spec.kind == "continuous" else None, "state": len(meta.label_names) or None}
        widths[PROPRIOCEPTION] = len(spec.proprioception) or None
        wrong = [name for name, size in widths.items() if size is not None and self._shapes.get(name, ((0, 0), ""))[0][1:] != (size,)]
        if set(self._frames) != (set(spec.cameras) if len(spec.cameras) > 1 else {"pixels"}) or sizes != {(spec.height_px, spec.width_px)} or wrong:
            raise self._damaged(f"its columns are not those that its metadata promise{': ' + wrong[0] if wrong else ''}")
        if len(spec.cameras) == 1:
            self._frames = {spec.cameras[0]: "pixels"}
        return meta

    def _foreign_actions(self, num_choices: int) -> ActionSpec:
        """Bounds as they were seen, for the file names none."""
        if ACTION not in self._shapes:
            return ActionSpec(kind="none")
        shape, kind = self._shapes[ACTION]
        if kind not in "iuf" or len(shape) not in (1, 2):
            raise DataError(f"column {ACTION!r} holds no numbers [rows, a]")
        if num_choices:
            if len(shape) == 2 and shape[1] != 1:
                raise DataError("an action has several numbers, so it is no choice; leave out --option num_choices")
            return ActionSpec(kind="discrete", num_choices=num_choices)
        lows, highs = [], []
        for start, length, number in zip(self._starts, self.lengths, self._kept, strict=True):
            where = f"{str(self.path)!r}, episode {int(number)}"
            actions = checked_actions(self._values(ACTION, np.arange(start, start + length)), where, missing=self._missing_actions)
            lows.append(actions.min(0))
            highs.append(actions.max(0))
        return observed_action_spec(np.min(lows, axis=0).tolist(), np.max(highs, axis=0).tolist())

    def _number_names(self, columns: Sequence[str]) -> tuple[str, ...]:
        sizes = {name: 1 if len(self._shapes[name][0]) == 1 else self._shapes[name][0][1] for name in columns}
        return tuple(name if size == 1 else f"{name}_{place}" for name, size in sizes.items() for place in range(size))

    def _values(self, name: str, rows: np.ndarray) -> np.ndarray:
        """float32 [n, k]."""
        return self._file.rows(name, rows).astype(np.float32).reshape(len(rows), -1)

    def _read_terminated(self) -> np.ndarray:
        if TERMINATED not in self._shapes or self._shapes[TERMINATED][1] not in "iufb":
            return np.zeros(len(self.lengths), bool)
        return np.array([bool(self._values(TERMINATED, np.array([last]))[0, 0] > 0) for last in self._starts + self.lengths])

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{str(self.path)!r} is damaged: {what}; restore it")


def _finite(values: np.ndarray, column: str, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        advice = "choose others with --option labels=NAMES" if column == "labels" else "mend the file"
        raise DataError(f"{where}: {column} must be finite, got {values[~np.isfinite(values)][0]}; {advice}")
    return values


def _choices(actions: np.ndarray, spec: ActionSpec, where: str) -> np.ndarray:
    """int64 [N]."""
    is_choice = np.isfinite(actions) & (actions >= 0) & (actions < spec.num_choices) & (np.rint(actions) == actions)
    if not is_choice.all():
        raise DataError(f"{where}: an action is {actions[~is_choice][0]}, not one of 0 to {spec.num_choices - 1}; mend the file or num_choices")
    return np.asarray(actions.astype(np.int64))


class Hdf5Format(Format):
    """One HDF5 file of flat columns, as le-wm and stable-worldmodel write it."""

    @staticmethod
    def open(
        path: Path,
        *,
        frames: str | None = None,
        proprioception: str | None = None,
        labels: str | None = None,
        num_choices: int | str = 0,
        missing_actions: str = "refuse",
    ) -> ForeignStore:
        """The file at ``path``.

        ``frames``, ``proprioception`` and ``labels`` name columns, with commas between; ``num_choices`` reads actions as choices; ``missing_actions``
        is ``refuse`` or ``zero``.
        """
        if not str(num_choices).isdigit() or missing_actions not in ("refuse", "zero"):
            raise ConfigError(f"num_choices must be 0 or more and missing_actions refuse or zero, got {num_choices!r} and {missing_actions!r}")
        roles = {"frames": listed(frames), "proprioception": listed(proprioception), "labels": listed(labels)}
        return ForeignStore(Hdf5Reader(path, num_choices=int(num_choices), missing_actions=missing_actions, **roles))

    @staticmethod
    def create(path: Path, meta: DatasetMeta, *, resume: bool) -> EpisodeSink:
        """A writer of compressed, checksummed chunks, a frame each."""
        return Hdf5Sink(path, meta, resume=resume)
