"""Collection: the same data whatever the batch size, the number of workers and the interruptions."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.data.collect import CollectionProgress, collect, prepare
from lewm.data.episodes import EpisodeStore
from lewm.errors import ConfigError, DataError, EnvError, UnknownNameError
from lewm.seeds import episode_seed


def collect_toy(out: Path, **changes: Any) -> EpisodeStore:
    return collect("toy-walk", out, **({"episodes": 20, "policy": "random", "max_env_steps": 40} | changes))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few episodes."""
    monkeypatch.setattr("lewm.data.layout.SHARD_TARGET_BYTES", 2**15)


def test_an_episode_shows_what_the_world_did(tmp_path: Path) -> None:
    store = collect_toy(tmp_path / "d")
    assert len(store) == 20
    for number in range(20):
        episode = store.episode(number)
        frames, labels, N = episode.observations.frames, episode.labels, episode.num_env_steps
        assert episode.seed == episode_seed("training", 0, number)
        np.testing.assert_array_equal(frames[:, 0, 0, 0, 0], labels[:, 0])
        np.testing.assert_array_equal(frames[:, 0, 0, 0, 1], np.arange(N + 1))
        assert (frames[:, :, 0, 0, 2] == episode.seed % 251 + np.arange(2)).all()
        np.testing.assert_array_equal(labels[1:, 0], np.clip(labels[:-1, 0] + episode.actions - 1, 0, 15))
        np.testing.assert_array_equal(episode.rewards, episode.actions - 1)
        np.testing.assert_array_equal(episode.observations.proprioception[1:, 1], episode.actions - 1)


def test_an_episode_ends_when_its_world_does_and_not_when_others_do(tmp_path: Path) -> None:
    store = collect_toy(tmp_path / "d", max_env_steps=80)
    terminated, lengths = store.index["terminated"], store.index["length"]
    assert 0 < terminated.sum() < 20
    assert (lengths[~terminated] == 80).all()
    for number in np.flatnonzero(terminated):
        places = store.episode(int(number)).labels[:, 0]
        assert places[-1] == 15
        assert (places[:-1] < 15).all()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_no_byte(tmp_path: Path, batch_size: int, small_shards: None) -> None:
    one = collect_toy(tmp_path / "a", batch_size=7)
    other = collect_toy(tmp_path / "b", batch_size=batch_size)
    assert one.num_shards > 2
    assert one.dataset_sha256 == other.dataset_sha256


@pytest.mark.slow
def test_workers_change_no_byte(tmp_path: Path, small_shards: None) -> None:
    told: list[tuple[int, int]] = []
    alone = collect_toy(tmp_path / "a")
    together = collect_toy(tmp_path / "b", workers=2, progress=lambda now: told.append((now.num_written, now.num_episodes)))
    assert together.dataset_sha256 == alone.dataset_sha256
    np.testing.assert_array_equal(together.index, alone.index)
    assert told[-1] == (20, 20)


def test_continuous_actions_of_two_room_lie_within_their_bounds(tmp_path: Path) -> None:
    store = collect("two-room", tmp_path / "d", episodes=3, max_env_steps=20, env_options={"size_px": 32})
    actions = store.episode(2).actions
    assert actions.shape == (20, 2)
    assert np.abs(actions).max() <= 1
    assert store.env["name"] == "two-room"
    assert store.meta.provenance["versions"]["numpy"] == np.__version__


def test_appending_more_episodes_gives_the_same_dataset(tmp_path: Path, small_shards: None) -> None:
    at_once = collect_toy(tmp_path / "a")
    collect_toy(tmp_path / "b", episodes=5)
    told: list[tuple[int, int]] = []
    appended = collect_toy(tmp_path / "b", resume=True, progress=lambda now: told.append((now.num_written, now.num_episodes)))
    assert appended.dataset_sha256 == at_once.dataset_sha256
    assert told[-1] == (20, 20)


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "missing file", "missing shard", "no index"])
def test_resuming_mends_what_is_damaged(tmp_path: Path, damage: str, small_shards: None) -> None:
    original = collect_toy(tmp_path / "d")
    shard = tmp_path / "d/shards/00001"
    file = shard / "labels.npy"
    content = file.read_bytes()
    match damage:
        case "truncated":
            file.write_bytes(content[:-100])
        case "flipped bit":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "missing file":
            file.unlink()
        case "missing shard":
            shutil.rmtree(shard)
        case "no index":
            (tmp_path / "d/episodes.npy").unlink()
    mended = collect_toy(tmp_path / "d", resume=True)
    mended.verify()
    assert mended.dataset_sha256 == original.dataset_sha256
    assert file.read_bytes() == content


def test_resuming_with_another_seed_policy_or_option_is_refused(tmp_path: Path) -> None:
    collect_toy(tmp_path / "d", episodes=2)
    with pytest.raises(DataError, match=r"already exists; continue it with --resume"):
        collect_toy(tmp_path / "d", episodes=2)
    for changes, message in (
        ({"seed": 1}, r"was made with collection\.seed 0, not 1"),
        ({"policy": "block-random"}, r"was made with policy\.name 'random', not 'block-random'"),
        ({"env_options": {"size_px": 5}}, r"was made with env\.options\.size_px None, not 5"),
        ({"max_env_steps": 41}, r"was made with collection\.max_env_steps 40, not 41"),
        ({"episodes": 1}, "already has more than 1 episodes"),
    ):
        with pytest.raises(DataError, match=message):
            collect_toy(tmp_path / "d", **({"episodes": 2, "resume": True} | changes))


def test_names_and_values_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "d"
    with pytest.raises(UnknownNameError, match=r"unknown env 'two-rom'\. Did you mean 'two-room'"):
        collect("two-rom", out, episodes=1)
    with pytest.raises(UnknownNameError, match=r"unknown policy 'exprt' for env 'two-room'\. Did you mean 'expert'"):
        collect("two-room", out, episodes=1, policy="exprt")
    with pytest.raises(ConfigError, match="unknown option 'nois' of policy 'expert'"):
        collect("two-room", out, episodes=1, policy_options={"nois": 1})
    with pytest.raises(EnvError, match="kind must be"):
        collect_toy(out, env_options={"kind": "both"})
    with pytest.raises(ConfigError, match="episodes must be at least 1, got 0"):
        collect_toy(out, episodes=0)
    assert not out.exists()


def test_an_interruption_keeps_the_finished_shards(tmp_path: Path, small_shards: None) -> None:
    def interrupt(now: CollectionProgress) -> None:
        if now.num_written > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_toy(tmp_path / "d", progress=interrupt)
    assert len(EpisodeStore(tmp_path / "d")) > 8
    assert collect_toy(tmp_path / "d", resume=True).dataset_sha256 == collect_toy(tmp_path / "e").dataset_sha256


COLLECT = """
import sys
import lewm.data.layout
from lewm.data.collect import CollectionProgress, collect

if __name__ == "__main__":
    lewm.data.layout.SHARD_TARGET_BYTES = 2**23
    collect("two-room", sys.argv[1], episodes=60, max_env_steps=20, env_options={"size_px": 128}, seed=2, workers=int(sys.argv[2]))
"""


@pytest.mark.faults
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_collection_resumes_without_losing_a_finished_shard(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm.data.layout.SHARD_TARGET_BYTES", 2**23)
    settings: dict[str, Any] = {"episodes": 60, "max_env_steps": 20, "env_options": {"size_px": 128}, "seed": 2}
    out, shards = tmp_path / "d", tmp_path / "d/shards"
    script = tmp_path / "collect_it.py"
    script.write_text(COLLECT)
    process = subprocess.Popen([sys.executable, script, out, str(workers)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None and len(list(shards.glob("0*"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(0.5 if workers > 1 else 0)  # the workers notice that they are orphans
    finished = {path.name: path.stat().st_ino for path in shards.glob("0*")}
    assert 2 <= len(finished) < 10
    resumed = collect("two-room", out, resume=True, **settings)
    assert resumed.dataset_sha256 == collect("two-room", tmp_path / "e", **settings).dataset_sha256
    resumed.verify()
    assert {name: (shards / name).stat().st_ino for name in finished} == finished  # not written anew
    assert not list(shards.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"max_env_steps": 2.5}, "max_env_steps must be a whole number, got 2.5"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    for check in (collect, prepare):
        with pytest.raises(ConfigError, match=message):
            check("toy-walk", tmp_path / "d", **({"episodes": 2} | changes))
    assert not (tmp_path / "d").exists()


def test_preparing_refuses_what_collecting_would(tmp_path: Path) -> None:
    collect_toy(tmp_path / "d", episodes=3)
    settings: dict[str, Any] = {"policy": "random", "max_env_steps": 40, "episodes": 3}
    with pytest.raises(DataError, match="already exists"):
        prepare("toy-walk", tmp_path / "d", **settings)
    for changes, message in (({"seed": 1}, r"was made with collection\.seed 0, not 1"), ({"episodes": 2}, "already has more than 2 episodes")):
        with pytest.raises(DataError, match=message):
            prepare("toy-walk", tmp_path / "d", resume=True, **(settings | changes))
    assert prepare("toy-walk", tmp_path / "d", resume=True, **settings).collection == {"seed": 0, "max_env_steps": 40}


@pytest.mark.parametrize(
    ("name", "policy"),
    [pytest.param("dmc/reacher-easy", "expert", marks=pytest.mark.mujoco), pytest.param("atari/pong", "random", marks=pytest.mark.atari)],
)
def test_workers_change_no_byte_of_a_simulator(tmp_path: Path, name: str, policy: str) -> None:
    settings: dict[str, Any] = {"episodes": 2, "max_env_steps": 5, "policy": policy, "env_options": {"size_px": 16}}
    alone, together = (collect(name, tmp_path / str(workers), workers=workers, batch_size=1, **settings) for workers in (1, 2))
    files = [{str(path.relative_to(store.path)): path.read_bytes() for path in (store.path / "shards").rglob("*.npy")} for store in (alone, together)]
    assert files[0] == files[1]
    assert len(files[0]) >= 4
    assert alone.dataset_sha256 == together.dataset_sha256


@pytest.mark.mujoco
def test_continuing_with_another_release_or_renderer_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"max_env_steps": 2, "policy": "random", "env_options": {"size_px": 16}}
    collect("dmc/reacher-easy", tmp_path / "d", episodes=1, **settings)
    collect("dmc/reacher-easy", tmp_path / "d", episodes=1, resume=True, **settings)
    assert not caplog.records
    file = tmp_path / "d/meta.json"
    meta = json.loads(file.read_text())
    meta["provenance"]["versions"]["mujoco"] = "1.2.3"
    meta["provenance"]["rendering"]["gl_renderer"] = "a pencil"
    file.write_text(json.dumps(meta))
    collect("dmc/reacher-easy", tmp_path / "d", episodes=2, resume=True, **settings)
    assert re.search(r"continued with other software.*: mujoco 1\.2\.3 there and \S+ here, rendering .*a pencil.* there and .* here", caplog.text)


@pytest.mark.atari
def test_a_game_may_be_spelled_another_way_when_it_is_continued(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_env_steps": 2, "policy": "random", "env_options": {"size_px": 16}}
    store = collect("atari/mspacman", tmp_path / "d", episodes=1, **settings)
    assert store.env["name"] == "atari/ms_pacman"
    file = tmp_path / "d/meta.json"
    file.write_text(file.read_text().replace("ms_pacman", "mspacman"))  # as earlier versions recorded it
    for spelling in ("mspacman", "ms_pacman"):
        assert len(collect(f"atari/{spelling}", tmp_path / "d", episodes=2, resume=True, **settings)) == 2
