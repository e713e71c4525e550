"""Stepping and drawing Push-T in a batch, against the gym-pusht package, which it equals state for state.

Axes: E episode, N env step, a env action.
"""

import warnings
from typing import Any

import gymnasium
import numpy as np

from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, per_second, take_turns
from lewm.envs.push_t import PushTBatch
from lewm.errors import MissingExtraError

SIZE_PX = 96
REFERENCE = "gym-pusht: one environment, observations of 96 px"


def measure(options: BenchOptions) -> list[Row]:
    """Env steps per second with their frames, one thread each, from the same starts with the same actions."""
    num_envs, num_env_steps, num_rounds = (2, 2, 2) if options.is_quick else (32, 100, 7)
    targets = (None, None) if options.is_quick else (3.0, 10.0)
    batch, reference = PushTBatch(num_envs, is_absolute=True, size_px=SIZE_PX), _make_reference()
    actions = np.random.default_rng(0).uniform(0, 512, (num_env_steps, num_envs, 2)).astype(np.float32)
    frames = np.empty((num_envs, *batch.observation_spec.frame_shape), np.uint8)

    def play_batch() -> None:
        batch.reset(range(num_envs))
        for step_actions in actions:
            batch.step(step_actions)
            batch.observe(out=frames)

    def play_reference() -> None:
        reference.reset(seed=0)
        for action in actions[:, 0]:
            reference.step(action.astype(np.float64))

    contenders = {"ours": Contender(play_batch, amount=num_env_steps * num_envs), "reference": Contender(play_reference, amount=num_env_steps)}
    seconds = take_turns(contenders, num_rounds=num_rounds)
    there = np.array([*reference.agent.position, *reference.block.position, reference.block.angle])
    here = batch.moments[0]
    difference = np.abs(np.array([*here["agent_px"], *here["block_px"], here["block_rad"]]) - there).max() / np.abs(there).max()
    reference.close()
    return [
        Row(
            case=f"step + draw, {num_envs} episodes, {SIZE_PX} px, one process",
            unit="env steps/s",
            better="higher",
            ours=per_second(seconds["ours"]),
            reference=per_second(seconds["reference"]),
            reference_is=REFERENCE,
            target_must=targets[0],
            target_aim=targets[1],
            max_difference=float(difference),
        )
    ]


def _make_reference() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pygame's, about how it finds its own data
        try:
            import gym_pusht  # noqa: F401  (registers its environment)
        except ModuleNotFoundError as error:
            raise MissingExtraError("bench 'push-t' compares with 'gym-pusht': pip install gym-pusht") from error
        return gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels", disable_env_checker=True).unwrapped
