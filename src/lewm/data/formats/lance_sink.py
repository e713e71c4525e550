"""Writing a Lance table that stable-worldmodel reads: PNG frames, float32 columns, and a table beside it for what is particular to an episode.

Axes: n row, N env step, k numbers of a column.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import lance
import numpy as np
import pyarrow as pa

from lewm.data.durable import LOCK_FILE, DirectoryLock, reported_as_data_error
from lewm.data.formats.lance_layout import (
    ACTION,
    CHECK,
    EPISODE,
    PROPRIOCEPTION,
    REWARD,
    STATE,
    STEP,
    TERMINATED,
    own_frame_columns,
    own_roles,
    own_widths,
    row_checks,
    text_check,
)
from lewm.data.formats.lance_table import COMPANIONS, LanceTable, companion, damaged, numbers, reading
from lewm.data.formats.own_metadata import KEY, from_text, to_text
from lewm.data.formats.pictures import encoded
from lewm.data.layout import DatasetMeta
from lewm.data.shards import check_episode
from lewm.data.writing import check_same_settings
from lewm.errors import DataError
from lewm.schema import Episode

ROWS_PER_BATCH = 128
"""Batches of one size: Lance has hung on tables that were written from short and very long ones."""
BYTES_PER_COMMIT, EPISODES_PER_COMMIT = 64 * 2**20, 256
"""So much is gathered before it is written, for every commit is a version of the table with a list of all files."""
EPISODE_FIELDS = ((EPISODE, pa.int32()), ("num_env_steps", pa.int64()), ("seed", pa.int64()), ("provenance", pa.string()), ("check", pa.int64()))


class LanceSink:
    """Appends episodes; whole ones only, some at a time. Leaving the ``with`` block by an exception drops those not yet committed."""

    def __init__(self, path: Path, meta: DatasetMeta, *, resume: bool) -> None:
        check_name(path)
        self.path, self.meta = path, meta
        self._beside = companion(path, "_episodes")
        self._schema = _schema(meta)
        has_table = (path / "_versions").is_dir()
        if not resume and (has_table or _has_content(path) or self._beside.exists()):
            raise DataError(f"{str(path)!r} already exists; continue it with --resume, or choose another name")
        with reported_as_data_error(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(path)
        try:
            self._num_written = self._resume(has_table)
        except BaseException:
            self._lock.release()
            raise
        self._batches: list[pa.RecordBatch] = []
        self._episodes: list[dict[str, object]] = []
        self._num_bytes = 0

    def __len__(self) -> int:
        return self._num_written + len(self._episodes)

    def append(self, episode: Episode) -> int:
        """Add an episode and return its number; ``DataError`` if it is not of the dataset's kind or the disk is full."""
        check_episode(self.meta, episode)
        number = len(self)
        batches = _batches(self.meta, self._schema, number, episode)
        self._batches += batches
        provenance = json.dumps(episode.provenance)
        self._episodes.append(
            {EPISODE: number, "num_env_steps": episode.num_env_steps, "seed": episode.seed, "provenance": provenance, "check": text_check(provenance)}
        )
        self._num_bytes += sum(batch.nbytes for batch in batches)
        if self._num_bytes >= BYTES_PER_COMMIT or len(self._episodes) >= EPISODES_PER_COMMIT:
            self._commit()
        return number

    def _commit(self) -> None:
        """Frames first, then what lists them: what no list names is dropped when the writing goes on."""
        if not self._episodes:
            return
        rows = pa.Table.from_pylist(self._episodes, pa.schema([pa.field(name, kind) for name, kind in EPISODE_FIELDS]))
        for path, table in ((self.path, pa.Table.from_batches(self._batches, self._schema)), (self._beside, rows)):
            with _writing(path):
                mode = "append" if (path / "_versions").is_dir() else "create"
                lance.write_dataset(table.to_reader(ROWS_PER_BATCH), str(path.absolute()), schema=table.schema, mode=mode)
        self._num_written += len(self._episodes)
        self._batches, self._episodes, self._num_bytes = [], [], 0

    def _resume(self, has_table: bool) -> int:
        """How many episodes both tables have; what only one has is dropped."""
        if not has_table:
            with reported_as_data_error(self._beside):
                shutil.rmtree(self._beside, ignore_errors=True)
            return 0
        table = LanceTable(self.path)
        own = (table.schema.metadata or {}).get(KEY.encode())
        if own is None:
            raise DataError(f"{str(self.path)!r} was not written by lewm; it can be read but not continued: write to another name")
        check_same_settings(self.path, from_text(own, str(self.path)), self.meta)
        own_roles(table, self.meta)
        lengths = np.zeros(0, np.int64)
        if (self._beside / "_versions").is_dir():
            listed = LanceTable(self._beside)
            parts = [numbers(batch.column("num_env_steps"), self._beside, "num_env_steps")[:, 0] for batch in listed.scan(["num_env_steps"])]
            lengths = np.concatenate([lengths, *parts]).astype(np.int64)
        with reading(self.path), _writing(self.path):
            lance.dataset(str(self.path.absolute())).delete(f"{EPISODE} >= {len(lengths)}")
        if LanceTable(self.path).num_rows != int((lengths + 1).sum()):
            raise damaged(self.path, f"its rows are not those of the {len(lengths)} episodes that {self._beside.name} lists")
        return len(lengths)

    def __enter__(self) -> "LanceSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._lock.release()


def check_name(path: Path) -> None:
    """``DataError`` unless Lance's users can open a table by this name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.lance", path.name) or path.stem.endswith(COMPANIONS):
        raise DataError(
            f"a Lance table's directory is called NAME.lance, of letters, digits, '_', '-' and '.', got {path.name!r}; choose such a name"
        )


def _has_content(path: Path) -> bool:
    with reported_as_data_error(path):
        return path.exists() and (not path.is_dir() or any(entry.name != LOCK_FILE for entry in path.iterdir()))


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What Lance cannot write, in a sentence."""
    with reported_as_data_error(path):
        try:
            yield
        except (ValueError, RuntimeError, TypeError) as error:
            raise OSError(str(error).split("\n", maxsplit=1)[0]) from error


def _schema(meta: DatasetMeta) -> pa.Schema:
    fields = [pa.field(EPISODE, pa.int32()), pa.field(STEP, pa.int32())]
    fields += [pa.field(column, pa.binary()) for column in own_frame_columns(meta).values()]
    fields += [pa.field(name, pa.list_(pa.float32(), size)) for name, size in {**own_widths(meta), CHECK: 1}.items()]
    return pa.schema(fields, metadata={KEY: to_text(meta)})


def _batches(meta: DatasetMeta, schema: pa.Schema, number: int, episode: Episode) -> list[pa.RecordBatch]:
    """An episode as rows of the table."""
    num_rows = episode.num_env_steps + 1
    index = {EPISODE: np.full(num_rows, number, np.int32), STEP: np.arange(num_rows, dtype=np.int32)}
    values = {name: array.reshape(num_rows, -1) for name, array in _numbers(meta, episode).items()}
    values[CHECK] = row_checks([*(array[:, None].astype(np.float32) for array in index.values()), *values.values()])[:, None]
    frames = {column: view for view, column in enumerate(own_frame_columns(meta).values())}

    def column(name: str, part: slice) -> pa.Array:
        if name in index:
            return pa.array(index[name][part])
        if name in frames:
            return pa.array([encoded(frame) for frame in episode.observations.frames[part, frames[name]]], pa.binary())
        array = values[name][part]
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])

    parts = [slice(start, start + ROWS_PER_BATCH) for start in range(0, num_rows, ROWS_PER_BATCH)]
    return [pa.record_batch([column(name, part) for name in schema.names], schema=schema) for part in parts]


def _numbers(meta: DatasetMeta, episode: Episode) -> dict[str, np.ndarray]:
    """float32 [n, ...] by column, in the order of ``own_widths``: actions lead to the next row, rewards stand where they were got."""
    nothing = np.float32("nan")
    found: dict[str, np.ndarray] = {}
    if episode.actions is not None:
        actions = np.asarray(episode.actions, np.float32).reshape(episode.num_env_steps, -1)
        found[ACTION] = np.concatenate([actions, np.full((1, actions.shape[1]), nothing)])
    if episode.observations.proprioception is not None:
        found[PROPRIOCEPTION] = episode.observations.proprioception
    if episode.labels is not None:
        found[STATE] = episode.labels
    if episode.rewards is not None:
        found[REWARD] = np.concatenate([[nothing], episode.rewards]).astype(np.float32)
    ends = np.zeros(episode.num_env_steps + 1, np.float32)
    ends[-1] = episode.terminated
    return {**found, TERMINATED: ends}
