"""OGBench's visual datasets: one ``.npz`` of long arrays, trajectories one after the other.

Axes: n row, N env step, Y X image, a env action, s label. A trajectory of L rows ends with the row whose terminal is 1. It has L observations, and
the action in a row leads to the next one; the action of the last row leads nowhere and is dropped, so N = L - 1. Terminals mark where recordings were
cut, not that a world ended one.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats.base import EpisodeReader, fingerprint_of, leave_out
from lewm.data.formats.columns import action_spec_of, actions_at, as_matrix, check_missing_actions, number_names
from lewm.data.formats.frame_layout import FrameLayout
from lewm.data.formats.npz_files import NpzFile
from lewm.data.formats.own_metadata import listed
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.schema import ObservationSpec

CAMERA = "top"
STATE_ARRAYS = ("qpos", "qvel", "button_states")
"""What OGBench records of the simulator beside the frames; the labels, where it is there."""
NEEDED = ("observations", "actions", "terminals")


class OgbenchReader(EpisodeReader):
    """Trajectories of one archive. Opening reads actions and terminals; frames are mapped, after decompressing them once if they are compressed."""

    def __init__(self, path: Path, *, labels: tuple[str, ...] | None, temporary: str | None, missing_actions: str) -> None:
        self.path = path
        self._missing = check_missing_actions(missing_actions)
        self._options = json.dumps([labels, missing_actions])
        if temporary is not None and not Path(temporary).is_dir():
            raise ConfigError(f"temporary must be a directory, there is none at {temporary!r}")
        self._file = NpzFile(path, Path(temporary) if temporary else None)
        kinds = self._file.kinds
        missing = [name for name in NEEDED if name not in kinds]
        if missing:
            raise DataError(
                f"{str(path)!r} has no array {missing[0]!r}, it has {', '.join(kinds) or 'none'}; an OGBench dataset has {', '.join(NEEDED)}"
            )
        self._labels = _label_arrays(kinds, labels, path)
        num_rows = {name: kinds[name][0][0] for name in (*NEEDED, *self._labels)}
        if len(set(num_rows.values())) > 1:
            listed = ", ".join(f"{name} {number:,}" for name, number in num_rows.items())
            raise DataError(f"{str(path)!r}: all arrays must have a row for each observation, got {listed}; download it anew")
        if kinds["observations"][1] != np.uint8:
            shape, dtype = kinds["observations"]
            raise DataError(f"{str(path)!r}: observations are {dtype} {list(shape)}, not frames; only OGBench's visual datasets can be read")
        self._layout = FrameLayout.of(*kinds["observations"], f"{str(path)!r}: observations")
        first_rows, lengths = _trajectories(self._file.array("terminals"), path)
        self._kept = leave_out(path, lengths - 1)
        self._first_rows, self.lengths = first_rows[self._kept], lengths[self._kept] - 1
        self.terminated = np.zeros(len(self.lengths), bool)
        self.meta = self._new_meta()

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """See the base class."""
        first, num_env_steps = int(self._first_rows[episode]), int(self.lengths[episode])
        if column.startswith("frames."):
            return self._layout.as_rgb(self._file.array("observations")[rows + first])
        if column == "actions":
            actions = self._file.array("actions")
            where = f"{str(self.path)!r}: trajectory {episode}, actions"
            return actions_at(lambda which: actions[which + first], rows, num_env_steps, self.meta.action_spec, where, self._missing)
        values = np.concatenate([as_matrix(self._file.array(name)[rows + first]) for name in self._labels], axis=1)
        if not np.isfinite(values).all():
            raise DataError(
                f"{str(self.path)!r}: trajectory {episode} has labels that are not finite; choose other arrays with --option labels=NAME,NAME"
            )
        return values

    def provenance(self, episode: int) -> dict[str, Any]:
        """The file and the number of the trajectory in it."""
        return {"source": self.path.name, "trajectory": int(self._kept[episode])}

    def fingerprint(self) -> str:
        """See the base class."""
        return fingerprint_of(self.path, [self.path], self._options)

    def close(self) -> None:
        """See the base class."""
        self._file.close()

    def _new_meta(self) -> DatasetMeta:
        (shape, dtype), where = self._file.kinds["actions"], f"{str(self.path)!r}: actions"
        is_transition = self._file.array("terminals") == 0
        actions = self._file.array("actions")
        names = [number_names(name, self._file.kinds[name][0]) for name in self._labels]
        return DatasetMeta(
            observation_spec=ObservationSpec(height_px=self._layout.height_px, width_px=self._layout.width_px, cameras=(CAMERA,)),
            action_spec=action_spec_of(lambda first, last: actions[first:last], shape, dtype, is_transition, where, self._missing),
            label_names=tuple(name for part in names for name in part),
            provenance={"source": str(self.path), "format": "ogbench"},
        )


class OgbenchFormat(Format):
    """A visual dataset of OGBench."""

    @staticmethod
    def open(path: Path, *, labels: str | None = None, temporary: str | None = None, missing_actions: str = "refuse") -> ForeignStore:
        """The archive at ``path``.

        ``labels``: arrays, with commas between, nothing for none; by default ``qpos``, ``qvel`` and ``button_states``, where there. ``temporary``:
        the directory for decompressed arrays. ``missing_actions``: ``refuse`` NaN inside a trajectory or read it as ``zero``.
        """
        return ForeignStore(OgbenchReader(path, labels=listed(labels), temporary=temporary, missing_actions=missing_actions))


def _label_arrays(kinds: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], wanted: tuple[str, ...] | None, path: Path) -> tuple[str, ...]:
    names = tuple(name for name in STATE_ARRAYS if name in kinds) if wanted is None else wanted
    for name in names:
        if name not in kinds:
            raise ConfigError(f"{str(path)!r} has no array {name!r} to make labels of, it has {', '.join(kinds)}")
    return names


def _trajectories(terminals: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """First row and number of rows of each trajectory, int64 [trajectories]."""
    if terminals.ndim != 1 or not np.isin(terminals, (0, 1)).all():
        raise DataError(f"{str(path)!r}: terminals must be 0 or 1 for each row, got {terminals.dtype} {list(terminals.shape)}; download it anew")
    if len(terminals) == 0 or terminals[-1] != 1:
        raise DataError(f"{str(path)!r}: the last trajectory has no end (a terminal of 1 in the last row); the file is cut or of another kind")
    ends = np.flatnonzero(terminals) + 1
    first_rows = np.concatenate([[0], ends[:-1]])
    return first_rows, ends - first_rows
