"""robomimic's HDF5 files: a group ``data`` with a group per demonstration, and lists of demonstrations under ``mask``.

Axes: n row, N env step, Y X image, P proprioception, a env action, s label. A demonstration of L samples has L observations, actions and rewards.
What the last action leads to is not among the observations (it may stand in ``next_obs``, its state nowhere), so it is left out: N = L - 1.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lewm.data.formats.base import EpisodeReader, fingerprint_of, leave_out, observed_action_spec, padded
from lewm.data.formats.columns import actions_at, as_matrix, check_missing_actions, checked_rows, number_names
from lewm.data.formats.frame_layout import FrameLayout, same_size
from lewm.data.formats.hdf5_files import Hdf5File, dataset_at, take_rows
from lewm.data.formats.own_metadata import listed
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.registry import did_you_mean
from lewm.schema import ActionSpec, ObservationSpec

DEMO = re.compile(r"demo_(\d+)")
IMAGE_SUFFIXES = ("_image", "_rgb")
PROPRIOCEPTION = re.compile(r"robot\d+_(eef_pos|eef_quat|gripper_qpos)")
"""What robomimic's own agents are given of the robot by default."""


class RobomimicReader(EpisodeReader):
    """Demonstrations of one file, in the order of their numbers. Opening reads actions, and of images the shapes only."""

    def __init__(self, path: Path, *, filter_key: str | None, missing_actions: str, **chosen: tuple[str, ...] | None) -> None:
        self.path = path
        self._missing = check_missing_actions(missing_actions)
        self._options = json.dumps([filter_key, chosen, missing_actions])
        self._file = Hdf5File(path)
        with self._file.opening() as file:
            demos = _demos(file, filter_key)
            first = _group(file, f"data/{demos[0]}/obs")
            self._cameras = _cameras(first, chosen["frames"])
            self._proprioception = _low_dimensional(first, chosen["proprioception"])
            self._labels = _label_columns(_group(file, f"data/{demos[0]}"), chosen["labels"])
            self._columns = ("actions", *self._cameras.values(), *self._proprioception, *self._labels)
            self._reward_is_there = _has(file, f"data/{demos[0]}", "rewards")
            self._shapes = {name: self._dataset(file, demos[0], name).shape[1:] for name in self._columns}
            lengths = np.array([self._checked_length(file, demo) for demo in demos])
            self._kept = leave_out(path, lengths - 1)
            self._demos = [demos[number] for number in self._kept]
            self.lengths = lengths[self._kept] - 1
            self.terminated = np.array([self._is_done(file, demo) for demo in self._demos])
            self.meta = self._new_meta(file)

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """See the base class."""
        demo, num_env_steps = self._demos[episode], int(self.lengths[episode])
        with self._file.reading(f"column {column!r} of {demo!r}") as file:
            if column.startswith("frames."):
                camera = column.removeprefix("frames.")
                return self._layouts[camera].as_rgb(take_rows(self._dataset(file, demo, self._cameras[camera]), rows))
            if column == "actions":
                actions = self._dataset(file, demo, "actions")
                spec = self.meta.action_spec
                return actions_at(lambda which: take_rows(actions, which), rows, num_env_steps, spec, self._where(demo, column), self._missing)
            if column == "rewards":
                transitions = rows[rows < num_env_steps]
                values = self._finite(take_rows(self._dataset(file, demo, "rewards"), transitions).reshape(len(transitions), 1), demo, column)[:, 0]
                return padded(values) if len(transitions) < len(rows) else values
            names = self._labels if column == "labels" else self._proprioception
            parts = [self._finite(as_matrix(take_rows(self._dataset(file, demo, name), rows)), demo, name) for name in names]
            return np.concatenate(parts, axis=1)

    def provenance(self, episode: int) -> dict[str, Any]:
        """The file and the name of the demonstration in it."""
        return {"source": self.path.name, "demo": self._demos[episode]}

    def fingerprint(self) -> str:
        """See the base class."""
        return fingerprint_of(self.path, [self.path], *self._demos, self._options)

    def close(self) -> None:
        """See the base class."""
        self._file.close()

    def _where(self, demo: str, name: str) -> str:
        return f"{str(self.path)!r}: {demo}/{name}"

    def _dataset(self, file: h5py.File, demo: str, name: str) -> h5py.Dataset:
        return dataset_at(file, f"data/{demo}/{name}")

    def _checked_length(self, file: h5py.File, demo: str) -> int:
        """Samples of a demonstration whose columns all have as many, of the shapes of the first; ``DataError`` otherwise."""
        datasets = {name: self._dataset(file, demo, name) for name in (*self._columns, *(["rewards"] if self._reward_is_there else []))}
        lengths = {name: int(dataset.shape[0]) if dataset.ndim else 0 for name, dataset in datasets.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(
                f"{self._where(demo, '')}: all columns must have a row for each sample, got {listed}; mend or leave out the demonstration"
            )
        for name, shape in self._shapes.items():
            if datasets[name].shape[1:] != shape:
                raise DataError(
                    f"{self._where(demo, name)} has rows of {list(datasets[name].shape[1:])}, in the first demonstration they are {list(shape)}; "
                    "leave it out with the options frames, proprioception or labels"
                )
        return lengths["actions"]

    def _is_done(self, file: h5py.File, demo: str) -> bool:
        if not _has(file, f"data/{demo}", "dones"):
            return False
        dones = self._dataset(file, demo, "dones")
        return bool(dones.ndim == 1 and len(dones) > 0 and dones[len(dones) - 1])

    def _new_meta(self, file: h5py.File) -> DatasetMeta:
        first = {name: self._dataset(file, self._demos[0], name) for name in self._columns}
        self._layouts = {
            camera: FrameLayout.of(first[name].shape, first[name].dtype, self._where(self._demos[0], name)) for camera, name in self._cameras.items()
        }
        height_px, width_px = same_size(self._layouts, str(self.path))
        env_args = file["data"].attrs.get("env_args")
        return DatasetMeta(
            observation_spec=ObservationSpec(
                height_px=height_px, width_px=width_px, cameras=tuple(self._cameras), proprioception=_names(first, self._proprioception)
            ),
            action_spec=self._action_spec(file),
            label_names=_names(first, self._labels),
            has_rewards=self._reward_is_there,
            provenance={"source": str(self.path), "format": "robomimic", **({"env_args": str(env_args)} if env_args is not None else {})},
        )

    def _action_spec(self, file: h5py.File) -> ActionSpec:
        low, high = np.inf, -np.inf
        for demo in self._demos:
            actions = self._dataset(file, demo, "actions")
            if actions.ndim != 2 or actions.dtype.kind != "f" or actions.shape[1] < 1:
                raise DataError(f"{self._where(demo, 'actions')} must be [samples, dimensions] of floats, got {actions.dtype} {list(actions.shape)}")
            values = checked_rows(actions[: len(actions) - 1], self._where(demo, "actions"), self._missing, np.arange(len(actions) - 1))
            low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        return observed_action_spec(np.asarray(low).tolist(), np.asarray(high).tolist())

    def _finite(self, values: np.ndarray, demo: str, name: str) -> np.ndarray:
        if not np.isfinite(values).all():
            raise DataError(f"{self._where(demo, name)} has values that are not finite; mend the file, or leave the column out")
        return values.astype(np.float32)


class RobomimicFormat(Format):
    """An HDF5 file of robomimic's demonstrations, with images among the observations."""

    @staticmethod
    def open(
        path: Path,
        *,
        filter_key: str | None = None,
        frames: str | None = None,
        proprioception: str | None = None,
        labels: str | None = None,
        missing_actions: str = "refuse",
    ) -> ForeignStore:
        """The file at ``path``; several names have commas between, an empty value means none.

        ``filter_key``: only the demonstrations listed under ``mask`` (``train``, ``valid``, ...). ``frames``: observations, by default all images.
        ``proprioception``: observations, by default positions and quaternions of end effectors, and grippers. ``labels``: ``states`` (the default, if
        there are some) or observations. ``missing_actions``: ``refuse`` NaN or read it as ``zero``.
        """
        chosen = {"frames": listed(frames), "proprioception": listed(proprioception), "labels": listed(labels)}
        return ForeignStore(RobomimicReader(path, filter_key=filter_key, missing_actions=missing_actions, **chosen))


def _group(file: h5py.File, name: str) -> h5py.Group:
    """The group at a path, in this file; ``DataError`` if there is none."""
    found: Any = file
    for part in name.split("/"):
        is_here = isinstance(found, h5py.Group) and isinstance(found.get(part, getlink=True), h5py.HardLink)
        found = found[part] if is_here else None
    if not isinstance(found, h5py.Group):
        raise DataError(
            f"{file.filename!r} has no group {name!r}; it must be a file of robomimic's with observations in it (dataset_states_to_obs.py)"
        )
    return found


def _has(file: h5py.File, group: str, name: str) -> bool:
    return name in _group(file, group)


def _demos(file: h5py.File, filter_key: str | None) -> list[str]:
    """Names of the demonstrations in the order of their numbers, those under a filter key only."""
    there = list(_group(file, "data"))
    names = there
    if filter_key is not None:
        keys = list(_group(file, "mask")) if "mask" in file else []
        if filter_key not in keys:
            raise ConfigError(f"{file.filename!r} has no filter key {filter_key!r}.{did_you_mean(filter_key, keys)}")
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in _text(file, f"mask/{filter_key}")]
    for name in names:
        if not DEMO.fullmatch(name) or name not in there:
            raise DataError(f"{file.filename!r}: {name!r} is not a demonstration called demo_0, demo_1, ...; take it out of the file")
    if len({int(name.removeprefix("demo_")) for name in names}) < len(names):
        raise DataError(f"{file.filename!r} has a demonstration twice, or none has a number of its own; name each once")
    if not names:
        raise DataError(f"{file.filename!r} has no demonstrations{'' if filter_key is None else f' under {filter_key!r}'}; record some")
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def _text(file: h5py.File, name: str) -> Sequence[bytes | str]:
    dataset = _group(file, name.rpartition("/")[0])[name.rpartition("/")[2]]
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1 or (dataset.dtype.kind != "S" and h5py.check_string_dtype(dataset.dtype) is None):
        raise DataError(f"{file.filename!r}: {name} must be a list of names of demonstrations")
    return list(dataset[:])


def _cameras(observations: h5py.Group, wanted: tuple[str, ...] | None) -> dict[str, str]:
    """Camera -> its column, below the demonstration; ``agentview`` for ``agentview_image``."""
    images = [name for name in observations if name.endswith(IMAGE_SUFFIXES)] if wanted is None else wanted
    if not images:
        raise DataError(
            f"{observations.file.filename!r} has no images among its observations ({', '.join(observations)}); render them with robomimic's "
            "dataset_states_to_obs.py --camera_names agentview"
        )
    for name in images:
        if name not in observations:
            raise ConfigError(f"{observations.file.filename!r} has no observation {name!r}.{did_you_mean(name, observations)}")
    suffix = re.compile(f"({'|'.join(IMAGE_SUFFIXES)})$")
    return {re.sub(r"[^A-Za-z0-9_-]", "_", suffix.sub("", name)): f"obs/{name}" for name in images}


def _low_dimensional(observations: h5py.Group, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    names = [name for name in observations if PROPRIOCEPTION.fullmatch(name)] if wanted is None else wanted
    return tuple(f"obs/{name}" for name in names)


def _label_columns(demo: h5py.Group, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Columns that labels are made of: the simulator's states, if there are any worth the name, or those that are wanted."""
    if wanted is None:
        wanted = ("states",) if "states" in demo and dataset_at(demo, "states").ndim == 2 else ()
    return tuple(name if name == "states" else f"obs/{name}" for name in wanted)


def _names(datasets: dict[str, h5py.Dataset], columns: Sequence[str]) -> tuple[str, ...]:
    """Names of the numbers of some columns, one after the other."""
    return tuple(name for column in columns for name in number_names(column.removeprefix("obs/").replace("states", "state"), datasets[column].shape))
