"""Lance and Minari when processes are killed, find the disk full, or fork: nothing is left that a reader would take for more than it is."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import FULL_META, assert_same_episode, make_episode

from lewm.data.formats.store import load_format, open_store
from lewm.errors import DataError

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from recordings import FULL_META, make_episode
from lewm.data.formats import lance_sink
from lewm.data.formats.store import load_format
lance_sink.EPISODES_PER_COMMIT = 2
with load_format({name!r}).create(Path({path!r}), FULL_META, resume=False) as sink:
    for number in range({count}):
        sink.append(make_episode(FULL_META, number, 4))
        print(number, flush=True)
"""
FORKED = """
import os, sys
sys.path.insert(0, {tests!r})
from recordings import FULL_META, assert_same_episode, make_episode
from lewm.data.formats.store import open_store
from lewm.errors import DataError
store = open_store({path!r})
store.episode(0)
process = os.fork()
if process:
    assert_same_episode(store.episode(1), make_episode(FULL_META, 1, 4))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
try:
    assert_same_episode(store.episode(1), make_episode(FULL_META, 1, 4))
    os._exit(7)
except DataError as error:
    os._exit(8 if "start processes with 'spawn'" in str(error) else 9)
"""
FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({num_bytes}, {num_bytes}))
"""
NAMES = {"lance": "t.lance", "minari": "t-v0"}


def start(name: str, path: Path, before: str = "", count: int = 10**6) -> subprocess.Popen[str]:
    text = before + CHILD.format(tests=str(Path(__file__).parent), name=name, path=str(path), count=count)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_writer_goes_on_with_the_episodes_that_are_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / NAMES[name]
    with start(name, path) as child:
        assert child.stdout is not None
        while child.stdout.readline() != "8\n":
            assert child.poll() is None
        child.kill()
    with load_format(name).create(path, FULL_META, resume=True) as sink:
        num_kept = len(sink)
        sink.append(make_episode(FULL_META, num_kept, 4))
    store = open_store(path)
    assert len(store) == num_kept + 1 >= 9
    for number in range(len(store)):
        assert_same_episode(store.episode(number), make_episode(FULL_META, number, 4))


@pytest.mark.faults
@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_sentence(name: str, tmp_path: Path) -> None:
    with start(name, tmp_path / NAMES[name], FULL_DISK.format(num_bytes=20_000)) as child:
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "lewm.errors.DataError: " in errors.splitlines()[-1]
    assert "cannot write" in errors.splitlines()[-1] or "no space left" in errors.splitlines()[-1]


@pytest.mark.faults
@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
def test_a_disk_that_is_full_when_episodes_become_a_minari_dataset_loses_none(tmp_path: Path) -> None:
    with start("minari", tmp_path / "t-v0", FULL_DISK.format(num_bytes=100_000), count=6) as child:
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "no space left to write" in errors.splitlines()[-1]
    with load_format("minari").create(tmp_path / "t-v0", FULL_META, resume=True) as sink:
        assert len(sink) == 6
    assert_same_episode(open_store(tmp_path / "t-v0").episode(5), make_episode(FULL_META, 5, 4))


def exit_code_of_fork(name: str, path: Path) -> int:
    """Of a child that reads from a store which its parent opened: 7 if it could, 8 if it was refused as it should be."""
    with load_format(name).create(path, FULL_META, resume=False) as sink:
        for number in range(2):
            sink.append(make_episode(FULL_META, number, 4))
    text = FORKED.format(tests=str(Path(__file__).parent), path=str(path))
    return subprocess.run([sys.executable, "-c", text], capture_output=True, timeout=60, check=False).returncode


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
def test_a_forked_process_reads_from_minari_what_its_parent_reads(tmp_path: Path) -> None:
    assert exit_code_of_fork("minari", tmp_path / "t-v0") == 7


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
def test_a_forked_process_is_told_that_lance_does_not_survive_it(tmp_path: Path) -> None:
    assert exit_code_of_fork("lance", tmp_path / "t.lance") == 8


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_of_another_kind_is_not_written(name: str, tmp_path: Path) -> None:
    episode = dataclasses.replace(make_episode(FULL_META, 0, 4), rewards=None)
    with load_format(name).create(tmp_path / NAMES[name], FULL_META, resume=False) as sink:
        with pytest.raises(DataError, match="the dataset has a column 'rewards', but the episode has none"):
            sink.append(episode)
        assert len(sink) == 0
