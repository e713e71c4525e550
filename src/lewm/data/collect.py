"""Recording episodes of a world: ``lewm collect``.

Episode i is a function of (environment and options, policy and options, seed, i, max_env_steps) alone, and its shard of i alone, so batch size,
number of workers, interruptions and appending change no byte of the shards.

Axes: E episode, N env step, V view, Y X image, P proprioception, a env action, s label.
"""

import contextlib
import inspect
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from os import _exit
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.episodes import EpisodeStore
from lewm.data.layout import DatasetMeta
from lewm.data.shards import write_shard
from lewm.data.writing import DatasetDirectory
from lewm.envs.base import GoalEnv, GoalEnvBatch, ScriptedPolicy, make_batch
from lewm.envs.policies import POLICIES
from lewm.errors import ConfigError, DataError, UnknownNameError
from lewm.registry import ENVS, Entry, did_you_mean
from lewm.schema import Episode, Observation
from lewm.seeds import episode_seed
from lewm.versions import versions

SEED_NAMESPACE = "training"
"""Evaluation has another, so that it never repeats a training episode."""


@dataclass(frozen=True)
class Shard:
    """Work for one process: the first ``num_episodes`` episodes of a shard."""

    root: Path
    meta: DatasetMeta
    number: int
    num_episodes: int
    batch_size: int
    entry: Entry
    """Of the environment, which a new process may have to register."""


def collect(
    env: str,
    out: Path | str,
    *,
    episodes: int,
    policy: str = "expert",
    seed: int = 0,
    max_env_steps: int = 100,
    env_options: dict[str, Any] | None = None,
    policy_options: dict[str, Any] | None = None,
    resume: bool = False,
    workers: int = 1,
    batch_size: int = 64,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> EpisodeStore:
    """Record ``episodes`` episodes of ``env``, at most ``max_env_steps`` long, into the dataset directory ``out``.

    ``resume`` continues an interrupted collection, rewrites damaged shards and appends when ``episodes`` is more than before. ``workers`` processes
    (started anew, so a script needs the usual ``if __name__ == "__main__"``) and ``batch_size`` change no result. ``progress`` is told episodes done
    and in all. ``DataError`` for an existing ``out`` without ``resume``, other settings than before, or a full disk; ``UnknownNameError`` for an
    environment or policy that is in no table.
    """
    for name, value in {"episodes": episodes, "max_env_steps": max_env_steps, "workers": workers, "batch_size": batch_size}.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    meta = _plan(env, policy, seed, max_env_steps, env_options or {}, policy_options or {}, command)
    directory = DatasetDirectory(Path(out), meta, resume=resume)
    try:
        shards = _missing_shards(directory, episodes, batch_size)
        done = episodes - sum(shard.num_episodes for shard in shards)
        for shard, rows in _collect_shards(shards, workers):
            directory.add(shard.number, rows)
            done += shard.num_episodes
            if progress is not None:
                progress(done, episodes)
    finally:
        directory.close()
    return EpisodeStore(out)


def scripted_policy(env: str, name: str, **options: Any) -> ScriptedPolicy:
    """A policy of ``lewm.envs.policies`` or one of the environment's own; ``UnknownNameError`` or ``ConfigError`` say what is wrong."""
    env_class: type[GoalEnv] = ENVS.load(env)
    policies = {**POLICIES, **env_class.POLICIES}
    if name not in policies:
        raise UnknownNameError(f"unknown policy {name!r} for env {env!r}.{did_you_mean(name, policies)}")
    known = inspect.signature(policies[name]).parameters
    for option in options:
        if option not in known:
            raise ConfigError(f"unknown option {option!r} of policy {name!r}.{did_you_mean(option, known)}")
    return policies[name](**options)


def _plan(
    env: str, policy: str, seed: int, max_env_steps: int, env_options: dict[str, Any], policy_options: dict[str, Any], command: str
) -> DatasetMeta:
    """The meta of the dataset to be, from one episode's worth of the world."""
    env_class: type[GoalEnv] = ENVS.load(env)
    scripted_policy(env, policy, **policy_options)
    envs = make_batch(env, 1, **env_options)
    return DatasetMeta(
        observation_spec=envs.observation_spec,
        action_spec=envs.action_spec,
        label_names=tuple(envs.label_names),
        has_rewards=True,
        env={"name": env, "version": env_class.VERSION, "options": env_options},
        policy={"name": policy, "options": policy_options},
        collection={"seed": seed, "max_env_steps": max_env_steps},
        provenance={"versions": versions(), "created": datetime.now(UTC).isoformat(timespec="seconds"), "command": command},
    ).with_shards_for(max_env_steps)


def _missing_shards(directory: DatasetDirectory, num_episodes: int, batch_size: int) -> list[Shard]:
    meta = directory.meta
    wanted = {
        shard: min(meta.episodes_per_shard, num_episodes - first) for shard, first in enumerate(range(0, num_episodes, meta.episodes_per_shard))
    }
    for shard in directory.finished_shards:
        if directory.num_finished_episodes(shard) > wanted.get(shard, 0):
            raise DataError(
                f"dataset {str(directory.path)!r} already has more than {num_episodes:,} episodes; ask for as many, or choose another directory"
            )
    entry = ENVS.entry(meta.env["name"])
    return [
        Shard(directory.path, meta, number, count, batch_size, entry)
        for number, count in wanted.items()
        if directory.num_finished_episodes(number) < count
    ]


def _collect_shards(shards: list[Shard], workers: int) -> Iterator[tuple[Shard, np.ndarray]]:
    """Collect every shard and yield its rows of the index as it is done, in any order."""
    if workers == 1 or len(shards) < 2:
        yield from _collect_shards_here(shards)
        return
    context = multiprocessing.get_context("spawn")
    lifeline, our_end = context.Pipe(duplex=False)
    with lifeline, ProcessPoolExecutor(min(workers, len(shards)), context, _tie_to_parent, (lifeline,)) as pool, our_end:
        try:
            futures = {pool.submit(collect_shard, shard): shard for shard in shards}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise DataError("a collecting process died (out of memory?); go on with --resume, with fewer --workers") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _collect_shards_here(shards: list[Shard]) -> Iterator[tuple[Shard, np.ndarray]]:
    """The same in this process: a thread writes one shard, which needs no interpreter, while the next one is recorded."""
    with ThreadPoolExecutor(1, "lewm-collect") as writer:
        being_written: list[tuple[Shard, Future[np.ndarray]]] = []
        for shard in shards:
            episodes = _record_shard(shard)
            yield from ((written, rows.result()) for written, rows in being_written)
            being_written = [(shard, writer.submit(write_shard, shard.root, shard.meta, shard.number, episodes))]
        yield from ((written, rows.result()) for written, rows in being_written)


def _tie_to_parent(lifeline: Connection) -> None:
    """End this process as soon as the parent's end of the pipe closes, because it is done, interrupted or was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then closes its end

    def wait() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv()
        _exit(1)

    threading.Thread(target=wait, daemon=True).start()


def collect_shard(shard: Shard) -> np.ndarray:
    """Record the episodes of a shard, write it, and return its rows of the index."""
    return write_shard(shard.root, shard.meta, shard.number, _record_shard(shard))


def _record_shard(shard: Shard) -> list[Episode]:
    name = shard.meta.env["name"]
    if name not in ENVS:
        ENVS.add(name, shard.entry)
    first = shard.number * shard.meta.episodes_per_shard
    episodes: list[Episode] = []
    while len(episodes) < shard.num_episodes:
        num_envs = min(shard.batch_size, shard.num_episodes - len(episodes))
        seeds = [episode_seed(SEED_NAMESPACE, shard.meta.collection["seed"], first + len(episodes) + e) for e in range(num_envs)]
        episodes += record_episodes(shard.meta, seeds)
    return episodes


def record_episodes(meta: DatasetMeta, seeds: list[int]) -> list[Episode]:
    """One episode per seed of the world and policy that ``meta`` names, stepped together."""
    max_env_steps = int(meta.collection["max_env_steps"])
    envs = make_batch(meta.env["name"], len(seeds), **meta.env["options"])
    policy = scripted_policy(meta.env["name"], meta.policy["name"], **meta.policy["options"])
    envs.reset(seeds)
    policy.reset(envs, seeds, max_env_steps)
    E, N, spec = len(seeds), max_env_steps, meta.observation_spec
    frames = np.empty((E, N + 1, *spec.frame_shape), np.uint8)
    proprioception = np.empty((E, N + 1, len(spec.proprioception)), np.float32) if spec.proprioception else None
    labels = np.empty((E, N + 1, len(meta.label_names)), np.float32)
    rewards = np.empty((E, N), np.float32)
    actions = np.empty((E, N), np.int64) if meta.action_spec.kind == "discrete" else np.empty((E, N, meta.action_spec.dimension), np.float32)
    num_env_steps, terminated = np.full(E, N), np.zeros(E, bool)
    for n in range(N + 1):
        _observe(envs, frames[:, n], None if proprioception is None else proprioception[:, n], labels[:, n])
        if n == N or terminated.all():
            break
        actions[:, n] = policy.act(envs)
        rewards[:, n], has_ended = envs.step(actions[:, n])
        num_env_steps[has_ended & ~terminated] = n + 1
        terminated |= has_ended
    # What an episode's world did after its end, while others went on, is cut off here.
    return [
        Episode(
            observations=Observation(frames[e, : n + 1], None if proprioception is None else proprioception[e, : n + 1]),
            actions=None if meta.action_spec.kind == "none" else actions[e, :n],
            labels=labels[e, : n + 1] if meta.label_names else None,
            rewards=rewards[e, :n],
            terminated=bool(terminated[e]),
            seed=seeds[e],
        )
        for e, n in enumerate(num_env_steps.tolist())
    ]


def _observe(envs: GoalEnvBatch, frames: np.ndarray, proprioception: np.ndarray | None, labels: np.ndarray) -> None:
    observation = envs.observe()
    frames[:] = observation.frames
    if proprioception is not None:
        proprioception[:] = observation.proprioception
    labels[:] = envs.labels()
