"""What a collection is said to take, against what it takes."""

import shutil
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from lewm.data.collect import collect
from lewm.data.collection_plan import cut_into_units, plan_dataset
from lewm.data.estimates import estimate_bytes, estimate_collection, format_bytes, format_duration
from lewm.errors import DataError
from lewm.seeds import episode_seed

TWO_ROOM: dict[str, Any] = {"env": "two-room", "max_env_steps": 30, "env_options": {"size_px": 48}}


def bytes_on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_the_bytes_are_an_upper_bound_and_a_close_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm.data.layout.SHARD_TARGET_BYTES", 2**20)
    estimated = estimate_bytes(plan_dataset(**TWO_ROOM), 50)
    store = collect(out=tmp_path / "d", episodes=50, **TWO_ROOM)
    written = bytes_on_disk(tmp_path / "d")
    assert store.num_shards > 5
    assert written <= estimated <= 1.05 * written + 2**17


def test_episodes_that_end_early_only_make_a_dataset_smaller_than_estimated(tmp_path: Path) -> None:
    meta = plan_dataset("toy-walk", max_env_steps=80)
    store = collect("toy-walk", tmp_path / "d", episodes=30, max_env_steps=80)
    assert store.index["terminated"].any()
    assert bytes_on_disk(tmp_path / "d") <= estimate_bytes(meta, 30)


def test_what_is_there_already_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lewm.data.layout.SHARD_TARGET_BYTES", 2**20)
    meta = plan_dataset(**TWO_ROOM)
    size = meta.episodes_per_shard
    collect(out=tmp_path / "d", episodes=2 * size, **TWO_ROOM)
    rest = estimate_collection(meta, tmp_path / "d", 5 * size, is_timed=False)
    assert rest.num_episodes == 3 * size
    assert rest.num_bytes < 0.65 * estimate_bytes(meta, 5 * size)


def test_the_time_is_about_right(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"env": "two-room", "max_env_steps": 60, "env_options": {"size_px": 128, "pixel_noise_std": 0.05}}
    start_s = time.perf_counter()
    estimate = estimate_collection(plan_dataset(**settings), tmp_path / "d", 40)
    timing_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    collect(out=tmp_path / "d", episodes=40, **settings)
    taken_s = time.perf_counter() - start_s
    assert estimate.seconds is not None
    assert taken_s / 8 < estimate.seconds < 8 * taken_s  # other work on the machine may change between the two
    assert timing_s < 2 + taken_s


def test_the_estimate_says_episodes_steps_disk_and_what_an_env_step_is() -> None:
    meta = plan_dataset("toy-walk", max_env_steps=50, env_options={"action_repeat": 4})
    said = str(estimate_collection(meta, Path("/"), 1000, is_timed=False))
    assert said.startswith("1,000 episodes of at most 50 env steps = 50,000 env steps, 1 env step = 4 emulator frames; at most ")
    assert "free disk" in said


def test_a_collection_that_does_not_fit_on_the_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(DataError, match=r"this collection may need 2\d\.\d MB, and '.*/d' has 1\.0 MB of free disk; collect fewer"):
        collect(out=tmp_path / "d", episodes=100, **TWO_ROOM)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("workers", "batch_size"), [(1, None), (2, None), (3, 4)])
def test_units_hold_every_missing_episode_once_and_never_two_shards(workers: int, batch_size: int | None) -> None:
    meta = plan_dataset("two-room", max_env_steps=100)
    size = meta.episodes_per_shard
    units = cut_into_units(meta, [(0, size), (2, size), (5, 7)], workers=workers, batch_size=batch_size)
    numbers = [number for unit in units for number in range(unit.first_episode, unit.first_episode + len(unit.seeds))]
    assert numbers == [*range(size), *range(2 * size, 3 * size), *range(5 * size, 5 * size + 7)]
    assert all(unit.shard == unit.first_episode // size == (unit.first_episode + len(unit.seeds) - 1) // size for unit in units)
    assert all(unit.seeds[0] == episode_seed("training", 0, unit.first_episode) for unit in units)
    assert max(len(unit.seeds) for unit in units) <= (batch_size or 16 * 2**20 // (meta.row_bytes * 101))
    assert len(units) >= workers


def test_sizes_and_times_are_said_as_people_say_them() -> None:
    assert [format_bytes(number) for number in (2_000, 1.3e6, 99.9e6, 2.34e9, 303e9, 1.5e12)] == [
        "2 kB", "1.3 MB", "100 MB", "2.3 GB", "303 GB", "1.5 TB",
    ]  # fmt: skip
    assert [format_duration(seconds) for seconds in (0.2, 80, 600, 7200)] == ["1 s", "80 s", "10 min", "2.0 h"]
