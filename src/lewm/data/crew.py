"""Recording in worker processes: who records what, what becomes of a worker's unit when the worker dies, and how episodes come home.

A worker writes what it recorded into a directory of its own and its parent maps that into memory: frames pass through no pipe, and a full disk is an
error, not a crash.
"""

import contextlib
import logging
import os
import shutil
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from lewm.data.collection_plan import Unit
from lewm.data.durable import TEMPORARY_PREFIX
from lewm.data.layout import DatasetMeta
from lewm.data.recording import Recorder, Recording
from lewm.envs.base import EpisodeError
from lewm.envs.worker_processes import WorkerDiedError, WorkerProcess
from lewm.errors import DataError
from lewm.registry import TABLES, Entry

logger = logging.getLogger(__name__)
Entries = list[tuple[str, str, Entry]]
"""Of the registry: table, name and entry."""
MAX_ATTEMPTS = 3
"""So many workers may die over one unit."""
MAX_FAILED_UNITS = 3
"""When so many units have failed, the fault is not theirs."""


class EpisodeFailures:
    """Units with an episode that the simulator could not go on with: the others are recorded first."""

    def __init__(self) -> None:
        self._failed: list[str] = []

    def add(self, unit: Unit, error: EpisodeError) -> None:
        """Remember a failed unit; ``EpisodeError`` when there are ``MAX_FAILED_UNITS``."""
        logger.warning("%s: %s; these episodes are left out", unit, error)
        self._failed.append(f"{unit}: {error}")
        if len(self._failed) == MAX_FAILED_UNITS:
            self.check()

    def check(self) -> None:
        """``EpisodeError`` that names the failed units, if there are any."""
        if self._failed:
            raise EpisodeError(
                f"the world could not go on with {'; '.join(self._failed)}. All finished shards are kept: "
                "choose a gentler policy or other options, or collect with another seed"
            )


class UnitServant:
    """Lives in a worker process: records units."""

    def __init__(self) -> None:
        self._recorder: Recorder | None = None

    def record(self, meta: DatasetMeta, entries: Entries, unit: Unit, directory: Path) -> None:
        """Record a unit and write its episodes into ``directory``; ``entries`` are what only the parent may know."""
        for table, name, entry in entries:
            TABLES[table].adopt(name, entry)
        if self._recorder is None:
            self._recorder = Recorder(meta)
        self._recorder.record(unit.seeds).save(directory)

    def close(self) -> None:
        """Free the worlds."""
        if self._recorder is not None:
            self._recorder.close()


class Crew:
    """Worker processes that record units; a context manager, after which they are gone, and so is what nobody took.

    A worker that dies is reported with the seeds of its unit and replaced, and the unit is recorded again; everything else goes on. A unit over which
    ``MAX_ATTEMPTS`` workers died is given up; ``DataError`` names it once all others are recorded.
    """

    def __init__(self, meta: DatasetMeta, directory: Path, num_workers: int) -> None:
        self._meta = meta
        names = {"envs": meta.env["name"], "policies": meta.policy["name"]}
        self._entries: Entries = [(table, *TABLES[table].matched(name)) for table, name in names.items() if name in TABLES[table]]
        self._directory = directory / f"{TEMPORARY_PREFIX}units-{os.getpid()}"
        self._num_workers = num_workers
        self._workers: dict[WorkerProcess, Unit] = {}
        self._num_attempts: dict[Unit, int] = {}
        self._failed: list[Unit] = []
        self._failures = EpisodeFailures()

    @property
    def pids(self) -> list[int]:
        """Of the workers at work."""
        return [worker.pid for worker in self._workers]

    def record(self, units: Sequence[Unit]) -> Generator[tuple[Unit, Recording], None, None]:
        """Every unit with its episodes, as they are done; give each to ``release`` when it is not needed any more."""
        waiting = deque(units)
        for _ in range(min(self._num_workers, len(units))):
            self._assign(WorkerProcess(UnitServant), waiting)
        while self._workers:
            ready = wait([worker.connection for worker in self._workers])
            for worker in [worker for worker in self._workers if worker.connection in ready]:
                unit, is_recorded = self._workers.pop(worker), True
                try:
                    worker.answer()
                except EpisodeError as error:
                    self._workers[worker] = unit  # closed with the others if this is one failure too many
                    self._failures.add(unit, error)
                    del self._workers[worker]
                    is_recorded = False
                except WorkerDiedError as death:
                    self._mourn(worker, unit, death, waiting)
                    if waiting:
                        self._assign(WorkerProcess(UnitServant), waiting)
                    continue
                except BaseException:
                    worker.close(at_once=True)
                    raise
                if waiting:
                    self._assign(worker, waiting)
                else:
                    worker.close()
                if is_recorded:
                    yield unit, Recording.load(self._unit_directory(unit))
        self._refuse_failures()
        self._failures.check()

    def release(self, unit: Unit) -> None:
        """Delete what was recorded of a unit."""
        shutil.rmtree(self._unit_directory(unit), ignore_errors=True)

    def _assign(self, worker: WorkerProcess, waiting: deque[Unit]) -> None:
        unit = waiting.popleft()
        self._workers[worker] = unit
        with contextlib.suppress(WorkerDiedError):  # its answer will say so
            worker.request("record", self._meta, self._entries, unit, self._unit_directory(unit))

    def _mourn(self, worker: WorkerProcess, unit: Unit, death: WorkerDiedError, waiting: deque[Unit]) -> None:
        worker.close()
        self.release(unit)
        if worker.could_not_start:
            raise DataError(
                f"{death} before it could begin, for the reason that it gave above; a script that collects with workers needs "
                'the usual `if __name__ == "__main__":`'
            )
        self._num_attempts[unit] = self._num_attempts.get(unit, 0) + 1
        if self._num_attempts[unit] < MAX_ATTEMPTS:
            logger.warning("%s while it recorded %s; another one records them again", death, unit)
            waiting.appendleft(unit)
            return
        logger.warning("%s while it recorded %s, as %d workers before it: they are left out", death, unit, MAX_ATTEMPTS - 1)
        self._failed.append(unit)
        if len(self._failed) == MAX_FAILED_UNITS:
            self._refuse_failures()

    def _refuse_failures(self) -> None:
        if self._failed:
            raise DataError(
                f"{MAX_ATTEMPTS} worker processes each died recording {'; '.join(map(str, self._failed))}; all finished shards are kept: "
                "mend the world, or free memory or use fewer --workers, then go on with --resume"
            )

    def _unit_directory(self, unit: Unit) -> Path:
        return self._directory / f"{unit.first_episode:08d}"

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        while self._workers:
            self._workers.popitem()[0].close(at_once=True)
        shutil.rmtree(self._directory, ignore_errors=True)
