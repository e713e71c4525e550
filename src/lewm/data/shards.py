"""One shard of a dataset: a directory of ``.npy`` columns, the list of its episodes and the checksums of both.

Axes: N env step, V view (here: camera), Y X image, P proprioception, a env action, s label.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.durable import directory_written_atomically
from lewm.data.layout import (
    ACTION_PADDING,
    DISCRETE_ACTION_PADDING,
    EPISODES_FILE,
    FORMAT,
    HEADER_BYTES,
    INDEX_DTYPE,
    REWARD_PADDING,
    SHARD_FILE,
    SHARDS_DIRECTORY,
    Column,
    DatasetMeta,
)
from lewm.errors import DataError
from lewm.schema import Episode


@dataclass(frozen=True)
class ShardRecord:
    """``shard.json``: what the shard's files are supposed to be."""

    shard: int
    num_episodes: int
    num_rows: int
    files: dict[str, dict[str, Any]]
    """By name: ``bytes`` and ``sha256``."""


def shard_path(root: Path, shard: int) -> Path:
    """The directory of a shard."""
    return root / SHARDS_DIRECTORY / f"{shard:05d}"


def damaged(root: Path, what: str) -> DataError:
    """The error for a dataset that is not as it was written."""
    return DataError(f"dataset {str(root)!r} is damaged: {what}; `lewm collect --resume` rewrites it")


def check_episode(meta: DatasetMeta, episode: Episode) -> None:
    """``DataError`` unless the episode is of the dataset's kind: types, sizes, finite values, actions within their bounds."""
    spec, num_env_steps = meta.observation_spec, episode.num_env_steps
    num_rows = num_env_steps + 1
    _check_array("frames", episode.observations.frames, np.dtype("u1"), (num_rows, *spec.frame_shape))
    if num_env_steps < 1:
        raise DataError("an episode needs at least one env step, that is two observations; leave it out")
    columns = meta.columns
    for name, array, length in (
        ("actions", episode.actions, num_env_steps),
        ("labels", episode.labels, num_rows),
        ("rewards", episode.rewards, num_env_steps),
        ("proprioception", episode.observations.proprioception, num_rows),
    ):
        if name not in columns:
            if array is not None:
                raise DataError(f"the dataset has no column {name!r}, but the episode does; leave it out, or declare it in the dataset's meta")
            continue
        if array is None:
            raise DataError(f"the dataset has a column {name!r}, but the episode has none")
        _check_array(name, array, columns[name].dtype, (length, *columns[name].shape))
        if not np.isfinite(array).all():
            raise DataError(f"{name} must be finite, got {array[~np.isfinite(array)][0]} in an episode of {num_env_steps} env steps")
    _check_actions(meta, episode.actions)
    try:
        json.dumps(episode.provenance)
    except (TypeError, ValueError) as error:
        raise DataError(f"an episode's provenance must be plain JSON values: {error}") from None


def _check_array(name: str, array: np.ndarray, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise DataError(f"{name} must be {dtype.name} {list(shape)}, got {array.dtype.name} {list(array.shape)}")


def _check_actions(meta: DatasetMeta, actions: np.ndarray | None) -> None:
    spec = meta.action_spec
    if actions is None:
        return
    low, high = (0, spec.num_choices - 1) if spec.kind == "discrete" else (spec.low, spec.high)
    if (actions < np.asarray(low, actions.dtype)).any() or (actions > np.asarray(high, actions.dtype)).any():
        bounds = f"in [0, {spec.num_choices})" if spec.kind == "discrete" else f"within {list(spec.low)} and {list(spec.high)}"
        raise DataError(f"actions must be {bounds}, got values from {actions.min(0)} to {actions.max(0)}")


def write_shard(root: Path, meta: DatasetMeta, shard: int, episodes: Sequence[Episode]) -> np.ndarray:
    """Write a shard, in place of an older one, so that it is whole or absent; returns its rows of the index, ``INDEX_DTYPE``."""
    for episode in episodes:
        check_episode(meta, episode)
    index = _index_rows(meta, shard, episodes)
    num_rows = int((index["length"] + 1).sum())
    with directory_written_atomically(shard_path(root, shard)) as directory:
        files = {}
        for name, column in meta.columns.items():
            parts = (_rows(name, meta, episode) for episode in episodes)
            files[f"{name}.npy"] = _write_file(directory / f"{name}.npy", column.header(num_rows), parts)
        lines = "".join(_episode_line(row, episode) for row, episode in zip(index, episodes, strict=True))
        files[EPISODES_FILE] = _write_file(directory / EPISODES_FILE, lines.encode(), ())
        record = {"format": FORMAT, "shard": shard, "num_episodes": len(episodes), "num_rows": num_rows, "files": files}
        _write_file(directory / SHARD_FILE, (json.dumps(record, indent=2) + "\n").encode(), ())
    return index


def _index_rows(meta: DatasetMeta, shard: int, episodes: Sequence[Episode]) -> np.ndarray:
    index = np.zeros(len(episodes), INDEX_DTYPE)
    index["id"] = shard * meta.episodes_per_shard + np.arange(len(episodes))
    index["shard"] = shard
    index["length"] = [episode.num_env_steps for episode in episodes]
    index["offset"][1:] = np.cumsum(index["length"] + 1)[:-1]
    index["seed"] = [episode.seed for episode in episodes]
    index["terminated"] = [episode.terminated for episode in episodes]
    return index


def _rows(name: str, meta: DatasetMeta, episode: Episode) -> np.ndarray:
    """An episode's rows of a column, C-contiguous, padded to one per observation."""
    if name.startswith("frames."):
        view = meta.observation_spec.cameras.index(name.removeprefix("frames."))
        return np.ascontiguousarray(episode.observations.frames[:, view])
    if name == "proprioception":
        return np.ascontiguousarray(episode.observations.proprioception)
    if name == "labels":
        return np.ascontiguousarray(episode.labels)
    values = episode.actions if name == "actions" else episode.rewards
    assert values is not None  # check_episode saw it
    padding = REWARD_PADDING if name == "rewards" else DISCRETE_ACTION_PADDING if meta.action_spec.kind == "discrete" else ACTION_PADDING
    return np.concatenate([values, np.full((1, *values.shape[1:]), padding, values.dtype)])


def _episode_line(row: np.ndarray, episode: Episode) -> str:
    values = {name: row[name].item() for name in INDEX_DTYPE.names or ()}
    return json.dumps({**values, "provenance": episode.provenance}) + "\n"


def _write_file(path: Path, start: bytes, parts: Iterable[np.ndarray]) -> dict[str, Any]:
    digest, num_bytes = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for data in (memoryview(start), *(part.data.cast("B") for part in parts)):
            digest.update(data)
            num_bytes += file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": num_bytes, "sha256": digest.hexdigest()}


def read_record(root: Path, meta: DatasetMeta, shard: int) -> ShardRecord:
    """The record of a shard whose files all have the right size and header; ``DataError`` otherwise."""
    directory = shard_path(root, shard)
    name = f"{SHARDS_DIRECTORY}/{directory.name}"
    if not directory.is_dir():
        raise damaged(root, f"{name} is missing")
    try:
        values = json.loads((directory / SHARD_FILE).read_text())
        record = ShardRecord(values["shard"], values["num_episodes"], values["num_rows"], values["files"])
        expected_files = {f"{column}.npy" for column in meta.columns} | {EPISODES_FILE}
        if values["format"] != FORMAT or record.shard != shard or set(record.files) != expected_files:
            raise ValueError("it describes something else")
        for file_name, entry in record.files.items():
            column = meta.columns.get(file_name.removesuffix(".npy"))
            if column is not None and entry["bytes"] != column.file_bytes(record.num_rows):
                raise ValueError(f"{file_name} cannot have {record.num_rows} rows in {entry['bytes']} bytes")
            _check_file(root, directory / file_name, int(entry["bytes"]), column, record.num_rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(root, f"{name}/{SHARD_FILE} cannot be used ({error})") from None
    return record


def _check_file(root: Path, path: Path, num_bytes: int, column: Column | None, num_rows: int) -> None:
    name = path.relative_to(root)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise damaged(root, f"{name} is missing") from None
    if size != num_bytes:
        raise damaged(root, f"{name} has {size:,} of {num_bytes:,} bytes")
    if column is not None:
        with open(path, "rb") as file:
            if file.read(HEADER_BYTES) != column.header(num_rows):
                raise damaged(root, f"{name} does not begin with the header of {num_rows:,} rows of {column.dtype.name} {list(column.shape)}")


def verify_shard(root: Path, record: ShardRecord, on_bytes: Callable[[int], None] | None = None) -> None:
    """``DataError`` unless every file of the shard has the SHA-256 with which it was written."""
    for file_name, entry in record.files.items():
        path = shard_path(root, record.shard) / file_name
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry["sha256"]:
            raise damaged(root, f"{path.relative_to(root)} has SHA-256 {digest[:12]}, was written with {entry['sha256'][:12]}")
        if on_bytes is not None:
            on_bytes(int(entry["bytes"]))


def read_episode_lines(root: Path, shard: int) -> list[dict[str, Any]]:
    """The episodes of a shard: the fields of the index, and ``provenance``."""
    path = shard_path(root, shard) / EPISODES_FILE
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise damaged(root, f"{path.relative_to(root)} cannot be read ({error})") from None


def read_index_rows(root: Path, shard: int) -> np.ndarray:
    """The shard's rows of the index, ``INDEX_DTYPE``."""
    names = INDEX_DTYPE.names or ()
    try:
        return np.array([tuple(line[name] for name in names) for line in read_episode_lines(root, shard)], INDEX_DTYPE)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(root, f"{SHARDS_DIRECTORY}/{shard:05d}/{EPISODES_FILE} has a wrong entry ({error})") from None
