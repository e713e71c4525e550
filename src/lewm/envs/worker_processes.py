"""Child processes that answer requests, and what is known of one that dies: the ground under pooled worlds and parallel collection."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Protocol

from lewm.errors import LewmError

SECONDS_TO_CLOSE = 5.0
"""How long a process that is told to end may take before it is killed."""


class WorkerDiedError(Exception):
    """The process of a worker is gone; the message says which one and how."""


class Servant(Protocol):
    """What lives in a worker process: its methods are the requests."""

    def close(self) -> None:
        """Called when the worker ends in good order."""


class WorkerProcess:
    """A process that makes a servant and answers requests to call its methods, in their order.

    ``make_servant`` must be importable (the process is started anew, not forked). The process ignores Ctrl-C, which is its parent's business, and
    ends when its parent does, however that came about.
    """

    def __init__(self, make_servant: Callable[[], Servant]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make_servant, theirs), daemon=True)
        self._has_answered = False
        with _interrupts_held_back():
            self._process.start()
        theirs.close()  # so that reading from a dead worker ends instead of waiting

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    @property
    def could_not_start(self) -> bool:
        """Whether a dead worker failed before its first answer with a Python error, as in a script without a main guard."""
        return not self._has_answered and self._process.exitcode == 1

    def request(self, method: str, *arguments: Any) -> None:
        """Ask for a call of the servant's method; ``WorkerDiedError`` if there is nobody to ask."""
        try:
            self.connection.send((method, arguments))
        except OSError:
            raise self._death() from None

    def answer(self) -> Any:
        """The next answer, waiting for it; an error of the servant's is raised here, ``WorkerDiedError`` if there will be none."""
        try:
            is_error, value = self.connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        self._has_answered = True
        if is_error:
            raise value
        return value

    def close(self, *, at_once: bool = False) -> None:
        """End the process: in good order if it is idle, by force if it is busy or ``at_once``; harmless when called twice."""
        self.connection.close()
        if not at_once:
            self._process.join(SECONDS_TO_CLOSE)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def _death(self) -> WorkerDiedError:
        self._process.join(SECONDS_TO_CLOSE)
        if self._process.is_alive():  # it closed its end but did not go
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else f"signal {_signal_name(-code)}"
        return WorkerDiedError(f"worker process {self.pid} died ({how})")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let a process be born deaf to Ctrl-C, which would otherwise reach it before it can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(make_servant: Callable[[], Servant], connection: Connection) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.closing(make_servant()) as servant:
        while True:
            try:
                method, arguments = connection.recv()
            except (EOFError, OSError):
                return
            try:
                answer = (False, getattr(servant, method)(*arguments))
            except Exception as error:  # noqa: BLE001 - it is the caller's: raised by its answer()
                answer = (True, _sendable(error))
            try:
                connection.send(answer)
            except OSError:
                return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    """The error with the worker's traceback as a note, or the nearest thing to it that can be pickled; a user's mistake needs no traceback."""
    text = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does when pickled
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(copy, LewmError):
        copy.add_note(f"in a worker process:\n{text}")
    return copy
