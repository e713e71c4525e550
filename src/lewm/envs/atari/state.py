"""The bytes of an Atari state: the console, its last screens, the episode's counters and its goal.

Axes: K emulator frame, H W the emulator's screen.
"""

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.envs.atari.labels import NUM_FACTS
from lewm.errors import EnvError

VERSION = 1
"""Of the dynamics, the frames and the state bytes."""
MAGIC = b"lewm-ale"
HEADER = struct.Struct("<8sH16sI")
COUNTERS = struct.Struct("<QIIBB??I")


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """What a state looks like and what is true in it: all that a goal needs."""

    screens: np.ndarray
    """uint8 [K, H, W]: palette screens, the last one last."""
    facts: np.ndarray
    """uint8 [129]: RAM and lives."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One episode at one time."""

    console: bytes
    """ALE's own state."""
    now: Glimpse
    seed: int
    env_step: int
    frame: int
    """Emulator frames since the reset's waiting."""
    held_action: int
    """ALE's number of the action that the console last took: sticky actions repeat it."""
    is_terminated: bool
    goal: Glimpse | None
    """None: the goal that the seed decides."""


def write(moment: Moment, dynamics: dict[str, Any]) -> bytes:
    """State bytes; ``dynamics`` says which game and options they are good for."""
    counters = (moment.seed, moment.env_step, moment.frame, moment.held_action, len(moment.now.screens), moment.is_terminated)
    goal = () if moment.goal is None else (moment.goal.facts.tobytes(), moment.goal.screens.tobytes())
    fixed = COUNTERS.pack(*counters, moment.goal is not None, len(moment.console))
    pictures = zlib.compress(b"".join((moment.now.facts.tobytes(), moment.now.screens.tobytes(), *goal)), 1)
    body = json.dumps(dynamics, sort_keys=True).encode()
    rest = body + fixed + moment.console + pictures
    return HEADER.pack(MAGIC, VERSION, _checksum(rest), len(body)) + rest


def read(state: bytes, dynamics: dict[str, Any], screens_shape: tuple[int, int, int]) -> Moment:
    """The moment of state bytes; ``EnvError`` if they are damaged, or of another environment, version, game or options."""
    if not isinstance(state, bytes):
        raise EnvError(f"a state must be bytes as get_states gives them, got {type(state).__name__}; decode hexadecimal with bytes.fromhex")
    if not state.startswith(MAGIC) or len(state) < HEADER.size:
        raise EnvError(f"this is not a state of an Atari environment: it begins with {state[:8]!r}")
    _, version, checksum, body_size = HEADER.unpack_from(state)
    rest = state[HEADER.size :]
    if version != VERSION:
        raise EnvError(f"an Atari state must have version {VERSION}, got version {version}; take it again with this version of lewm")
    if checksum != _checksum(rest):
        raise EnvError(f"this Atari state of {len(state)} bytes is damaged: its checksum is wrong; take it again with get_states")
    found = json.loads(rest[:body_size])
    for name in sorted(set(found) | set(dynamics)):
        if found.get(name) != dynamics.get(name):
            raise EnvError(f"this state has {name} = {found.get(name)!r}, and this environment {dynamics.get(name)!r}; make it with the same options")
    seed, env_step, frame, held_action, _, is_terminated, has_goal, console_size = COUNTERS.unpack_from(rest, body_size)
    console_start = body_size + COUNTERS.size
    pictures = zlib.decompress(rest[console_start + console_size :])
    glimpses = [_glimpse(pictures, number, screens_shape) for number in range(1 + has_goal)]
    return Moment(
        console=rest[console_start : console_start + console_size],
        now=glimpses[0],
        seed=seed,
        env_step=env_step,
        frame=frame,
        held_action=held_action,
        is_terminated=is_terminated,
        goal=glimpses[1] if has_goal else None,
    )


def _glimpse(pictures: bytes, number: int, screens_shape: tuple[int, int, int]) -> Glimpse:
    size = int(np.prod(screens_shape))
    start = number * (NUM_FACTS + size)
    facts = np.frombuffer(pictures, np.uint8, NUM_FACTS, start)
    return Glimpse(facts=facts, screens=np.frombuffer(pictures, np.uint8, size, start + NUM_FACTS).reshape(screens_shape))


def _checksum(rest: bytes) -> bytes:
    return hashlib.blake2b(rest, digest_size=16).digest()
