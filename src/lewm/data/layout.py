"""What a native dataset directory holds: its ``meta.json``, its columns and how each is laid out in a ``.npy`` file.

Axes: N env step, V view (here: camera), Y X image, P proprioception, a env action, s label. A shard's columns have a row per observation, N + 1 per
episode; what belongs to a transition (actions, rewards) stands in the row where the transition starts, so the last row of an episode is padding.
"""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.durable import write_atomically
from lewm.errors import DataError, LewmError
from lewm.schema import ActionSpec, ObservationSpec

FORMAT = 1
META_FILE = "meta.json"
INDEX_FILE = "episodes.npy"
SHARDS_DIRECTORY = "shards"
EPISODES_FILE = "episodes.jsonl"
SHARD_FILE = "shard.json"
HEADER_BYTES = 128
SHARD_TARGET_BYTES = 64 * 2**20
REWARD_PADDING = ACTION_PADDING = np.float32("nan")
DISCRETE_ACTION_PADDING = -1
INDEX_DTYPE = np.dtype([("id", "<i8"), ("shard", "<i8"), ("offset", "<i8"), ("length", "<i8"), ("seed", "<i8"), ("terminated", "?")])
"""``episodes.npy``: ``offset`` is the episode's first row in its shard, ``length`` its env steps N."""


@dataclass(frozen=True)
class Column:
    """One ``.npy`` file of each shard: [rows, *shape]."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def header(self, num_rows: int) -> bytes:
        """The first 128 bytes of the file: the ``.npy`` header, version 1.0, the same whatever numpy writes it."""
        fields = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (num_rows, *self.shape)}
        text = repr(fields).encode()
        return b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little") + text.ljust(HEADER_BYTES - 11) + b"\n"

    def file_bytes(self, num_rows: int) -> int:
        """Size of the file."""
        return HEADER_BYTES + num_rows * self.row_bytes


@dataclass(frozen=True, kw_only=True)
class DatasetMeta:
    """Everything about a dataset but its episodes: ``meta.json``."""

    observation_spec: ObservationSpec
    """Of the stored frames: one view per camera, no stacking, which happens when clips are cut."""
    action_spec: ActionSpec
    label_names: tuple[str, ...] = ()
    has_rewards: bool = False
    env: dict[str, Any] = field(default_factory=dict)
    """``name``, ``version`` and ``options``; empty for other people's recordings."""
    policy: dict[str, Any] = field(default_factory=dict)
    """``name`` and ``options`` of who acted."""
    collection: dict[str, Any] = field(default_factory=dict)
    """Settings that decide what is recorded: ``seed``, ``max_env_steps``."""
    episodes_per_shard: int = 64
    provenance: dict[str, Any] = field(default_factory=dict)
    """Versions, creation time, command: they say where the data came from and change nothing in it."""

    def __post_init__(self) -> None:
        if self.observation_spec.stack_offsets_env_steps != (0,):
            raise DataError(f"a dataset stores single frames, got stack_offsets_env_steps {self.observation_spec.stack_offsets_env_steps}; use (0,)")
        for camera in self.observation_spec.cameras:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", camera):
                raise DataError(f"camera names must be letters, digits, '_' and '-', for they name files; got {camera!r}")
        if self.episodes_per_shard < 1:
            raise DataError(f"episodes_per_shard must be at least 1, got {self.episodes_per_shard}")

    @property
    def columns(self) -> dict[str, Column]:
        """The columns by name; a dataset has only those that it needs."""
        spec = self.observation_spec
        found = {f"frames.{camera}": Column(np.dtype("u1"), (spec.height_px, spec.width_px, 3)) for camera in spec.cameras}
        if self.action_spec.kind == "continuous":
            found["actions"] = Column(np.dtype("<f4"), (self.action_spec.dimension,))
        if self.action_spec.kind == "discrete":
            found["actions"] = Column(np.dtype("<i8"), ())
        if self.label_names:
            found["labels"] = Column(np.dtype("<f4"), (len(self.label_names),))
        if self.has_rewards:
            found["rewards"] = Column(np.dtype("<f4"), ())
        if spec.proprioception:
            found["proprioception"] = Column(np.dtype("<f4"), (len(spec.proprioception),))
        return found

    @property
    def row_bytes(self) -> int:
        """Bytes of one observation and what belongs to it."""
        return sum(column.row_bytes for column in self.columns.values())

    def with_shards_for(self, max_env_steps: int) -> "DatasetMeta":
        """The same with as many episodes of ``max_env_steps`` per shard as make about 64 MB, at least one."""
        return dataclasses.replace(self, episodes_per_shard=max(1, SHARD_TARGET_BYTES // (self.row_bytes * (max_env_steps + 1))))

    def identity(self) -> dict[str, Any]:
        """What decides the content, as plain JSON values: equal for datasets that may be continued as one."""
        values = dataclasses.asdict(self)
        del values["provenance"], values["episodes_per_shard"]
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def difference(self, other: "DatasetMeta") -> str | None:
        """The first setting in which two datasets differ, in words, or None."""
        mine, theirs = _flatten(self.identity()), _flatten(other.identity())
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                return f"{name} {mine.get(name)!r}, not {theirs.get(name)!r}"
        return None

    def to_json(self) -> str:
        """The content of ``meta.json``."""
        columns = {name: {"dtype": column.dtype.str, "shape": column.shape} for name, column in self.columns.items()}
        try:
            return json.dumps({"format": FORMAT, "columns": columns, **dataclasses.asdict(self)}, indent=2) + "\n"
        except TypeError as error:
            raise DataError(f"the dataset's settings must be plain JSON values: {error}") from None


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def write_meta(path: Path, meta: DatasetMeta) -> None:
    """Write ``meta.json`` of the dataset at ``path``."""
    write_atomically(path / META_FILE, meta.to_json().encode())


def read_meta(path: Path) -> DatasetMeta:
    """``meta.json`` of the dataset at ``path``; ``DataError`` if there is none or it is of another format."""
    file = path / META_FILE
    if not file.is_file():
        raise DataError(f"there is no dataset at {str(path)!r} (no {META_FILE}); `lewm collect ENV --out {path} --episodes N` makes one")
    try:
        values = json.loads(file.read_text())
        version = values.pop("format")
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(f"dataset {str(path)!r} is damaged: {META_FILE} cannot be read ({error}); restore it or collect anew") from None
    if version != FORMAT:
        raise DataError(f"dataset {str(path)!r} has format {version!r}, this version of lewm reads format {FORMAT}; use the version that wrote it")
    try:
        values.pop("columns")
        specs = {"observation_spec": ObservationSpec, "action_spec": ActionSpec}
        parts = {name: spec(**_as_tuples(values.pop(name))) for name, spec in specs.items()}
        return DatasetMeta(**parts, label_names=tuple(values.pop("label_names")), **values)
    except (KeyError, TypeError, ValueError, AttributeError, LewmError) as error:
        raise DataError(f"dataset {str(path)!r} is damaged: {META_FILE} has a wrong entry ({error}); restore it or collect anew") from None


def _as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
