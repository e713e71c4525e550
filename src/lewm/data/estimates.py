"""What a collection will take, before it starts: disk, as an exact upper bound, and time, from a second of the real thing.

Axes: N env step.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lewm.data.collection_plan import Unit, cut_into_units, episodes_by_shard
from lewm.data.layout import INDEX_DTYPE, SHARDS_DIRECTORY, DatasetMeta
from lewm.data.recording import Recorder
from lewm.data.shards import read_record
from lewm.errors import DataError

LINE_BYTES = 512
"""At most, of an episode in the list of its shard."""
SHARD_FILE_BYTES = 8192
"""At most, of a shard's list of checksums."""
META_BYTES = 65536
"""At most, of the dataset's description and of file headers."""
CALIBRATION_S = 1.0
CALIBRATION_SHARE = 0.1
"""Of the time that the collection will take: a short one is timed for less than ``CALIBRATION_S``."""


@dataclass(frozen=True, kw_only=True)
class CollectionEstimate:
    """What is still to be recorded and what it will take."""

    num_episodes: int
    """Still to be recorded."""
    max_env_steps: int
    """Of an episode."""
    action_repeat: int
    action_kind: str
    num_bytes: int
    """Upper bound of what will be written."""
    free_bytes: int
    """On the disk of the dataset."""
    frames_per_s: float | None
    """Measured, of all workers together; None if it was not."""

    @property
    def num_env_steps(self) -> int:
        """At most: episodes may end by themselves."""
        return self.num_episodes * self.max_env_steps

    @property
    def seconds(self) -> float | None:
        """At most, if the measurement holds."""
        return None if self.frames_per_s is None else self.num_episodes * (self.max_env_steps + 1) / self.frames_per_s

    def __str__(self) -> str:
        simulator_steps = "emulator frames" if self.action_kind == "discrete" else "control steps"
        repeat = f", 1 env step = {self.action_repeat} {simulator_steps}" if self.action_repeat > 1 else ""
        duration = "" if self.seconds is None else f"; about {format_duration(self.seconds)} at {self.frames_per_s:,.0f} frames/s"
        return (
            f"{self.num_episodes:,} episodes of at most {self.max_env_steps:,} env steps = {self.num_env_steps:,} env steps{repeat}; "
            f"at most {format_bytes(self.num_bytes)} of {format_bytes(self.free_bytes)} free disk{duration}"
        )


def estimate_collection(
    meta: DatasetMeta, out: Path, num_episodes: int, *, workers: int = 1, batch_size: int | None = None, is_timed: bool = True
) -> CollectionEstimate:
    """What recording the first ``num_episodes`` of the dataset ``meta`` into ``out`` will take, less what is there already.

    ``is_timed`` records for about a second, and writes nothing.
    """
    missing = _missing_shards(meta, num_episodes, out)
    num_missing, max_env_steps = sum(count for _, count in missing), int(meta.collection["max_env_steps"])
    units = cut_into_units(meta, missing, workers=workers, batch_size=batch_size)
    speed = None
    if is_timed and units:
        num_processes = max(1, min(workers, len(units), os.cpu_count() or 1))
        speed = num_processes * measure_frames_per_s(meta, units[0], num_missing * (max_env_steps + 1) / num_processes)
    return CollectionEstimate(
        num_episodes=num_missing,
        max_env_steps=max_env_steps,
        action_repeat=meta.action_spec.action_repeat,
        action_kind=meta.action_spec.kind,
        num_bytes=_bytes_of_shards(meta, missing),
        free_bytes=free_disk_bytes(out),
        frames_per_s=speed,
    )


def estimate_bytes(meta: DatasetMeta, num_episodes: int, existing: Path | None = None) -> int:
    """Upper bound of the bytes that a collection of ``num_episodes`` writes, less the shards that are at ``existing`` already."""
    return _bytes_of_shards(meta, _missing_shards(meta, num_episodes, existing))


def check_free_disk(out: Path, num_bytes: int) -> None:
    """``DataError`` if the disk of ``out`` has not as much room, naming both."""
    free_bytes = free_disk_bytes(out)
    if num_bytes > free_bytes:
        raise DataError(
            f"this collection may need {format_bytes(num_bytes)}, and {str(out)!r} has {format_bytes(free_bytes)} of free disk; "
            "collect fewer or shorter episodes or smaller frames, or choose another place"
        )


def free_disk_bytes(path: Path) -> int:
    """Free space where ``path`` is or would be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def measure_frames_per_s(meta: DatasetMeta, unit: Unit, num_frames: float) -> float:
    """Frames per second that one process records of a unit, timed for a second or a tenth of what ``num_frames`` take."""
    with contextlib.closing(Recorder(meta)) as recorder:
        envs, policy = recorder.start(unit.seeds)
        envs.observe()  # the first frame builds what the others use
        start_s, num_drawn, elapsed_s = time.perf_counter(), 0, 0.0
        for _ in range(int(meta.collection["max_env_steps"])):
            envs.step(policy.act(envs))
            envs.is_truncated()
            envs.observe()
            envs.labels()
            num_drawn += len(unit.seeds)
            elapsed_s = time.perf_counter() - start_s
            if elapsed_s > min(CALIBRATION_S, CALIBRATION_SHARE * elapsed_s * num_frames / num_drawn):
                break
    return num_drawn / max(elapsed_s, 1e-9)


def format_bytes(num_bytes: float) -> str:
    """Decimal, as disks are sold: 1.3 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}" if num_bytes < 99.5 * size else f"{num_bytes / size:,.0f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"


def format_duration(seconds: float) -> str:
    """In the unit that a person would use."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _missing_shards(meta: DatasetMeta, num_episodes: int, existing: Path | None) -> list[tuple[int, int]]:
    """Shard and episodes of those that are not at ``existing``; sizes are looked at there, not contents."""
    missing = []
    for shard, count in episodes_by_shard(meta, num_episodes).items():
        if existing is None or _num_episodes_of(existing, meta, shard) < count:
            missing.append((shard, count))
    return missing


def num_recorded_episodes(path: Path, meta: DatasetMeta) -> dict[int, int]:
    """Shard -> episodes, of the shards that are at ``path``; sizes are looked at, not contents."""
    shards = [int(entry.name) for entry in (path / SHARDS_DIRECTORY).glob("*") if entry.name.isdigit()]
    return {shard: _num_episodes_of(path, meta, shard) for shard in sorted(shards)}


def _num_episodes_of(path: Path, meta: DatasetMeta, shard: int) -> int:
    if not (path / SHARDS_DIRECTORY / f"{shard:05d}").is_dir():
        return 0
    try:
        return read_record(path, meta, shard).num_episodes
    except DataError:
        return 0


def _bytes_of_shards(meta: DatasetMeta, shards: Iterable[tuple[int, int]]) -> int:
    total, rows_per_episode = META_BYTES, int(meta.collection["max_env_steps"]) + 1
    for _, num_episodes in shards:
        columns = sum(column.file_bytes(num_episodes * rows_per_episode) for column in meta.columns.values())
        total += columns + num_episodes * (LINE_BYTES + INDEX_DTYPE.itemsize) + SHARD_FILE_BYTES
    return total
