"""A fresh process for each job, some at a time: what a process used at most is then its job's own."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Mapping
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from lewm.errors import LewmError

JobT = TypeVar("JobT")


def run_apart(target: Callable[..., None], jobs: Mapping[JobT, tuple[Any, ...]], num_processes: int) -> Generator[JobT]:
    """Call ``target`` with the arguments of every job, each in a process of its own with one thread, and yield jobs as they end.

    ``LewmError`` when a process ends otherwise than by returning. Whatever ends the loop, closing the generator ends the processes that still run.
    """
    context, waiting = multiprocessing.get_context("spawn"), deque(jobs.items())
    running: dict[Any, tuple[JobT, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_processes:
                job, arguments = waiting.popleft()
                process = context.Process(target=_with_one_thread, args=(target, arguments))
                process.start()
                running[process.sentinel] = job, process
            for sentinel in wait(list(running)):
                job, process = running.pop(sentinel)
                process.join()
                if process.exitcode != 0:
                    raise LewmError(f"the process of {job} ended with status {process.exitcode} (-9: killed, often for want of memory)")
                yield job
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _with_one_thread(target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for who waits, who ends this process
    torch.set_num_threads(1)
    target(*arguments)
