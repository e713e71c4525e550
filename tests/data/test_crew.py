"""Collecting with worker processes: what is lost when one of them dies, and what is not."""

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.data.collect import CollectionProgress, collect
from lewm.data.episodes import EpisodeStore
from lewm.envs.base import EpisodeError
from lewm.errors import DataError, EnvError
from lewm.registry import ENVS, POLICIES, Entry, register
from lewm.seeds import episode_seed

if "deadly-walk" not in ENVS:
    ENVS.add("deadly-walk", Entry(target="deadly_world:DeadlyWalk", summary="the tests' own world that kills its process"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few episodes."""
    monkeypatch.setattr("lewm.data.layout.SHARD_TARGET_BYTES", 2**15)


def collect_deadly(out: Path, deadly_episode: int = -1, *, cure: Path | str = "", is_cured_by_death: bool = False, **changes: Any) -> EpisodeStore:
    """20 episodes, 5 to a shard; the process that records ``deadly_episode`` dies, unless there is a cure."""
    seed = -1 if deadly_episode < 0 else episode_seed("training", 0, deadly_episode)
    options = {"deadly_seed": seed, "cure": str(cure), "is_cured_by_death": is_cured_by_death}
    return collect("deadly-walk", out, **({"episodes": 20, "max_env_steps": 40, "env_options": options} | changes))


def files_of(store: EpisodeStore) -> dict[str, bytes]:
    """The content of every shard."""
    return {str(path.relative_to(store.path)): path.read_bytes() for path in sorted((store.path / "shards").rglob("*")) if path.is_file()}


@pytest.mark.faults
def test_a_unit_whose_worker_died_is_reported_and_recorded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = collect_deadly(tmp_path / "a", 7, cure=tmp_path / "died", is_cured_by_death=True, workers=2, batch_size=3)
    assert (tmp_path / "died").exists()
    seeds = ", ".join(str(episode_seed("training", 0, number)) for number in (5, 6, 7))
    said = rf"worker process \d+ died \(signal SIGKILL\) while it recorded episodes 5 to 7 \(seeds {seeds}\); another one records them again"
    assert len(re.findall(said, caplog.text)) == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert files_of(store) == files_of(collect_deadly(tmp_path / "b"))
    assert not list((tmp_path / "a").glob(".writing-*"))


@pytest.mark.faults
def test_a_worker_killed_from_outside_changes_no_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed = []

    def kill_one(now: CollectionProgress) -> None:
        if not killed:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    options: dict[str, Any] = {"episodes": 40, "max_env_steps": 30, "env_options": {"size_px": 64}}
    store = collect("two-room", tmp_path / "a", workers=2, batch_size=2, progress=kill_one, **options)
    assert f"worker process {killed[0]} died (signal SIGKILL)" in caplog.text
    assert files_of(store) == files_of(collect("two-room", tmp_path / "b", **options))


@pytest.mark.faults
def test_episodes_that_always_kill_their_worker_are_named_and_all_other_shards_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"3 worker processes each died recording episodes 7 to 7 \(seeds {episode_seed('training', 0, 7)}\)"):
        collect_deadly(tmp_path / "a", 7, workers=2, batch_size=1)
    assert not list((tmp_path / "a").glob(".writing-*"))
    healthy = collect_deadly(tmp_path / "b")
    assert len(EpisodeStore(tmp_path / "a")) == healthy.meta.episodes_per_shard < 8
    kept = {path.name for path in (tmp_path / "a/shards").iterdir()}
    assert kept == {path.name for path in (tmp_path / "b/shards").iterdir()} - {"00001"}
    for name in kept:
        assert (tmp_path / "a/shards" / name / "labels.npy").read_bytes() == (tmp_path / "b/shards" / name / "labels.npy").read_bytes()


@pytest.mark.faults
def test_a_collection_goes_on_when_the_cause_of_its_deaths_is_gone(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"cure": tmp_path / "cure", "workers": 2, "batch_size": 3}
    with pytest.raises(DataError, match=r"all finished shards are kept: .* then go on with --resume"):
        collect_deadly(tmp_path / "a", 7, **settings)
    written = {path.name: path.stat().st_ino for path in (tmp_path / "a/shards").iterdir()}
    assert sorted(written) == ["00000", "00002", "00003"]
    (tmp_path / "cure").touch()
    resumed = collect_deadly(tmp_path / "a", 7, resume=True, **settings)
    assert files_of(resumed) == files_of(collect_deadly(tmp_path / "b"))
    assert {name: (tmp_path / "a/shards" / name).stat().st_ino for name in written} == written  # not written anew


def test_an_error_of_the_world_in_a_worker_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match="the policy 'ou' needs continuous actions and this world's are of kind 'discrete'"):
        collect("toy-walk", tmp_path / "a", episodes=8, policy="ou", workers=2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_episodes_that_the_world_cannot_go_on_with_are_named_and_all_other_shards_kept(tmp_path: Path, workers: int) -> None:
    if "diverging-walk" not in ENVS:
        ENVS.add("diverging-walk", Entry(target="deadly_world:DivergingWalk", summary="the tests' own world that diverges"))
    seed = episode_seed("training", 0, 7)
    settings: dict[str, Any] = {"episodes": 20, "max_env_steps": 40, "env_options": {"bad_seed": seed}, "workers": workers, "batch_size": 1}
    with pytest.raises(EpisodeError, match=rf"could not go on with episodes 7 to 7 \(seeds {seed}\): it diverged\. All finished shards are kept"):
        collect("diverging-walk", tmp_path / "a", **settings)
    assert sorted(path.name for path in (tmp_path / "a/shards").iterdir()) == ["00000", "00002", "00003"]
    assert not list((tmp_path / "a").glob(".writing-*"))


def test_a_family_registered_at_run_time_is_known_in_the_workers(tmp_path: Path) -> None:
    if "my/" not in ENVS:
        ENVS.add("my/", Entry(target="toy_world:family", summary="the tests' own family"))
    mine = collect("my/walk", tmp_path / "a", episodes=4, workers=2)
    assert files_of(mine) == files_of(collect("toy-walk", tmp_path / "b", episodes=4))


def test_a_policy_registered_at_run_time_is_known_in_the_workers(tmp_path: Path) -> None:
    if "tests-random" not in POLICIES:
        register("policies", "tests-random", "lewm.envs.policies:RandomPolicy")
    mine = collect("toy-walk", tmp_path / "a", episodes=8, policy="tests-random", workers=2)
    assert files_of(mine) == files_of(collect("toy-walk", tmp_path / "b", episodes=8, policy="random"))


def test_progress_counts_what_is_recorded_and_what_is_safe(tmp_path: Path) -> None:
    for workers in (1, 2):
        told: list[CollectionProgress] = []
        store = collect_deadly(tmp_path / str(workers), workers=workers, batch_size=2, progress=told.append)
        assert [now.num_recorded for now in told] == sorted(now.num_recorded for now in told)
        assert all(now.num_written <= now.num_recorded <= now.num_episodes == 20 for now in told)
        assert len(told) == 13  # after 2, 2 and 1 episodes of each of four shards, and when the disk is done
        assert told[-1].num_written == 20
        assert told[-1].num_frames == store.num_env_steps + 20
        assert 0 < told[-1].num_bytes <= store.num_bytes
        assert told[-1].frames_per_s > 0


COLLECT = """
import sys
import lewm.data.layout
from lewm.data.collect import collect

if __name__ == "__main__":
    lewm.data.layout.SHARD_TARGET_BYTES = 2**22
    collect("two-room", sys.argv[1], episodes=2000, max_env_steps=40, env_options={"size_px": 96}, workers=2)
"""


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.faults
def test_ctrl_c_leaves_no_process_and_no_unfinished_file(tmp_path: Path) -> None:
    script, out = tmp_path / "collect_it.py", tmp_path / "d"
    script.write_text(COLLECT)
    process = subprocess.Popen([sys.executable, script, out], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out / "shards/00000").exists():
        time.sleep(0.01)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) >= 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, said = process.communicate(timeout=30)
    assert said.count("Traceback") == 1, "the workers say nothing"
    assert said.strip().endswith("KeyboardInterrupt")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_alive, children)):
        time.sleep(0.05)
    assert not any(map(is_alive, children))
    assert not list(out.glob(".writing-*"))
    store = EpisodeStore(out)
    store.verify()
    assert 0 < len(store) < 2000


def test_worlds_are_kept_between_units_and_closed_at_the_end(tmp_path: Path) -> None:
    from toy_world import ToyWalkBatch

    open_before = ToyWalkBatch.num_open
    most_open = []
    collect(
        "toy-walk",
        tmp_path / "a",
        episodes=20,
        batch_size=4,
        policy="random",
        progress=lambda _now: most_open.append(ToyWalkBatch.num_open - open_before),
    )
    assert max(most_open) <= 2
    assert ToyWalkBatch.num_open == open_before


def test_the_worlds_own_time_limit_ends_an_episode(tmp_path: Path) -> None:
    store = collect("toy-walk", tmp_path / "a", episodes=10, max_env_steps=40, env_options={"max_env_steps": 9}, policy="random")
    assert (store.index["length"] <= 9).all()
    is_truncated = store.index["length"] == 9
    assert is_truncated.sum() > 5
    assert not store.index["terminated"][is_truncated].all()
    whole = collect("toy-walk", tmp_path / "b", episodes=10, max_env_steps=9, policy="random")
    np.testing.assert_array_equal(store.index["length"], whole.index["length"])
    np.testing.assert_array_equal(store.episode(3).labels, whole.episode(3).labels)


def test_a_dataset_from_before_action_repeat_was_recorded_can_be_continued(tmp_path: Path) -> None:
    collect("toy-walk", tmp_path / "a", episodes=4, policy="random")
    file = tmp_path / "a/meta.json"
    old = re.sub(r',\s*"action_repeat": 1', "", file.read_text())
    assert "action_repeat" not in old
    file.write_text(old)
    resumed = collect("toy-walk", tmp_path / "a", episodes=6, policy="random", resume=True)
    assert resumed.dataset_sha256 == collect("toy-walk", tmp_path / "b", episodes=6, policy="random").dataset_sha256
    with pytest.raises(DataError, match=r"was made with action_spec\.action_repeat 1, not 2"):
        collect("toy-walk", tmp_path / "a", episodes=8, policy="random", resume=True, env_options={"action_repeat": 2})
