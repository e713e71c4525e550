"""A visual dataset of OGBench: one ``.npz`` with the rows of all episodes after each other (Park et al., arXiv 2410.20092).

Axes: n row, N env step, Y X image, a env action, s label.

``terminals`` is 1 in an episode's last row, whose action leads nowhere. ``qpos``, ``qvel`` and ``button_states``, where they are, become labels.
Frames are read from where they lie in the archive; a compressed archive is unpacked once into a temporary file, which is gone when the reader is.
"""

import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats.base import EpisodeReader, checked_actions, fingerprint_of, leave_out, observed_action_spec, padded
from lewm.data.formats.pictures import as_rgb, rgb_shape
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.schema import ObservationSpec

STATE_ARRAYS = ("qpos", "qvel", "button_states")
MAX_UNPACKED_BYTES = 64 * 2**30
"""A compressed archive that says it holds more is refused before it is unpacked."""
READ_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError)


class OgbenchReader(EpisodeReader):
    """Episodes of one archive."""

    def __init__(self, path: Path, *, missing_actions: str) -> None:
        self.path, self._missing_actions = path, missing_actions
        self._unpacked: Any = None
        try:
            with zipfile.ZipFile(path) as archive:
                self._names = {name.removesuffix(".npy") for name in archive.namelist()}
                self._actions, self._terminals = (self._small(archive, name) for name in ("actions", "terminals"))
                self._states = {name: self._small(archive, name) for name in STATE_ARRAYS if name in self._names}
                self._frames = self._large(archive, "observations")
        except READ_ERRORS as error:
            raise DataError(f"{str(path)!r} is no dataset of OGBench, or damaged: {error}; download it again") from None
        self._check()
        ends = np.flatnonzero(self._terminals > 0)
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        kept = leave_out(path, ends - starts)
        self._starts, self.lengths = starts[kept], (ends - starts)[kept].astype(np.int64)
        self.terminated = np.zeros(len(kept), bool)
        self.meta = self._make_meta()

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a column."""
        start = int(self._starts[episode])
        if column.startswith("frames."):
            return as_rgb(np.asarray(self._frames[start + rows]))
        if column == "labels":
            parts = [array[start + rows].reshape(len(rows), -1) for array in self._states.values()]
            return np.concatenate(parts, axis=1).astype(np.float32)
        transitions = rows[rows < self.lengths[episode]]
        actions = self._checked_actions(episode)[transitions]
        return actions if len(transitions) == len(rows) else padded(actions, self.meta.action_spec)

    def fingerprint(self) -> str:
        """Of the archive's size and ends."""
        return fingerprint_of(self.path, [self.path])

    def close(self) -> None:
        """Let go of the map and of the temporary file."""
        if self._unpacked is not None:
            self._unpacked.close()
            self._unpacked = None

    def provenance(self, episode: int) -> dict[str, Any]:
        """Which file and episode."""
        return {"source": self.path.name, "episode": episode}

    def _checked_actions(self, episode: int) -> np.ndarray:
        part = slice(int(self._starts[episode]), int(self._starts[episode] + self.lengths[episode]))
        return checked_actions(self._actions[part], f"{str(self.path)!r}, episode {episode}", missing=self._missing_actions)

    def _check(self) -> None:
        """Arrays of one length, of the right kinds, that end with an episode."""
        num_rows, path = len(self._terminals), str(self.path)
        if self._frames.dtype != np.uint8 or rgb_shape(self._frames.shape[1:]) is None:
            got = f"{self._frames.dtype} {list(self._frames.shape[1:])}"
            raise DataError(f"{path!r} has observations of {got}, not pictures: use a dataset whose name begins with visual-")
        arrays = {"observations": self._frames, "actions": self._actions, **self._states}
        for name, array in arrays.items():
            if len(array) != num_rows:
                raise DataError(f"{path!r} is damaged: {name} has {len(array):,} rows and terminals {num_rows:,}; download it again")
        if self._actions.ndim != 2 or self._actions.dtype.kind != "f" or self._terminals.ndim != 1:
            raise DataError(f"{path!r} is damaged: actions {self._actions.shape} and terminals {self._terminals.shape} are no rows of numbers")
        if num_rows == 0 or not self._terminals[-1]:
            raise DataError(f"{path!r} is damaged: its last episode does not end; download it again")
        for name, array in self._states.items():
            if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
                raise DataError(f"{path!r} is damaged: {name} must be finite numbers; download it again")

    def _make_meta(self) -> DatasetMeta:
        height, width = rgb_shape(self._frames.shape[1:]) or (0, 0)
        actions = np.concatenate([self._checked_actions(episode) for episode in range(len(self.lengths))])
        widths = {name: int(np.prod(array.shape[1:], dtype=np.int64)) for name, array in self._states.items()}
        return DatasetMeta(
            observation_spec=ObservationSpec(height_px=height, width_px=width, cameras=("pixels",)),
            action_spec=observed_action_spec(actions.min(0).tolist(), actions.max(0).tolist()),
            label_names=tuple(f"{name}_{place}" for name, size in widths.items() for place in range(size)),
            provenance={"format": "ogbench", "source": self.path.name},
        )

    def _small(self, archive: zipfile.ZipFile, name: str) -> np.ndarray:
        with archive.open(f"{name}.npy") as member:
            found: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
        return found

    def _large(self, archive: zipfile.ZipFile, name: str) -> np.ndarray:
        """The array mapped where it lies in the archive or, if it is compressed, in a temporary file."""
        info = archive.getinfo(f"{name}.npy")
        path, offset = self.path, _data_offset(self.path, info)
        if info.compress_type != zipfile.ZIP_STORED:
            if info.file_size > MAX_UNPACKED_BYTES:
                raise ValueError(f"{name} would unpack to {info.file_size:,} bytes")
            self._unpacked = tempfile.NamedTemporaryFile(prefix="lewm-ogbench-", suffix=".npy")  # noqa: SIM115  # closed with the reader
            with archive.open(info) as member:
                while part := member.read(2**24):
                    self._unpacked.write(part)
            self._unpacked.flush()
            path, offset = Path(self._unpacked.name), 0
        with open(path, "rb") as file:
            file.seek(offset)
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read_header(file)
            if dtype.hasobject or is_fortran:
                raise ValueError(f"{name} is not a plain array")
            if file.tell() - offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize != info.file_size:
                raise ValueError(f"{name} is not as large as its header says")
            mapped: np.ndarray = np.memmap(path, dtype, "r", file.tell(), shape)
        return mapped


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: after its local header, whose length the archive's index does not tell."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError("a header is missing")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + int(name_length) + int(extra_length)


class OgbenchFormat(Format):
    """A visual dataset of OGBench."""

    @staticmethod
    def open(path: Path, *, missing_actions: str = "refuse") -> ForeignStore:
        """The archive at ``path``; ``missing_actions`` is ``refuse`` or ``zero``."""
        if missing_actions not in ("refuse", "zero"):
            raise ConfigError(f"missing_actions must be refuse or zero, got {missing_actions!r}")
        return ForeignStore(OgbenchReader(path, missing_actions=missing_actions))
