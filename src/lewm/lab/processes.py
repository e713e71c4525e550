"""A fresh process for each job, some at a time: what a process used at most is then its job's own."""

from collections import deque
from collections.abc import Callable, Generator, Mapping
from multiprocessing.connection import wait
from typing import Any, TypeVar

from lewm.envs.worker_processes import WorkerDiedError, WorkerProcess
from lewm.errors import LewmError

JobT = TypeVar("JobT")


class OneThread:
    """Calls a function with one thread of torch."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)

    def call(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Do the job."""
        target(*arguments)

    def close(self) -> None:
        """Nothing to let go of."""


def run_apart(target: Callable[..., None], jobs: Mapping[JobT, tuple[Any, ...]], num_processes: int) -> Generator[JobT]:
    """Call ``target`` with the arguments of every job, each in a process of its own with one thread, and yield jobs as they end.

    A job's error is raised here, ``LewmError`` if its process dies. Whatever ends the loop, closing the generator ends the processes that still run;
    they do not outlive this one either.
    """
    waiting = deque(jobs.items())
    running: dict[Any, tuple[JobT, WorkerProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_processes:
                job, arguments = waiting.popleft()
                worker = WorkerProcess(OneThread)
                running[worker.connection] = job, worker
                worker.request("call", target, arguments)
            for connection in wait(list(running)):
                job, worker = running.pop(connection)
                try:
                    worker.answer()
                except WorkerDiedError as error:
                    raise LewmError(f"{job}: {error}; a process that is killed often wants more memory than there is") from None
                finally:
                    worker.close()
                yield job
    finally:
        for _, worker in running.values():
            worker.close(at_once=True)
