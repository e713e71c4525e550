"""Recording episodes of a world: ``lewm collect``.

Episode i is a function of (environment and options, policy and options, seed, i, max_env_steps) alone, and its shard of i alone, so batch size,
number of workers, interruptions and appending change no byte of the shards.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.collection_plan import Unit, check_whole, cut_into_units, episodes_by_shard, plan_dataset
from lewm.data.crew import Crew, EpisodeFailures
from lewm.data.episodes import EpisodeStore
from lewm.data.estimates import check_free_disk, estimate_bytes, num_recorded_episodes
from lewm.data.layout import META_FILE, DatasetMeta, read_meta
from lewm.data.policies import scripted_policy
from lewm.data.recording import Recorder, Recording
from lewm.data.shards import write_shard
from lewm.data.writing import DatasetDirectory, check_place, check_same_settings
from lewm.envs.base import EpisodeError
from lewm.errors import DataError

__all__ = ["CollectionProgress", "collect", "prepare", "scripted_policy"]

MAX_SHARDS_BEING_WRITTEN = 3
"""Shards that workers have recorded and the disk has not: when there are more, recording waits for the disk."""


@dataclass(frozen=True, kw_only=True)
class CollectionProgress:
    """How far a collection has come."""

    num_episodes: int
    """In all, those of an earlier collection included."""
    num_recorded: int
    """Episodes recorded so far; those of unfinished shards would be lost with this process."""
    num_written: int
    """Episodes in finished shards: these are safe."""
    num_frames: int
    """Observations that this collection has recorded."""
    num_bytes: int
    """Size of all finished shards that this collection has written."""
    elapsed_s: float
    """Since recording began."""

    @property
    def frames_per_s(self) -> float:
        """Observations recorded per second."""
        return self.num_frames / max(self.elapsed_s, 1e-9)


def collect(
    env: str,
    out: Path | str,
    *,
    episodes: int,
    policy: str | None = None,
    seed: int = 0,
    max_env_steps: int = 100,
    env_options: dict[str, Any] | None = None,
    policy_options: dict[str, Any] | None = None,
    resume: bool = False,
    workers: int = 1,
    batch_size: int | None = None,
    command: str = "",
    progress: Callable[[CollectionProgress], None] | None = None,
) -> EpisodeStore:
    """Record ``episodes`` episodes of ``env``, at most ``max_env_steps`` long, into the dataset directory ``out``.

    ``policy`` is a name (``lewm list policies``, or one of the world's own), the directory of a run, or None for the world's own choice. ``resume``
    continues an interrupted collection, rewrites damaged shards and appends when ``episodes`` is more than before. ``workers`` processes (started
    anew, so a script needs the usual ``if __name__ == "__main__"``) and ``batch_size`` (episodes stepped together; None chooses) change no result; a
    worker that dies is reported and replaced. ``progress`` is told after every few episodes. ``DataError`` for an existing ``out`` without
    ``resume``, other settings than before, a disk that is or would be full, or episodes over which three workers died; ``UnknownNameError`` for an
    environment or policy that is in no table; ``EpisodeError`` for episodes that the simulator could not go on with, when all others are recorded.
    """
    settings: dict[str, Any] = {"policy": policy, "seed": seed, "max_env_steps": max_env_steps}
    settings |= {"env_options": env_options, "policy_options": policy_options, "command": command}
    meta = prepare(env, out, episodes=episodes, resume=resume, workers=workers, batch_size=batch_size, **settings)
    directory = DatasetDirectory(Path(out), meta, resume=resume)
    try:
        shards = _missing_shards(directory, episodes)
        units = cut_into_units(directory.meta, shards.items(), workers=workers, batch_size=batch_size)
        _record_and_write(directory, shards, units, min(workers, len(units)), episodes, progress)
    finally:
        directory.close()
    return EpisodeStore(out)


def prepare(
    env: str, out: Path | str, *, episodes: int, resume: bool = False, workers: int = 1, batch_size: int | None = None, **settings: Any
) -> DatasetMeta:
    """The meta of what ``collect`` with the same arguments would record, after all that it would refuse at once has been refused; writes nothing.

    ``settings`` are those of ``plan_dataset``.
    """
    for name, value in {"episodes": episodes, "workers": workers, "batch_size": 1 if batch_size is None else batch_size}.items():
        check_whole(name, value, 1)
    out = Path(out)
    content = check_place(out, resume=resume)
    meta = plan_dataset(env, **settings)
    if META_FILE in content:
        existing = read_meta(out)
        check_same_settings(out, existing, meta)
        meta = dataclasses.replace(meta, episodes_per_shard=existing.episodes_per_shard)
        _check_not_fewer(out, num_recorded_episodes(out, existing), meta, episodes)
    _check_disk(meta, out, episodes, workers)
    return meta


def _check_not_fewer(out: Path, finished: dict[int, int], meta: DatasetMeta, num_episodes: int) -> None:
    """Refuse a collection of fewer episodes than there are; ``finished``: shard -> episodes."""
    wanted = episodes_by_shard(meta, num_episodes)
    if any(count > wanted.get(shard, 0) for shard, count in finished.items()):
        raise DataError(f"dataset {str(out)!r} already has more than {num_episodes:,} episodes; ask for as many, or choose another directory")


def _check_disk(meta: DatasetMeta, out: Path, num_episodes: int, workers: int) -> None:
    """Refuse what does not fit, with room for the units that workers hand over: they are deleted when their shard is written."""
    num_bytes = estimate_bytes(meta, num_episodes, existing=out)
    shard_bytes = estimate_bytes(meta, min(num_episodes, meta.episodes_per_shard))
    num_bytes += min(num_bytes, (MAX_SHARDS_BEING_WRITTEN + 1) * shard_bytes) if workers > 1 else 0
    check_free_disk(out, num_bytes)


def _missing_shards(directory: DatasetDirectory, num_episodes: int) -> dict[int, int]:
    """Shard -> episodes, of those that are not whole."""
    wanted = episodes_by_shard(directory.meta, num_episodes)
    finished = {shard: directory.num_finished_episodes(shard) for shard in directory.finished_shards}
    _check_not_fewer(directory.path, finished, directory.meta, num_episodes)
    return {number: count for number, count in wanted.items() if directory.num_finished_episodes(number) < count}


def _record_and_write(
    directory: DatasetDirectory,
    shards: dict[int, int],
    units: Sequence[Unit],
    workers: int,
    num_episodes: int,
    progress: Callable[[CollectionProgress], None] | None,
) -> None:
    """Record every unit, here or in workers, and write each shard in a thread as soon as it is whole; recording goes on meanwhile."""
    start_s = time.monotonic()
    num_recorded, num_frames = num_episodes - sum(shards.values()), 0
    with contextlib.ExitStack() as stack:
        crew = stack.enter_context(Crew(directory.meta, directory.path, workers)) if workers > 1 else None
        writer = stack.enter_context(_ShardWriter(directory, shards, crew))
        recordings = _record_here(directory.meta, units) if crew is None else crew.record(units)

        def tell() -> None:
            if progress is not None:
                progress(
                    CollectionProgress(
                        num_episodes=num_episodes,
                        num_recorded=num_recorded,
                        num_written=num_episodes - writer.num_missing_episodes,
                        num_frames=num_frames,
                        num_bytes=writer.num_bytes,
                        elapsed_s=time.monotonic() - start_s,
                    )
                )

        with contextlib.closing(recordings):
            for unit, recording in recordings:
                num_recorded += len(unit.seeds)
                num_frames += recording.num_frames
                writer.add(unit, recording)
                tell()
        writer.finish()
        tell()


def _record_here(meta: DatasetMeta, units: Sequence[Unit]) -> Generator[tuple[Unit, Recording], None, None]:
    failures = EpisodeFailures()
    with contextlib.closing(Recorder(meta)) as recorder:
        for unit in units:
            try:
                recording = recorder.record(unit.seeds)
            except EpisodeError as error:
                failures.add(unit, error)
                continue
            yield unit, recording
    failures.check()


class _ShardWriter:
    """Puts units together and writes whole shards in a thread, which needs no interpreter; a context manager.

    However its block ends, shards that were handed to the thread are written and enter the index.
    """

    def __init__(self, directory: DatasetDirectory, shards: dict[int, int], crew: Crew | None) -> None:
        self._directory, self._crew = directory, crew
        self._missing = dict(shards)
        self._units: dict[int, list[tuple[Unit, Recording]]] = {}
        self._thread = ThreadPoolExecutor(1, "lewm-collect")
        self._being_written: dict[int, Future[np.ndarray]] = {}
        self._row_bytes = directory.meta.row_bytes
        self.num_bytes = 0
        """Of the shards written so far."""

    @property
    def num_missing_episodes(self) -> int:
        """Episodes of shards that are not written yet."""
        return sum(self._missing.values())

    def add(self, unit: Unit, recording: Recording) -> None:
        """Take a recorded unit; waits when the disk is far behind."""
        units = self._units.setdefault(unit.shard, [])
        units.append((unit, recording))
        self._collect_written(max_left=None)
        if sum(len(unit.seeds) for unit, _ in units) == self._missing[unit.shard]:
            # Recorded in this process, a shard is in memory: only one more than the one that is being recorded.
            self._collect_written(max_left=0 if self._crew is None else MAX_SHARDS_BEING_WRITTEN - 1)
            self._being_written[unit.shard] = self._thread.submit(self._write, unit.shard, self._units.pop(unit.shard))

    def finish(self) -> None:
        """Wait for the disk."""
        self._collect_written(max_left=0)

    def _collect_written(self, *, max_left: int | None) -> None:
        """Enter what is written into the index, waiting until no more than ``max_left`` shards are not."""
        for shard, rows in list(self._being_written.items()):
            if rows.done() or (max_left is not None and len(self._being_written) > max_left):
                self._directory.add(shard, rows.result())
                # Only now is it forgotten: an interrupt while this waits must not lose a shard that is written.
                del self._being_written[shard]
                del self._missing[shard]
                self.num_bytes += int((rows.result()["length"] + 1).sum()) * self._row_bytes

    def _write(self, shard: int, units: list[tuple[Unit, Recording]]) -> np.ndarray:
        units.sort(key=lambda pair: pair[0].first_episode)
        meta = self._directory.meta
        rows = write_shard(self._directory.path, meta, shard, [episode for _, recording in units for episode in recording.episodes(meta)])
        if self._crew is not None:
            for unit, _ in units:
                self._crew.release(unit)
        return rows

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is not None:  # keep what can be kept; the error that ended the block is the one to hear of
            with contextlib.suppress(DataError):
                self._collect_written(max_left=0)
