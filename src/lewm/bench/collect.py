"""Whole collections to disk: two workers against one, and Atari against stepping the raw emulators.

Axes: E episode, N env step.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, per_second, take_turns
from lewm.data.collect import collect

NUM_WORKERS = 2


def measure(options: BenchOptions) -> list[Row]:
    """Frames per second of ours from reset to checksummed shards; worker processes are started anew in every round, and a single one is this process.

    Pong is as large as its preset and reacher four tenths of it: over a few seconds, starting processes and loading games would be measured.
    """
    if options.is_quick:
        return [_workers("two-room", num_episodes=4, num_env_steps=5, num_rounds=1, targets=(None, None))]
    return [
        _workers("dmc/reacher-easy", num_episodes=400, num_env_steps=100, num_rounds=3, targets=(1.7, 1.9)),
        _workers("atari/pong", num_episodes=100, num_env_steps=500, num_rounds=3, targets=(1.7, 1.9)),
        _atari("pong", num_episodes=100, num_env_steps=500, num_rounds=3),
    ]


def _workers(env: str, *, num_episodes: int, num_env_steps: int, num_rounds: int, targets: tuple[float | None, float | None]) -> Row:
    amount = num_episodes * (num_env_steps + 1)
    seconds = take_turns(
        {str(workers): Contender(_collection(env, num_episodes, num_env_steps, workers), amount) for workers in (NUM_WORKERS, 1)},
        num_rounds=num_rounds,
        num_warmups=0,
    )
    return Row(
        case=f"collect {env}, {num_episodes} episodes of {num_env_steps} env steps, {NUM_WORKERS} workers",
        unit="frames/s",
        better="higher",
        ours=per_second(seconds[str(NUM_WORKERS)]),
        reference=per_second(seconds["1"]),
        reference_is="the same collection with one worker",
        target_must=targets[0],
        target_aim=targets[1],
    )


def _atari(game: str, *, num_episodes: int, num_env_steps: int, num_rounds: int) -> Row:
    num_envs = num_episodes // 2
    raw = _RawAtari(game, num_envs, num_episodes * num_env_steps // num_envs)
    try:
        seconds = take_turns(
            {
                "ours": Contender(_collection(f"atari/{game}", num_episodes, num_env_steps, NUM_WORKERS), num_episodes * (num_env_steps + 1)),
                "raw": Contender(raw, num_episodes * num_env_steps),
            },
            num_rounds=num_rounds,
            num_warmups=0,
        )
    finally:
        raw.close()
    return Row(
        case=f"collect atari/{game} at 84 px with labels, {NUM_WORKERS} workers",
        unit="frames/s",
        better="higher",
        ours=per_second(seconds["ours"]),
        reference=per_second(seconds["raw"]),
        reference_is=f"stepping alone of ale-py's AtariVectorEnv, RGB at 84 px, frame skip 4, {NUM_WORKERS} threads; nothing stored",
        target_must=0.8,
        target_aim=0.95,
    )


def _collection(env: str, num_episodes: int, num_env_steps: int, workers: int) -> Callable[[], Any]:
    def run() -> None:
        with tempfile.TemporaryDirectory(prefix="lewm-bench-") as directory:
            collect(env, Path(directory) / "data", episodes=num_episodes, max_env_steps=num_env_steps, policy="block-random", workers=workers)

    return run


class _RawAtari:
    """Steps the emulators of ale-py's own vector environment with random actions.

    They are made and reset here, before anything is timed, while a round of ours makes its processes and emulators anew: the comparison favours them.
    A round goes on where the one before it ended.
    """

    def __init__(self, game: str, num_envs: int, num_env_steps: int) -> None:
        from ale_py.vector_env import AtariVectorEnv

        self._envs = AtariVectorEnv(game, num_envs, num_threads=NUM_WORKERS, grayscale=False, stack_num=1, reward_clipping=False)
        self._envs.reset(seed=0)
        self._actions = np.random.default_rng(0).integers(len(self._envs.ale.get_action_set()), size=(num_env_steps, num_envs))

    def __call__(self) -> None:
        for actions in self._actions:
            self._envs.step(actions)

    def close(self) -> None:
        """End its threads."""
        self._envs.close()
