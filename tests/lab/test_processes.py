"""Jobs in processes of their own: what becomes of those that fail, and of those that are left when the loop ends."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from lewm.errors import DataError, LewmError
from lewm.lab.processes import run_apart


def note(place: Path, name: str) -> None:
    (place / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def note_and_stay(place: Path, name: str) -> None:
    note(place, name)
    time.sleep(0 if name == "quick" else 600)


def fail(place: Path, name: str) -> None:
    raise DataError(f"the disk of {name} is full: make room")


def ignore_an_interrupt(place: Path, name: str) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    note(place, name)


def work_for_somebody_who_dies(place: Path, name: str) -> None:
    """In a process of its own: starts a job that stays, and dies without a word once it has begun."""
    jobs = run_apart(note_and_stay, {"long": (place, "long")}, 1)
    threading.Thread(target=next, args=(jobs,), daemon=True).start()
    begun(place / "long")
    os.kill(os.getpid(), signal.SIGKILL)


def begun(file: Path) -> int:
    """The process of a job, once it has begun."""
    while not file.exists() or not file.read_text():
        time.sleep(0.05)
    return int(file.read_text().split()[0])


def die(place: Path, name: str) -> None:
    note(place, name)
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_job_has_a_process_of_its_own_with_one_thread(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    assert sorted(run_apart(note, {name: (tmp_path, name) for name in names}, 2)) == names
    processes, threads = zip(*(map(int, (tmp_path / name).read_text().split()) for name in names), strict=True)
    assert len({*processes, os.getpid()}) == 4
    assert threads == (1, 1, 1)


def test_a_loop_that_is_left_ends_the_processes_that_still_run(tmp_path: Path) -> None:
    jobs = {name: (tmp_path, name) for name in ("long", "quick", "never")}
    with closing(run_apart(note_and_stay, jobs, 2)) as finished:
        assert next(finished) == "quick"
        process = begun(tmp_path / "long")
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not (tmp_path / "never").exists()


def test_a_process_that_was_killed_is_named(tmp_path: Path) -> None:
    with pytest.raises(LewmError, match=r"gone: worker process \d+ died \(signal SIGKILL\); a process that is killed often wants more memory"):
        list(run_apart(die, {"gone": (tmp_path, "gone")}, 1))


def test_an_error_of_a_job_is_raised_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the disk of cell is full: make room"):
        list(run_apart(fail, {"cell": (tmp_path, "cell")}, 1))


def test_an_interrupt_is_not_for_the_processes(tmp_path: Path) -> None:
    assert list(run_apart(ignore_an_interrupt, {"cell": (tmp_path, "cell")}, 1)) == ["cell"]
    assert (tmp_path / "cell").exists()


@pytest.mark.faults
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    mother = multiprocessing.get_context("spawn").Process(target=work_for_somebody_who_dies, args=(tmp_path, "mother"))
    mother.start()
    mother.join(60)
    assert mother.exitcode == -signal.SIGKILL
    process = begun(tmp_path / "long")
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("it lives on")
