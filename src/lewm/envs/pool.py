"""One batch of worlds stepped by several processes.

Axes: E episode, V view, Y X image, P proprioception, a action, s label.
"""

import contextlib
import logging
import weakref
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lewm.envs.base import check_count
from lewm.envs.pool_worker import RowsDescription, RowsServant, SharedFrames
from lewm.envs.worker_processes import WorkerDiedError, WorkerProcess
from lewm.errors import EnvError
from lewm.registry import ENVS
from lewm.schema import ActionSpec, Observation

logger = logging.getLogger(__name__)
BEGINS = ("reset", "set_states")
"""After one of these nothing that came before matters."""
CHANGES = (*BEGINS, "set_goals", "step")


def make_pool(name: str, num_envs: int, workers: int, /, **options: Any) -> "PooledBatch":
    """``num_envs`` episodes of the environment called ``name``, stepped by ``workers`` processes; close it when done.

    ``EnvError`` for a number of either below 1, and whatever ``make_batch`` raises. The processes are started anew, so a script needs the usual
    ``if __name__ == "__main__"``.
    """
    return PooledBatch(name, num_envs, workers, options)


class PooledBatch:
    """A ``GoalEnvBatch`` whose rows live in worker processes; everything comes out as from the plain batch.

    Frames are drawn in shared memory, and only when ``observe`` is called. A worker that dies is reported with the seeds of its rows and replaced:
    the new one does again what was done since the last ``reset`` or ``set_states``, then the command at which the old one died; ``EnvError`` if it
    dies at the same command. After a command that failed (an ``EnvError`` of the world) every row is where it was. Policies that look at more than
    the contract (a world's own experts) need the plain batch.
    """

    def __init__(self, name: str, num_envs: int, workers: int, options: dict[str, Any]) -> None:
        if num_envs < 1 or workers < 1:
            raise EnvError(f"num_envs and workers must be at least 1, got {num_envs} and {workers}")
        self.num_envs = num_envs
        num_workers = min(workers, num_envs)
        self._rows = [slice(first, last) for first, last in pairwise(num_envs * k // num_workers for k in range(num_workers + 1))]
        self._to_open = (name, ENVS.matched(name), options)
        self._history: list[tuple[str, list[Any]]] = []
        self._seeds: list[int] | None = None
        self._resources = _Resources()
        self._finalizer = weakref.finalize(self, self._resources.close)
        try:
            self._open()
        except BaseException:
            self._resources.close(at_once=True)
            raise

    @property
    def pids(self) -> list[int]:
        """Of the worker processes."""
        return [worker.pid for worker in self._resources.workers]

    def reset(self, seeds: Sequence[int]) -> None:
        """Start new episodes, one seed each."""
        check_count("seeds", len(seeds), self.num_envs)
        self._for_rows("reset", list(seeds))
        self._seeds = list(seeds)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance every episode by one env step: actions [E, a] -> (rewards float32 [E], terminated bool [E])."""
        actions = np.array(actions)
        _check_actions(actions, self.num_envs, self.action_spec)
        rewards, terminated = zip(*self._for_rows("step", actions), strict=True)
        return np.concatenate(rewards), np.concatenate(terminated)

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        """Draw the present frames, uint8 [E, V, Y, X, 3], into ``out`` if given; the arrays belong to the caller."""
        shape = (self.num_envs, *self.observation_spec.frame_shape)
        if out is not None and (out.shape != shape or out.dtype != np.uint8):
            raise EnvError(f"out must be uint8 {shape}, got {out.dtype} {out.shape}")
        return self._observed(self._ask("observe", [()] * len(self._rows)), self._resources.frames[0], out)

    def labels(self) -> np.ndarray:
        """float32 [E, s]."""
        return np.concatenate(self._for_all("labels"))

    def get_states(self) -> list[bytes]:
        """The complete state of every episode."""
        return [state for states in self._for_all("get_states") for state in states]

    def set_states(self, states: Sequence[bytes]) -> None:
        """Take over one state per episode."""
        check_count("states", len(states), self.num_envs)
        self._for_rows("set_states", list(states))
        self._seeds = None

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make one state the goal of each episode."""
        check_count("goal states", len(states), self.num_envs)
        self._for_rows("set_goals", list(states))

    def observe_goals(self) -> Observation[np.ndarray]:
        """What each goal looks like, uint8 [E, V, Y, X, 3]."""
        return self._observed(self._ask("observe_goals", [()] * len(self._rows)), self._resources.frames[1], None)

    def is_solved(self) -> np.ndarray:
        """Which episodes are solved, bool [E]."""
        return np.concatenate(self._for_all("is_solved"))

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n]: the stratum of each start/goal pair (labels [n, s]), -1 for one that must not be used."""
        return np.asarray(self._ask("call", [("strata", start_labels, goal_labels)])[0])

    def is_truncated(self) -> np.ndarray:
        """Which episodes have reached the world's own time limit, bool [E]."""
        return np.concatenate(self._for_all("is_truncated"))

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        """The same states with every velocity zero."""
        if len(states) != self.num_envs:
            return list(self._ask("call", [("at_rest", list(states))])[0])
        return [state for part in self._for_rows("at_rest", list(states)) for state in part]

    def close(self) -> None:
        """End the processes and free the shared memory; harmless when called twice."""
        self._resources.close()

    def _open(self) -> None:
        """Start all workers side by side, then share the memory for their frames with them."""
        workers = self._resources.workers
        for rows in self._rows:
            workers.append(WorkerProcess(RowsServant))
            workers[-1].request("open", self._to_open[0], self._to_open[1], rows, self._to_open[2])
        about: RowsDescription | None = None
        for k in range(len(workers)):
            try:
                about = workers[k].answer()
            except WorkerDiedError as death:
                self._bury(k, death, "open")
                about = self._start_again(k, "open")
        assert about is not None
        self.observation_spec, self.action_spec = about.observation_spec, about.action_spec
        self.label_names, self.goal_label_names = about.label_names, about.goal_label_names
        shape = (self.num_envs, *self.observation_spec.frame_shape)
        for _ in range(2):
            self._resources.frames.append(SharedFrames(shape))
        self._ask("attach", [self._to_attach] * len(workers))

    @property
    def _to_attach(self) -> tuple[tuple[int, ...], str, str]:
        frames, goal_frames = self._resources.frames
        return frames.array.shape, frames.name, goal_frames.name

    def _for_all(self, method: str) -> list[Any]:
        return self._ask("call", [(method,)] * len(self._rows))

    def _for_rows(self, method: str, values: Any) -> list[Any]:
        """Call a method of every worker's batch with its rows of ``values``."""
        parts = [values[rows] for rows in self._rows]
        try:
            answers = self._ask("call", [(method, part) for part in parts])
        except Exception:
            if method in CHANGES:
                self._roll_back()
            raise
        if method in BEGINS:
            self._history = []
        if method in CHANGES:
            self._history.append((method, parts))
        return answers

    def _ask(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers of the first workers, one for each of ``arguments``; every answer is read before an error is raised."""
        workers = self._resources.workers
        if not workers:
            raise EnvError("this pool is closed; make another one")
        answers: list[Any] = []
        errors: list[Exception] = []
        try:
            for worker, each in zip(workers, arguments, strict=False):
                with contextlib.suppress(WorkerDiedError):  # its answer will say so
                    worker.request(method, *each)
            for k, each in enumerate(arguments):
                try:
                    answers.append(self._answer(k, method, each))
                except Exception as error:  # noqa: BLE001 - raised below
                    errors.append(error)
        except BaseException:  # an interrupt: nobody knows any more who owes an answer
            self._resources.close(at_once=True)
            raise
        if errors:
            raise errors[0]
        return answers

    def _answer(self, k: int, method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return self._resources.workers[k].answer()
        except WorkerDiedError as death:
            name = arguments[0] if method == "call" else method
            self._bury(k, death, name)
            return self._start_again(k, name, (method, *arguments))

    def _bury(self, k: int, death: WorkerDiedError, method: str) -> None:
        worker = self._resources.workers[k]
        worker.close()
        if worker.could_not_start:
            raise EnvError(
                f"{death} before it could begin, for the reason that it gave above; a script that uses a pool needs "
                'the usual `if __name__ == "__main__":`'
            )
        logger.warning("%s at %r of %s; another one takes over", death, method, self._describe(k))

    def _start_again(self, k: int, name: str, command: tuple[Any, ...] | None = None) -> Any:
        """A new worker for the rows of a dead one, brought to where that was; returns the answer to the command at which it died."""
        worker = self._resources.workers[k] = WorkerProcess(RowsServant)
        commands: list[tuple[Any, ...]] = [("open", self._to_open[0], self._to_open[1], self._rows[k], self._to_open[2])]
        if command is not None and command[0] != "attach":
            commands.append(("attach", *self._to_attach))
        commands += self._since_beginning(k)
        answer = None
        try:
            for each in commands if command is None else [*commands, command]:
                worker.request(*each)
                answer = worker.answer()
        except WorkerDiedError as death:
            raise EnvError(f"{death} at {name!r} of {self._describe(k)}, and so did the one before it; leave out what they have in common") from None
        return answer

    def _since_beginning(self, k: int) -> list[tuple[Any, ...]]:
        """What brings worker k to where its rows are now."""
        return [("call", method, parts[k]) for method, parts in self._history]

    def _roll_back(self) -> None:
        """Put every worker where it was before a command that failed."""
        try:
            for k, worker in enumerate(self._resources.workers):
                with contextlib.suppress(WorkerDiedError):  # the next command finds it dead and replaces it
                    for command in self._since_beginning(k):
                        worker.request(*command)
                        worker.answer()
        except BaseException:  # an interrupt: rows would be at different times, and answers owed
            self._resources.close(at_once=True)
            raise

    def _describe(self, k: int) -> str:
        rows = self._rows[k]
        origin = "states that were set" if self._seeds is None else f"seeds {', '.join(map(str, self._seeds[rows]))}"
        return f"episodes {rows.start} to {rows.stop - 1} ({origin if self._history else 'not begun'})"

    def _observed(self, proprioception: list[Any], frames: SharedFrames, out: np.ndarray | None) -> Observation[np.ndarray]:
        if out is None:
            out = np.empty_like(frames.array)
        np.copyto(out, frames.array)
        return Observation(out, None if proprioception[0] is None else np.concatenate(proprioception))


class _Resources:
    """What has to be given back even if nobody closes the pool: processes and shared memory."""

    def __init__(self) -> None:
        self.workers: list[WorkerProcess] = []
        self.frames: list[SharedFrames] = []

    def close(self, *, at_once: bool = False) -> None:
        for worker in self.workers:
            worker.connection.close()  # all of them see it now, and end side by side
        while self.workers:
            self.workers.pop().close(at_once=at_once)
        while self.frames:  # only then: a worker that is just starting must not find it gone
            self.frames.pop().close()


def _check_actions(actions: np.ndarray, num_envs: int, spec: ActionSpec) -> None:
    """Refuse what no world of this action spec can take, before a part of the rows has moved."""
    shape = (num_envs,) if spec.kind == "discrete" else (num_envs, spec.dimension)
    if actions.shape != shape or actions.dtype.kind not in ("iu" if spec.kind == "discrete" else "fiu"):
        kind = "whole numbers" if spec.kind == "discrete" else "numbers"
        raise EnvError(f"actions must be {kind} of shape {shape}, got {actions.dtype} {actions.shape}")
    low, high = (0, spec.num_choices - 1) if spec.kind == "discrete" else (np.array(spec.low, np.float32), np.array(spec.high, np.float32))
    # Bounds such as 1.1 are no float32 numbers; an action that was clipped to them as one is within them.
    with np.errstate(over="ignore"):
        rounded = actions if spec.kind == "discrete" else actions.astype(np.float32)
    is_allowed = ((rounded >= low) & (rounded <= high)).reshape(num_envs, -1).all(-1)
    if not is_allowed.all():
        row = int(np.flatnonzero(~is_allowed)[0])
        bounds = f"[0, {spec.num_choices})" if spec.kind == "discrete" else f"{list(spec.low)} to {list(spec.high)}"
        raise EnvError(f"actions must be finite and within {bounds}, got {actions[row].tolist()} for episode {row}; clip them")
