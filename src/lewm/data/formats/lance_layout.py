"""What the columns and rows of a Lance table of episodes are: by stable-worldmodel's names, by options, or by our own metadata.

Axes: n row, k numbers of a column.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lewm.data.formats.lance_table import LanceTable, companion, damaged, is_binary, numbers, width
from lewm.data.layout import DatasetMeta
from lewm.errors import DataError
from lewm.registry import did_you_mean

EPISODE, STEP = "episode_idx", "step_idx"
ACTION, REWARD, TERMINATED, PROPRIOCEPTION, STATE = "action", "reward", "terminated", "proprio", "state"
CHECK = "row_check"
"""A column of ours: a checksum over the other numbers of the row, for Lance has none."""
BOOKKEEPING = frozenset((EPISODE, STEP, ACTION, REWARD, TERMINATED, "truncated", "id", CHECK))
MAX_LABEL_WIDTH = 64
"""A column of more numbers is no label unless it is asked for: a depth image, say."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which columns of a table are what."""

    frames: dict[str, str]
    """Column by camera."""
    has_actions: bool
    has_rewards: bool
    proprioception: tuple[str, ...]
    labels: tuple[str, ...]


def own_frame_columns(meta: DatasetMeta) -> dict[str, str]:
    """The column of each camera: ``pixels``, by which the field knows it, if there is one only."""
    cameras = meta.observation_spec.cameras
    return {cameras[0]: "pixels"} if len(cameras) == 1 else {camera: f"pixels_{camera}" for camera in cameras}


def own_widths(meta: DatasetMeta) -> dict[str, int]:
    """The columns of numbers that we write, in their order, and how many each has."""
    columns = meta.columns
    named = (("actions", ACTION), ("proprioception", PROPRIOCEPTION), ("labels", STATE), ("rewards", REWARD))
    found = {column: int(np.prod(columns[name].shape, dtype=np.int64)) for name, column in named if name in columns}
    return {**found, TERMINATED: 1}


def own_roles(table: LanceTable, meta: DatasetMeta) -> Roles:
    """What the columns of a table of ours are; ``DataError`` if it does not have those that its metadata promise."""
    frames, kinds = own_frame_columns(meta), dict(zip(table.schema.names, table.schema.types, strict=True))
    for column in frames.values():
        if column not in kinds or not is_binary(kinds[column]):
            raise damaged(table.path, f"it has no column of frames {column!r}")
    for column, size in {**own_widths(meta), CHECK: 1}.items():
        if column not in kinds or width(kinds[column]) != size:
            raise damaged(table.path, f"it has no column {column!r} of {size} numbers, as its metadata promise")
    return Roles(
        frames=frames,
        has_actions=meta.action_spec.kind != "none",
        has_rewards=meta.has_rewards,
        proprioception=(PROPRIOCEPTION,) if meta.observation_spec.proprioception else (),
        labels=(STATE,) if meta.label_names else (),
    )


def chosen_roles(
    table: LanceTable, *, frames: tuple[str, ...] | None, proprioception: tuple[str, ...] | None, labels: tuple[str, ...] | None
) -> Roles:
    """What the columns of a foreign table are, by their names and the options; ``DataError`` where that is unclear."""
    widths = {field.name: width(field.type) for field in table.schema}
    pictures = [field.name for field in table.schema if is_binary(field.type)]
    plain = [name for name, size in widths.items() if size is not None and name not in BOOKKEEPING]
    frames = _default_frames(table.path, pictures) if frames is None else frames
    proprioception = tuple(name for name in plain if name == PROPRIOCEPTION) if proprioception is None else proprioception
    if labels is None:
        labels = tuple(name for name in plain if name not in proprioception and (widths[name] or 0) <= MAX_LABEL_WIDTH)
    for option, names, known in (("frames", frames, pictures), ("proprioception", proprioception, plain), ("labels", labels, plain)):
        for name in names:
            if name not in known:
                raise DataError(f"{str(table.path)!r} has no column {name!r} for the option {option}.{did_you_mean(name, known)}")
    for name, is_usable in ((ACTION, widths.get(ACTION) is not None), (REWARD, widths.get(REWARD) == 1)):
        if name in widths and not is_usable:
            raise DataError(f"{str(table.path)!r}: its column {name!r} is {table.schema.field(name).type}, not numbers; write it as float32")
    return Roles(
        frames={name.removeprefix("pixels_"): name for name in frames},
        has_actions=ACTION in widths,
        has_rewards=REWARD in widths,
        proprioception=proprioception,
        labels=labels,
    )


def _default_frames(path: Path, pictures: list[str]) -> tuple[str, ...]:
    named = [name for name in pictures if name == "pixels" or name.startswith("pixels_")]
    if named or len(pictures) == 1:
        return tuple(named or pictures)
    if not pictures and (companion(path, "_videos") / "_versions").is_dir():
        raise DataError(f"{str(path)!r} has its frames as videos in a table beside it; turn it into the format 'lance' with `swm convert` first")
    raise DataError(f"{str(path)!r} has no column 'pixels', and its binary columns are {pictures}; name one: --option frames=NAME")


def column_names(table: LanceTable, columns: Sequence[str]) -> tuple[str, ...]:
    """A name for each number of some columns: the column's own, with its place if there are several."""
    sizes = {name: width(table.schema.field(name).type) or 0 for name in columns}
    return tuple(name if size == 1 else f"{name}_{place}" for name, size in sizes.items() for place in range(size))


def episode_starts(table: LanceTable) -> tuple[np.ndarray, np.ndarray]:
    """int64 [episodes + 1] first row of each episode and the number of rows, int64 [episodes] their numbers; a batch of rows at a time.

    ``DataError`` unless episodes follow each other by number and the rows of each are numbered 0, 1, ...
    """
    names = [name for name in (EPISODE, STEP) if name in table.schema.names]
    if EPISODE not in names or any(width(table.schema.field(name).type) != 1 for name in names):
        raise DataError(f"{str(table.path)!r} has no column {EPISODE!r} of numbers; it is no table of episodes as stable-worldmodel writes it")
    starts, found, row, start, last = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0, 0, -1
    for batch in table.scan(names):
        if not batch.num_rows:
            continue
        of, steps = (numbers(batch.column(name), table.path, name)[:, 0].astype(np.int64) for name in (EPISODE, names[-1]))
        before = np.concatenate([[last], of[:-1]])
        if (of < before).any():
            raise damaged(table.path, f"episode {int(of[of < before][0])} comes after a later one, or twice")
        at = row + np.arange(len(of))
        begun = np.maximum.accumulate(np.where(of != before, at, start))
        bad = np.flatnonzero((steps != at - begun) & (STEP in names))
        if len(bad):
            raise damaged(table.path, f"step {steps[bad[0]]} of episode {of[bad[0]]} stands where step {(at - begun)[bad[0]]} belongs")
        starts.append(at[of != before])
        found.append(of[of != before])
        row, start, last = row + len(of), int(begun[-1]), int(of[-1])
    if row != table.num_rows:
        raise damaged(table.path, f"it has {row} of {table.num_rows} rows")
    return np.concatenate([*starts, np.array([row])]), np.concatenate(found)


def row_checks(parts: Sequence[np.ndarray]) -> np.ndarray:
    """float32 [n]: 24 bits of a checksum of each row of float32 arrays [n, k], which float32 holds exactly."""
    rows = np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)
    return np.array([zlib.crc32(row.tobytes()) & 0xFFFFFF for row in rows], np.float32)


def text_check(text: str) -> int:
    """A checksum of an episode's text."""
    return zlib.crc32(text.encode())
