"""Demonstrations of robomimic: an HDF5 file with a group ``data/demo_k`` for each (Mandlekar et al., arXiv 2108.03298).

Axes: n row, N env step, Y X image, P proprioception, a env action, s label.

A demonstration has as many actions as observations: action t is taken at observation t, and the last leads to a ``next_obs`` that is not read here,
so it is left out. Pictures are ``obs/*_image``, proprioception the other vectors of ``obs``, labels the simulator's ``states``.
"""

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lewm.data.formats.base import EpisodeReader, checked_actions, fingerprint_of, leave_out, observed_action_spec, padded
from lewm.data.formats.hdf5 import Hdf5File
from lewm.data.formats.own_metadata import listed
from lewm.data.formats.pictures import as_rgb, rgb_shape
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError, LewmError
from lewm.registry import did_you_mean
from lewm.schema import ObservationSpec

IMAGE_SUFFIX = "_image"


class RobomimicReader(EpisodeReader):
    """The demonstrations of one file, all or those of a filter key."""

    def __init__(self, path: Path, *, frames: tuple[str, ...] | None, filter_key: str | None, missing_actions: str) -> None:
        self.path, self._file, self._missing_actions = path, Hdf5File(path), missing_actions
        names = self._demonstrations(filter_key)
        with self._file.reading("the lengths of demonstrations") as file:
            lengths = np.array([len(file[f"data/{name}/actions"]) for name in names], np.int64) - 1
        kept = leave_out(path, lengths)
        self._names, self.lengths = [names[index] for index in kept], lengths[kept]
        shapes = self._shapes(self._names[0])
        self._cameras = self._chosen_cameras(shapes, frames)
        self._vectors = [
            name
            for name, (shape, kind) in shapes.items()
            if name.startswith("obs/") and len(shape) in (1, 2) and kind == "f" and name[4:] not in self._cameras
        ]
        self._has_states, self._has_rewards = "states" in shapes, "rewards" in shapes
        for name in self._names:
            self._check(name, shapes)
        self.terminated = self._ends(shapes)
        self.meta = self._make_meta(shapes)

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a column."""
        place, where = f"data/{self._names[episode]}", f"{str(self.path)!r}, {self._names[episode]}"
        if column.startswith("frames."):
            return as_rgb(self._file.rows(f"{place}/obs/{self._cameras[column.removeprefix('frames.')]}", rows))
        if column == "proprioception":
            parts = [self._file.rows(f"{place}/{name}", rows).reshape(len(rows), -1) for name in self._vectors]
            return _finite(np.concatenate(parts, axis=1).astype(np.float32), column, where)
        if column == "labels":
            return _finite(self._file.rows(f"{place}/states", rows).astype(np.float32), column, where)
        transitions = rows[rows < self.lengths[episode]]
        if column == "rewards":
            values = _finite(self._file.rows(f"{place}/rewards", transitions).astype(np.float32), column, where)
            return values if len(transitions) == len(rows) else padded(values)
        actions = checked_actions(self._file.rows(f"{place}/actions", transitions), where, missing=self._missing_actions)
        return actions if len(transitions) == len(rows) else padded(actions, self.meta.action_spec)

    def provenance(self, episode: int) -> dict[str, Any]:
        """Which file and demonstration."""
        return {"source": self.path.name, "demonstration": self._names[episode]}

    def fingerprint(self) -> str:
        """Of the file's size and ends, and of which demonstrations and pictures are read."""
        return fingerprint_of(self.path, [self.path], json.dumps([self._names, self._cameras], sort_keys=True))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _demonstrations(self, filter_key: str | None) -> list[str]:
        """In the order of their numbers."""
        with self._file.reading("the list of demonstrations") as file:
            if "data" not in file or not isinstance(file["data"], h5py.Group):
                raise DataError(f"{str(self.path)!r} has no group 'data'; it is no file of robomimic's demonstrations")
            names = [name for name in file["data"] if re.fullmatch(r"demo_\d+", name)]
            if filter_key is not None:
                known = list(file["mask"]) if "mask" in file else []
                if filter_key not in known:
                    raise ConfigError(f"{str(self.path)!r} has no filter key {filter_key!r}.{did_you_mean(filter_key, known)}")
                chosen = {name.decode() for name in file[f"mask/{filter_key}"][:]}
                names = [name for name in names if name in chosen]
        if not names:
            raise DataError(f"{str(self.path)!r} has no demonstrations demo_0, demo_1, ...{' under that filter key' if filter_key else ''}")
        return sorted(names, key=lambda name: int(name.removeprefix("demo_")))

    def _shapes(self, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a row and kind of each array of a demonstration."""
        with self._file.reading(f"the arrays of {name}") as file:
            group = file[f"data/{name}"]
            keys = ["actions", "states", "rewards", "dones", *(f"obs/{part}" for part in group.get("obs", ()))]
            arrays = {key: group[key] for key in keys if key in group and isinstance(group[key], h5py.Dataset)}
            return {key: (tuple(array.shape[1:]), array.dtype.kind) for key, array in arrays.items()}

    def _chosen_cameras(self, shapes: dict[str, tuple[tuple[int, ...], str]], frames: tuple[str, ...] | None) -> dict[str, str]:
        pictures = {
            key[4:]: rgb_shape(shape) for key, (shape, kind) in shapes.items() if key.startswith("obs/") and kind == "u" and len(shape) in (2, 3)
        }
        usable = [name for name, size in pictures.items() if size is not None]
        chosen = list(frames) if frames is not None else usable
        for name in chosen:
            if name not in usable:
                raise DataError(f"{str(self.path)!r} has no pictures obs/{name}.{did_you_mean(name, usable)}")
        if not chosen:
            raise DataError(f"{str(self.path)!r} has no pictures among its observations: render them with robomimic's dataset_states_to_obs first")
        if len({pictures[name] for name in chosen}) > 1:
            raise DataError(f"{str(self.path)!r} has pictures of several sizes, choose with --option frames=NAMES: {', '.join(usable)}")
        return {name.removesuffix(IMAGE_SUFFIX): name for name in chosen}

    def _check(self, name: str, shapes: dict[str, tuple[tuple[int, ...], str]]) -> None:
        """Every demonstration has the arrays of the first, each as long as its actions."""
        with self._file.reading(f"the arrays of {name}") as file:
            group = file[f"data/{name}"]
            num_rows = len(group["actions"])
            for key, (shape, kind) in shapes.items():
                if key not in group or group[key].shape != (num_rows, *shape) or group[key].dtype.kind != kind:
                    got = f"{group[key].dtype} {list(group[key].shape)}" if key in group else "nothing"
                    raise DataError(
                        f"{str(self.path)!r}: {key} of {name} should have {num_rows} rows {list(shape)} as in {self._names[0]}, got {got}"
                    )

    def _ends(self, shapes: dict[str, tuple[tuple[int, ...], str]]) -> np.ndarray:
        if "dones" not in shapes:
            return np.zeros(len(self._names), bool)
        lasts = [self._file.rows(f"data/{name}/dones", np.array([length - 1])) for name, length in zip(self._names, self.lengths, strict=True)]
        return np.array([bool(np.ravel(last)[0]) for last in lasts])

    def _make_meta(self, shapes: dict[str, tuple[tuple[int, ...], str]]) -> DatasetMeta:
        height, width = rgb_shape(shapes[f"obs/{next(iter(self._cameras.values()))}"][0]) or (0, 0)
        if len(shapes["actions"][0]) != 1 or shapes["actions"][1] != "f":
            raise DataError(f"{str(self.path)!r}: actions must be rows of numbers, got kind {shapes['actions'][1]!r} {list(shapes['actions'][0])}")
        proprioception = [
            f"{name[4:]}_{place}" if shapes[name][0] else name[4:]
            for name in self._vectors
            for place in range(int(np.prod(shapes[name][0], dtype=np.int64)))
        ]
        lows, highs = [], []
        for name, length in zip(self._names, self.lengths, strict=True):
            actions = self._file.rows(f"data/{name}/actions", np.arange(length))
            actions = checked_actions(actions, f"{str(self.path)!r}, {name}", missing=self._missing_actions)
            lows.append(actions.min(0))
            highs.append(actions.max(0))
        num_states = int(np.prod(shapes["states"][0], dtype=np.int64)) if self._has_states else 0
        try:
            return DatasetMeta(
                observation_spec=ObservationSpec(
                    height_px=height, width_px=width, cameras=tuple(self._cameras), proprioception=tuple(proprioception)
                ),
                action_spec=observed_action_spec(np.min(lows, axis=0).tolist(), np.max(highs, axis=0).tolist()),
                label_names=tuple(f"states_{place}" for place in range(num_states)),
                has_rewards=self._has_rewards,
                provenance={"format": "robomimic", "source": self.path.name},
            )
        except LewmError as error:
            raise DataError(f"{str(self.path)!r} cannot be read: {error}") from None


def _finite(values: np.ndarray, column: str, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise DataError(f"{where}: {column} must be finite, got {values[~np.isfinite(values)][0]}; mend the file")
    return values


class RobomimicFormat(Format):
    """An HDF5 file of robomimic's demonstrations."""

    @staticmethod
    def open(path: Path, *, frames: str | None = None, filter_key: str | None = None, missing_actions: str = "refuse") -> ForeignStore:
        """The file at ``path``: ``frames`` names pictures with commas between, ``filter_key`` a list of demonstrations in ``mask``."""
        if missing_actions not in ("refuse", "zero"):
            raise ConfigError(f"missing_actions must be refuse or zero, got {missing_actions!r}")
        return ForeignStore(RobomimicReader(path, frames=listed(frames), filter_key=filter_key, missing_actions=missing_actions))
