"""Jobs in processes of their own: what becomes of those that fail, and of those that are left when the loop ends."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from lewm.errors import LewmError
from lewm.lab.processes import run_apart


def note(place: Path, name: str) -> None:
    (place / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def note_and_stay(place: Path, name: str) -> None:
    note(place, name)
    time.sleep(0 if name == "quick" else 600)


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
        while not (tmp_path / "long").exists() or not (tmp_path / "long").read_text():
            time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "long").read_text().split()[0]), 0)
    assert not (tmp_path / "never").exists()


def test_a_process_that_was_killed_is_named(tmp_path: Path) -> None:
    with pytest.raises(LewmError, match=r"the process of gone ended with status -9"):
        list(run_apart(die, {"gone": (tmp_path, "gone")}, 1))
