"""Flat HDF5 files, as le-wm's data comes and stable-worldmodel writes them: one long column per quantity, episodes one after the other.

Axes: n row, N env step, Y X image, P proprioception, a env action, s label. An episode of L rows has L observations; the action in a row leads to the
next one (NaN in the last row), but reward and ``terminated`` stand in the row of the observation that they came with (NaN in the first).
"""

import dataclasses
import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lewm.data.formats.base import EpisodeReader, EpisodeSink, fingerprint_of, leave_out, padded
from lewm.data.formats.columns import action_spec_of, actions_at, as_matrix, check_missing_actions, check_num_choices, number_names
from lewm.data.formats.frame_layout import FrameLayout, same_size
from lewm.data.formats.hdf5_files import Hdf5File, dataset_at, take_rows
from lewm.data.formats.hdf5_note import Note, camera_columns, read_note
from lewm.data.formats.hdf5_writing import Hdf5Sink
from lewm.data.formats.own_metadata import listed
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.registry import did_you_mean
from lewm.schema import ActionSpec, ObservationSpec

logger = logging.getLogger(__name__)
PIXELS = re.compile(r"pixels(?:[._](.+))?")
DEFAULT_CAMERA = "top"
PROPRIOCEPTION = re.compile(r"proprio([._].+)?")
EPISODE_COLUMNS = ("ep_len", "ep_offset")
NUMBER_COLUMNS = ("episode_idx", "ep_idx")
NO_LABELS = re.compile(r"pixels.*|goal.*|variation.*|ep_.*|.*_idx|id|action|reward|terminated|truncated|render_time|policy|seed")
"""Columns of the recorder's own, and those that say what an environment was made of."""
MAX_LABEL_WIDTH = 64
REWARD_PLACES = ("arrival", "departure")


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which column is what."""

    cameras: dict[str, str]
    proprioception: tuple[str, ...]
    labels: tuple[str, ...]
    has_actions: bool
    has_rewards: bool
    has_terminated: bool
    left_out: tuple[str, ...]
    """Columns that nothing is made of."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All that are used."""
        flags = {"action": self.has_actions, "reward": self.has_rewards, "terminated": self.has_terminated}
        return (*self.cameras.values(), *self.proprioception, *self.labels, *(name for name, is_there in flags.items() if is_there))


class Hdf5Reader(EpisodeReader):
    """Episodes of one flat HDF5 file. Opening reads the small columns once, block by block; memory grows with the number of episodes."""

    def __init__(self, path: Path, *, rewards: str, num_choices: int | str, missing_actions: str, **chosen: tuple[str, ...] | None) -> None:
        if rewards not in REWARD_PLACES:
            raise ConfigError(f"rewards must be one of {', '.join(REWARD_PLACES)}, got {rewards!r}")
        self.path = path
        self._missing = check_missing_actions(missing_actions)
        self._reward_shift = int(rewards == "arrival")
        self._num_choices = check_num_choices(num_choices)
        self._options = json.dumps([chosen, rewards, self._num_choices, missing_actions])
        is_told = self._num_choices > 0 or rewards != "arrival" or any(names is not None for names in chosen.values())
        self._file = Hdf5File(path)
        with self._file.opening() as file:
            self._note = None if is_told else read_note(file)
            self._roles = _chosen_roles(file, **chosen) if self._note is None else _own_roles(file, self._note)
            datasets = {name: dataset_at(file, name) for name in self._roles.columns}
            num_rows = _common_length(datasets, path)
            self._layouts = _layouts(self._roles, datasets, path)
            first_rows, lengths = _episodes(file, num_rows, path)
            self._kept = leave_out(path, lengths - 1)
            self._first_rows, self.lengths = first_rows[self._kept], lengths[self._kept] - 1
            self.terminated = self._read_terminated(datasets)
            self.meta = self._new_meta(datasets, num_rows)

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """See the base class."""
        first, num_env_steps = int(self._first_rows[episode]), int(self.lengths[episode])
        with self._file.reading(f"column {column!r} of episode {episode}") as file:
            if column.startswith("frames."):
                camera = column.removeprefix("frames.")
                return self._layouts[camera].as_rgb(take_rows(file[self._roles.cameras[camera]], rows + first))
            if column == "actions":
                where = f"{str(self.path)!r}: episode {episode}, column 'action'"
                spec = self.meta.action_spec
                return actions_at(lambda which: take_rows(file["action"], which + first), rows, num_env_steps, spec, where, self._missing)
            if column == "rewards":
                return self._rewards(file, first, rows, num_env_steps, episode)
            names = self._roles.labels if column == "labels" else self._roles.proprioception
            parts = [self._finite(as_matrix(take_rows(file[name], rows + first)), name, episode, rows) for name in names]
            return np.concatenate(parts, axis=1)

    def provenance(self, episode: int) -> dict[str, Any]:
        """What the file says of an episode, else the file and the number of the episode in it."""
        number = int(self._kept[episode])
        if self._note is not None:
            return self._note.provenance[number] if number < len(self._note.provenance) else {}
        return {"source": self.path.name, "episode": number}

    def fingerprint(self) -> str:
        """See the base class; the episodes' places in the file count too."""
        places = hashlib.sha256(self._first_rows.tobytes() + self.lengths.tobytes()).hexdigest()
        return fingerprint_of(self.path, [self.path], places, self._options)

    def close(self) -> None:
        """See the base class."""
        self._file.close()

    def _new_meta(self, datasets: dict[str, h5py.Dataset], num_rows: int) -> DatasetMeta:
        provenance = {"source": str(self.path), "format": "hdf5", "columns_left_out": list(self._roles.left_out)}
        if self._note is not None:
            _check_note(self._note, datasets, self._layouts, self._roles, self.path)
            return dataclasses.replace(self._note.meta, provenance=self._note.meta.provenance | provenance)
        height_px, width_px = same_size(self._layouts, str(self.path))
        names = {name: number_names(name, datasets[name].shape) for name in (*self._roles.proprioception, *self._roles.labels)}
        return DatasetMeta(
            observation_spec=ObservationSpec(
                height_px=height_px,
                width_px=width_px,
                cameras=tuple(self._roles.cameras),
                proprioception=tuple(name for column in self._roles.proprioception for name in names[column]),
            ),
            action_spec=self._action_spec(datasets, num_rows),
            label_names=tuple(name for column in self._roles.labels for name in names[column]),
            has_rewards=self._roles.has_rewards,
            provenance=provenance,
        )

    def _action_spec(self, datasets: dict[str, h5py.Dataset], num_rows: int) -> ActionSpec:
        if not self._roles.has_actions:
            return ActionSpec(kind="none")
        changes = np.zeros(num_rows + 1, np.int8)
        np.add.at(changes, self._first_rows, 1)
        np.add.at(changes, self._first_rows + self.lengths, -1)
        actions, where = datasets["action"], f"{str(self.path)!r}: column 'action'"
        is_transition = np.cumsum(changes[:-1], dtype=np.int8) > 0
        return action_spec_of(
            lambda first, last: actions[first:last], actions.shape, actions.dtype, is_transition, where, self._missing, self._num_choices
        )

    def _read_terminated(self, datasets: dict[str, h5py.Dataset]) -> np.ndarray:
        if not self._roles.has_terminated:
            return np.zeros(len(self.lengths), bool)
        last_rows = self._first_rows + self.lengths
        order = np.argsort(last_rows)
        found = np.zeros(len(last_rows), bool)
        found[order] = take_rows(datasets["terminated"], last_rows[order]).reshape(len(last_rows), -1).any(1)
        return found

    def _rewards(self, file: h5py.File, first: int, rows: np.ndarray, num_env_steps: int, episode: int) -> np.ndarray:
        transitions = rows[rows < num_env_steps]
        values = take_rows(file["reward"], transitions + first + self._reward_shift).reshape(len(transitions)).astype(np.float32)
        is_bad = ~np.isfinite(values)
        if is_bad.any():
            raise DataError(
                f"{str(self.path)!r}: episode {episode}: the reward of env step {int(transitions[is_bad][0])} is {values[is_bad][0]}; it is read "
                "from the row of the observation that they led to: --option rewards=departure reads them from the row before"
            )
        return padded(values) if len(transitions) < len(rows) else values

    def _finite(self, values: np.ndarray, name: str, episode: int, rows: np.ndarray) -> np.ndarray:
        is_bad = ~np.isfinite(values).all(1)
        if is_bad.any():
            is_label = name in self._roles.labels
            others = ",".join(column for column in self._roles.labels if column != name) if is_label else ""
            raise DataError(
                f"{str(self.path)!r}: episode {episode}, row {int(rows[is_bad][0])} of column {name!r} is not finite; mend the file, or choose other "
                f"columns: --option {'labels' if is_label else 'proprioception'}={others}"
            )
        return values


class Hdf5Format(Format):
    """A flat HDF5 file."""

    @staticmethod
    def open(
        path: Path,
        *,
        frames: str | None = None,
        proprioception: str | None = None,
        labels: str | None = None,
        rewards: str = "arrival",
        num_choices: int | str = 0,
        missing_actions: str = "refuse",
    ) -> ForeignStore:
        """The file at ``path``.

        ``frames``, ``proprioception`` and ``labels`` name columns, with commas between; by default ``pixels*``, ``proprio*``, and all other
        columns of numbers. ``rewards`` stand in the row that a transition leads to (``arrival``, stable-worldmodel's way) or starts from
        (``departure``). ``num_choices`` reads actions as choices. ``missing_actions``: ``refuse`` NaN inside an episode or read it as ``zero``.
        """
        chosen = {"frames": listed(frames), "proprioception": listed(proprioception), "labels": listed(labels)}
        return ForeignStore(Hdf5Reader(path, rewards=rewards, num_choices=num_choices, missing_actions=missing_actions, **chosen))

    @staticmethod
    def create(path: Path, meta: DatasetMeta, *, resume: bool) -> EpisodeSink:
        """A writer of one file, see ``Hdf5Sink``."""
        return Hdf5Sink(path, meta, resume=resume)


def _chosen_roles(file: h5py.File, frames: tuple[str, ...] | None, proprioception: tuple[str, ...] | None, labels: tuple[str, ...] | None) -> Roles:
    """What the columns of somebody else's file are, by their names and the options."""
    names = [name for name in file if name not in EPISODE_COLUMNS]
    for chosen in (*(frames or ()), *(proprioception or ()), *(labels or ())):
        if chosen not in names:
            raise ConfigError(f"{file.filename!r} has no column {chosen!r}.{did_you_mean(chosen, names)}")
    cameras = _cameras(names, frames, file.filename)
    body = tuple(name for name in names if PROPRIOCEPTION.fullmatch(name)) if proprioception is None else proprioception
    if labels is None:
        used = {*cameras.values(), *body}
        labels = tuple(name for name in names if not NO_LABELS.fullmatch(name) and name not in used and _is_narrow(file, name))
    return _roles(names, cameras, body, labels, has_actions="action" in names, has_rewards="reward" in names)


def _own_roles(file: h5py.File, note: Note) -> Roles:
    """What the columns of a file of ours are."""
    names, meta = [name for name in file if name not in EPISODE_COLUMNS], note.meta
    cameras = camera_columns(meta.observation_spec.cameras)
    body, labels = ("proprio",) if meta.observation_spec.proprioception else (), ("state",) if meta.label_names else ()
    return _roles(names, cameras, body, labels, has_actions=meta.action_spec.kind != "none", has_rewards=meta.has_rewards)


def _roles(
    names: list[str], cameras: dict[str, str], body: tuple[str, ...], labels: tuple[str, ...], *, has_actions: bool, has_rewards: bool
) -> Roles:
    used = {*cameras.values(), *body, *labels, "action", "reward", "terminated"}
    return Roles(
        cameras=cameras,
        proprioception=body,
        labels=labels,
        has_actions=has_actions,
        has_rewards=has_rewards,
        has_terminated="terminated" in names,
        left_out=tuple(name for name in names if name not in used),
    )


def _cameras(names: list[str], frames: tuple[str, ...] | None, where: str) -> dict[str, str]:
    """Camera -> column, of everything called ``pixels``, ``pixels.NAME`` or ``pixels_NAME``, or of the columns ``frames``."""
    found: dict[str, str] = {}
    for name in [name for name in names if PIXELS.fullmatch(name)] if frames is None else frames:
        match = PIXELS.fullmatch(name)
        camera = re.sub(r"[^A-Za-z0-9_-]", "_", (match[1] or DEFAULT_CAMERA) if match else name)
        if camera in found:
            raise DataError(
                f"{where!r}: the columns {found[camera]!r} and {name!r} would both be camera {camera!r}; choose one with --option frames="
            )
        found[camera] = name
    if not found:
        listing = ", ".join(sorted(names)) or "none"
        raise DataError(f"{where!r} has no column 'pixels' or 'pixels.NAME' with frames, it has {listing}; name it with --option frames=COLUMN")
    return found


def _is_narrow(file: h5py.File, name: str) -> bool:
    """Whether a column is of a few numbers per row: anything else is not taken for labels unless it is asked for."""
    found = file.get(name, getclass=True), file.get(name, getlink=True)
    if found[0] is not h5py.Dataset or not isinstance(found[1], h5py.HardLink):
        return False
    dataset = file[name]
    return dataset.dtype.kind in "biuf" and dataset.ndim in (1, 2) and (dataset.ndim == 1 or dataset.shape[1] <= MAX_LABEL_WIDTH)


def _common_length(datasets: dict[str, h5py.Dataset], path: Path) -> int:
    for name, dataset in datasets.items():
        if dataset.ndim < 1 or dataset.dtype.kind not in "biuf":
            raise DataError(
                f"{str(path)!r}: column {name!r} must hold numbers, a row for each observation, got {dataset.dtype} {list(dataset.shape)}"
            )
    lengths = {name: int(dataset.shape[0]) for name, dataset in datasets.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise DataError(f"{str(path)!r}: all columns must have a row for each observation, got {listed}; record it anew")
    return next(iter(lengths.values()))


def _layouts(roles: Roles, datasets: dict[str, h5py.Dataset], path: Path) -> dict[str, FrameLayout]:
    found = {}
    for camera, column in roles.cameras.items():
        found[camera] = FrameLayout.of(datasets[column].shape, datasets[column].dtype, f"{str(path)!r}: column {column!r}")
    return found


def _episodes(file: h5py.File, num_rows: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """First row and number of rows of each episode, int64 [episodes]."""
    if all(name in file for name in EPISODE_COLUMNS):
        lengths, first_rows = (_whole_numbers(dataset_at(file, name), num_rows, path) for name in EPISODE_COLUMNS)
    else:
        number_column = next((name for name in NUMBER_COLUMNS if name in file), None)
        if number_column is None:
            raise DataError(f"{str(path)!r} has no columns 'ep_len' and 'ep_offset', nor 'episode_idx', that say where episodes begin; add them")
        first_rows, lengths = _runs(_whole_numbers(dataset_at(file, number_column), num_rows, path), number_column, path)
    if len(lengths) != len(first_rows):
        raise DataError(f"{str(path)!r}: 'ep_len' names {len(lengths)} episodes, 'ep_offset' {len(first_rows)}; record it anew")
    order = np.argsort(first_rows, kind="stable")
    ends = (first_rows + lengths)[order]
    is_outside = (np.minimum(lengths, first_rows) < 0) | (np.maximum(lengths, first_rows) > num_rows)
    if is_outside.any() or (ends[:-1] > first_rows[order][1:]).any() or (ends > num_rows).any():
        raise DataError(f"{str(path)!r}: 'ep_len' and 'ep_offset' name rows twice, or rows that are not among the {num_rows:,}; record it anew")
    if lengths.sum() < num_rows:
        logger.warning("%s: %d rows belong to no episode and are left out", path, num_rows - lengths.sum())
    return first_rows, lengths


def _whole_numbers(dataset: h5py.Dataset, num_rows: int, path: Path) -> np.ndarray:
    if dataset.dtype.kind not in "iu" or dataset.ndim != 1 or len(dataset) > num_rows:
        raise DataError(
            f"{str(path)!r}: column {dataset.name!r} must be whole numbers, at most {num_rows:,}, got {dataset.dtype} {list(dataset.shape)}"
        )
    return np.asarray(dataset[:], np.int64)


def _runs(numbers: np.ndarray, name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """First row and length of each stretch of one episode number."""
    first_rows = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))
    values, counts = np.unique(numbers[first_rows], return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{str(path)!r}: episode {int(values[counts > 1][0])} of column {name!r} is there twice, with others in between; number them anew"
        )
    return first_rows, np.diff(first_rows, append=len(numbers))


def _check_note(note: Note, datasets: dict[str, h5py.Dataset], layouts: dict[str, FrameLayout], roles: Roles, path: Path) -> None:
    """``DataError`` unless the columns are as the note says."""
    spec, meta = note.meta.observation_spec, note.meta
    widths = {name: int(np.prod(dataset.shape[1:], dtype=np.int64)) for name, dataset in datasets.items()}
    said = dict.fromkeys(roles.proprioception, len(spec.proprioception)) | dict.fromkeys(roles.labels, len(meta.label_names))
    if roles.has_actions:
        said["action"] = meta.action_spec.dimension if meta.action_spec.kind == "continuous" else 1
    for name, width in said.items():
        if widths[name] != width:
            raise DataError(f"{str(path)!r} is damaged: column {name!r} has {widths[name]} numbers in a row, its attributes say {width}; restore it")
    if same_size(layouts, str(path)) != (spec.height_px, spec.width_px):
        raise DataError(f"{str(path)!r} is damaged: its attributes say that frames are {spec.height_px} x {spec.width_px} px; restore it")
