"""Stepping and drawing Push-T in a batch, against the gym-pusht package, which it equals state for state.

Axes: E episode, N env step, a env action.
"""

import functools
import warnings
from typing import Any

import gymnasium
import numpy as np

from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, per_second, take_turns
from lewm.envs.push_t.env import PushTBatch
from lewm.envs.push_t.layout import CONTACTS
from lewm.errors import MissingExtraError

SIZE_PX = 96
REFERENCE = "gym-pusht: one environment, observations of 96 px"


def measure(options: BenchOptions) -> list[Row]:
    """Env steps per second with their frames, one process each, from the same starts with the same actions, for both kinds of contacts."""
    num_envs, num_env_steps, num_rounds = (2, 2, 2) if options.is_quick else (32, 100, 7)
    targets = (None, None) if options.is_quick else (3.0, 10.0)
    batches = {contacts: PushTBatch(num_envs, is_absolute=True, size_px=SIZE_PX, contacts=contacts) for contacts in CONTACTS}
    reference = _make_reference()
    actions = np.random.default_rng(0).uniform(0, 512, (num_env_steps, num_envs, 2)).astype(np.float32)
    contenders = {
        contacts: Contender(functools.partial(_play, batch, actions), amount=num_env_steps * num_envs) for contacts, batch in batches.items()
    } | {"reference": Contender(functools.partial(_play_reference, reference, actions[:, 0]), amount=num_env_steps)}
    seconds = take_turns(contenders, num_rounds=num_rounds)
    difference = _difference(batches["remembered"].moments[0], reference)
    reference.close()
    return [
        Row(
            case=f"{contacts} contacts, {num_envs} episodes, {SIZE_PX} px",
            unit="env steps/s",
            better="higher",
            ours=per_second(seconds[contacts]),
            reference=per_second(seconds["reference"]),
            reference_is=REFERENCE,
            target_must=targets[0],
            target_aim=targets[1],
            max_difference=difference if contacts == "remembered" else None,
        )
        for contacts in batches
    ]


def _play(batch: PushTBatch, actions: np.ndarray) -> None:
    frames = np.empty((batch.num_envs, *batch.observation_spec.frame_shape), np.uint8)
    batch.reset(range(batch.num_envs))
    for step_actions in actions:
        batch.step(step_actions)
        batch.observe(out=frames)


def _play_reference(reference: Any, actions: np.ndarray) -> None:
    reference.reset(seed=0)
    for action in actions:
        reference.step(action.astype(np.float64))


def _difference(moment: np.void, reference: Any) -> float:
    here = np.array([*moment["agent_px"], *moment["block_px"], moment["block_rad"]])
    there = np.array([*reference.agent.position, *reference.block.position, reference.block.angle])
    return float(np.abs(here - there).max() / np.abs(there).max())


def _make_reference() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pygame's, about how it finds its own data
        try:
            import gym_pusht  # noqa: F401  (registers its environment)
        except ModuleNotFoundError as error:
            raise MissingExtraError("bench 'push-t' compares with 'gym-pusht': pip install gym-pusht") from error
        return gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels", disable_env_checker=True).unwrapped
