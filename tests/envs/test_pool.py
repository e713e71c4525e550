"""A pool is the plain batch, however many processes it has and whatever becomes of them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.envs.base import GoalEnvBatch, make_batch
from lewm.envs.pool import PooledBatch, make_pool
from lewm.errors import ConfigError, EnvError
from lewm.registry import ENVS, Entry

for name in ("toy-walk", "deadly-walk"):
    if name not in ENVS:
        target = {"toy-walk": "toy_world:ToyWalk", "deadly-walk": "deadly_world:DeadlyWalk"}[name]
        ENVS.add(name, Entry(target=target, summary="the tests' own world"))

WORLDS: dict[str, dict[str, Any]] = {
    "toy-walk": {"max_env_steps": 3},
    "two-room": {"size_px": 24, "vary": ("pixel_noise_std", "door_y_px"), "max_env_steps": 3},
}
EXTRA_WORLDS = [
    pytest.param("dmc/quadruped-walk", {"size_px": 16}, marks=pytest.mark.mujoco),
    pytest.param("atari/pong", {"size_px": 16}, marks=pytest.mark.atari),
]
"""Each has something of its own: float64 bounds that float32 rounds up; emulators."""


def some_actions(batch: GoalEnvBatch, env_step: int) -> np.ndarray:
    generator, spec = np.random.default_rng(env_step), batch.action_spec
    if spec.kind == "discrete":
        return generator.integers(spec.num_choices, size=batch.num_envs)
    return generator.uniform(spec.low, spec.high, (batch.num_envs, spec.dimension)).astype(np.float32)


def assert_same_worlds(pool: GoalEnvBatch, plain: GoalEnvBatch) -> None:
    """Everything that can be asked of two batches."""
    for ask in ("labels", "is_solved", "is_truncated", "get_states"):
        np.testing.assert_array_equal(getattr(pool, ask)(), getattr(plain, ask)())
    for ask in ("observe", "observe_goals"):
        seen, expected = getattr(pool, ask)(), getattr(plain, ask)()
        np.testing.assert_array_equal(seen.frames, expected.frames)
        np.testing.assert_array_equal(seen.proprioception, expected.proprioception)


@pytest.fixture
def new_pool() -> Iterator[Callable[..., PooledBatch]]:
    """Makes pools that are closed at the end."""
    pools = []

    def make(*arguments: Any, **options: Any) -> PooledBatch:
        pools.append(make_pool(*arguments, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("name", WORLDS)
def test_a_pool_answers_everything_as_the_plain_batch_does(name: str, workers: int, new_pool: Callable[..., PooledBatch]) -> None:
    pool, plain = new_pool(name, 5, workers, **WORLDS[name]), make_batch(name, 5, **WORLDS[name])
    assert len(pool.pids) == workers
    for attribute in ("num_envs", "observation_spec", "action_spec", "label_names", "goal_label_names"):
        assert getattr(pool, attribute) == getattr(plain, attribute)
    for batch in (pool, plain):
        batch.reset([11, 12, 13, 14, 15])
    assert_same_worlds(pool, plain)
    middle = None
    for env_step in range(4):
        actions = some_actions(plain, env_step)
        for answer, expected in zip(pool.step(actions), plain.step(actions), strict=True):
            assert answer.dtype == expected.dtype
            np.testing.assert_array_equal(answer, expected)
        assert_same_worlds(pool, plain)
        middle = middle or pool.get_states()
    assert plain.is_truncated().all()
    for batch in (pool, plain):
        batch.set_goals(plain.get_states()[::-1])
        batch.set_states(middle)
        batch.set_goals(middle[::-1])
    assert_same_worlds(pool, plain)
    assert pool.at_rest(middle) == plain.at_rest(middle)
    assert pool.at_rest(middle[:2]) == plain.at_rest(middle[:2])
    labels = plain.labels()
    np.testing.assert_array_equal(pool.strata(labels, labels[::-1]), plain.strata(labels, labels[::-1]))


@pytest.mark.parametrize(("name", "options"), EXTRA_WORLDS)
def test_a_pool_of_simulators_gives_what_one_process_does(name: str, options: dict[str, Any], new_pool: Callable[..., PooledBatch]) -> None:
    pool, plain = new_pool(name, 2, 2, **options), make_batch(name, 2, **options)
    for batch in (pool, plain):
        batch.reset([11, 12])
    spec = plain.action_spec
    for env_step in range(4):
        actions = some_actions(plain, env_step) if env_step or spec.kind == "discrete" else np.array([spec.high] * 2, np.float32)
        for answer, expected in zip(pool.step(actions), plain.step(actions), strict=True):
            np.testing.assert_array_equal(answer, expected)
    assert_same_worlds(pool, plain)
    plain.close()


def test_a_family_that_only_the_parent_knows_is_made_in_the_workers(new_pool: Callable[..., PooledBatch]) -> None:
    if "my/" not in ENVS:
        ENVS.add("my/", Entry(target="toy_world:family", summary="the tests' own family"))
    pool, plain = new_pool("my/walk", 2, 2), make_batch("toy-walk", 2)
    for batch in (pool, plain):
        batch.reset([1, 2])
    assert_same_worlds(pool, plain)


def test_an_array_of_another_kind_is_not_drawn_into(new_pool: Callable[..., PooledBatch]) -> None:
    pool = new_pool("toy-walk", 2, 1)
    pool.reset([1, 2])
    frames = pool.observe().frames
    for out in (np.zeros(frames.shape, np.float32), np.zeros((1, *frames.shape[1:]), np.uint8)):
        with pytest.raises(EnvError, match=r"out must be uint8 \(2, 2, 4, 5, 3\), got"):
            pool.observe(out=out)


def test_frames_are_drawn_into_the_given_array_and_belong_to_the_caller(new_pool: Callable[..., PooledBatch]) -> None:
    pool = new_pool("toy-walk", 3, 2)
    pool.reset([1, 2, 3])
    first = pool.observe()
    kept = first.frames.copy()
    pool.step(np.array([2, 2, 2]))
    out = np.empty_like(kept)
    assert pool.observe(out=out).frames is out
    assert (out != kept).any()
    np.testing.assert_array_equal(first.frames, kept)


def test_a_mistake_is_reported_as_by_the_plain_batch_and_moves_no_row(new_pool: Callable[..., PooledBatch]) -> None:
    pool, plain = new_pool("two-room", 4, 2, size_px=16), make_batch("two-room", 4, size_px=16)
    with pytest.raises(EnvError, match="this environment has no episode yet; call reset"):
        pool.labels()
    for batch in (pool, plain):
        batch.reset([1, 2, 3, 4])
        batch.step(np.full((4, 2), 0.5))
    states = pool.get_states()
    with pytest.raises(EnvError, match=re.escape("this is not a state of 'two-room'")):
        pool.set_states([*states[::-1][:3], b"nonsense"])
    assert_same_worlds(pool, plain)
    wrong = np.zeros((4, 2))
    wrong[3, 1] = np.nan
    with pytest.raises(EnvError, match=r"finite and within .* got \[0.0, nan\] for episode 3"):
        pool.step(wrong)
    with pytest.raises(EnvError, match=r"actions must be numbers of shape \(4, 2\), got float64 \(3, 2\)"):
        pool.step(np.zeros((3, 2)))
    with pytest.raises(EnvError, match="seeds: got 2 for 4 episodes"):
        pool.reset([1, 2])
    assert_same_worlds(pool, plain)


def test_a_pool_that_cannot_be_is_refused() -> None:
    with pytest.raises(EnvError, match="num_envs and workers must be at least 1, got 2 and 0"):
        make_pool("toy-walk", 2, 0)
    with pytest.raises(EnvError, match="kind must be 'discrete' or 'continuous', got 'both'"):
        make_pool("toy-walk", 2, 2, kind="both")
    with pytest.raises(ConfigError, match="unknown env 'two-rom'"):
        make_pool("two-rom", 2, 2)
    pool = make_pool("toy-walk", 2, 1)
    pool.close()
    pool.close()
    with pytest.raises(EnvError, match="this pool is closed"):
        pool.labels()


@pytest.mark.faults
@pytest.mark.parametrize("began", ["reset", "set_states"])
def test_a_killed_worker_is_reported_and_replaced_where_it_was(
    began: str, new_pool: Callable[..., PooledBatch], caplog: pytest.LogCaptureFixture
) -> None:
    options = WORLDS["two-room"]
    pool, plain = new_pool("two-room", 4, 2, **options), make_batch("two-room", 4, **options)
    for batch in (pool, plain):
        batch.reset([21, 22, 23, 24])
    if began == "set_states":
        states = plain.get_states()[::-1]
        for batch in (pool, plain):
            batch.set_states(states)
    goals = plain.get_states()[::-1]
    for env_step in range(3):
        for batch in (pool, plain):
            batch.step(some_actions(plain, env_step))
            batch.set_goals(goals)
    killed = pool.pids[1]
    os.kill(killed, signal.SIGKILL)
    for batch in (pool, plain):
        batch.step(some_actions(plain, 9))
    assert_same_worlds(pool, plain)
    seeds = "seeds 23, 24" if began == "reset" else "states that were set"
    assert re.search(rf"worker process {killed} died \(signal SIGKILL\) at 'step' of episodes 2 to 3 \({seeds}\)", caplog.text)
    assert killed not in pool.pids


@pytest.mark.faults
def test_a_worker_that_dies_again_at_the_same_command_is_an_error_with_its_seeds(
    new_pool: Callable[..., PooledBatch], caplog: pytest.LogCaptureFixture
) -> None:
    pool = new_pool("deadly-walk", 4, 2, deadly_seed=8)
    pool.reset([5, 6, 7, 8])
    for _ in range(2):
        pool.step(np.ones(4, np.int64))
    with pytest.raises(EnvError, match=r"died \(signal SIGKILL\) at 'step' of episodes 2 to 3 \(seeds 7, 8\), and so did the one before it"):
        pool.step(np.ones(4, np.int64))
    assert "another one takes over" in caplog.text
    pool.reset([1, 2, 3, 4])
    plain = make_batch("toy-walk", 4)
    plain.reset([1, 2, 3, 4])
    assert_same_worlds(pool, plain)


POOL = """
import os, sys, time
import lewm.registry
from lewm.envs.pool import make_pool

if __name__ == "__main__":
    pool = make_pool("two-room", 4, 2, size_px=32)
    pool.reset([1, 2, 3, 4])
    pool.observe()
    print(*pool.pids, flush=True)
    match sys.argv[1]:
        case "forgotten":
            pass
        case "closed":
            pool.close()
        case _:
            while True:
                pool.observe()
"""


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.faults
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory cannot be listed here")
@pytest.mark.parametrize("end", ["closed", "forgotten", "interrupted", "killed"])
def test_no_process_and_no_shared_memory_outlives_a_pool(end: str, tmp_path: Path) -> None:
    script = tmp_path / "pool_it.py"
    script.write_text(POOL)
    process = subprocess.Popen([sys.executable, script, end], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    if end == "interrupted":
        assert list(Path("/dev/shm").glob(f"lewm-{process.pid}-*"))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    if end == "killed":
        process.kill()
    _, said = process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (any(map(is_alive, pids)) or list(Path("/dev/shm").glob(f"lewm-{process.pid}-*"))):
        time.sleep(0.05)
    assert not any(map(is_alive, pids))
    assert not list(Path("/dev/shm").glob(f"lewm-{process.pid}-*"))
    if end != "killed":  # there, it is the resource tracker that tidies up, and says so
        assert "leaked" not in said
    assert said.count("Traceback") == (end == "interrupted")


def test_a_script_without_a_main_guard_gets_advice(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text("from lewm.envs.pool import make_pool\nmake_pool('two-room', 2, 2)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "EnvError" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_a_pool_can_be_used_by_the_scripted_policies_of_every_world(new_pool: Callable[..., PooledBatch]) -> None:
    from lewm.envs.policies import RandomPolicy

    policy = RandomPolicy()
    pool = new_pool("toy-walk", 3, 2)
    with closing(pool):
        pool.reset([1, 2, 3])
        policy.reset(pool, [1, 2, 3], 4)
        rewards, _ = pool.step(policy.act(pool))
    assert rewards.shape == (3,)
