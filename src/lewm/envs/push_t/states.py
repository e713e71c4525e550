"""States of Push-T as bytes: the present moment, the goal's and, where contacts are remembered, how the present came about.

Layout: the name of the environment, the version, a CRC-32 of what follows; two moments; then, with remembered contacts, where pymunk's space was last
made anew and the target of every control step since, 16 bytes each.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lewm.envs.push_t.layout import MOMENT, check_moments
from lewm.envs.push_t.physics import Moment, Tabletop
from lewm.errors import EnvError

VERSION = 1
"""Of the dynamics, the frames and the state bytes."""
HEADER = struct.Struct("<16sHI")


@dataclass
class Past:
    """How a world with remembered contacts came to be where it is."""

    base: np.ndarray
    """``MOMENT`` []: where a new space was given its pusher and block."""
    is_start: bool
    """Whether the base is what gym-pusht's reset starts from, rather than a moment as it is."""
    targets_px: list[tuple[float, float]] = field(default_factory=list)
    """Of every control step since."""

    @classmethod
    def of(cls, moment: Moment) -> "Past":
        """The past of a world that begins as this moment says."""
        return cls(np.array(moment), is_start=False)

    def repeated(self) -> Tabletop:
        """The tabletop that this past leads to."""
        base, tabletop = self.base, Tabletop(self.base)
        if self.is_start:
            tabletop.start(base["agent_px"], base["block_px"], float(base["block_rad"]))
        else:
            tabletop.place(base)
        for target in self.targets_px:
            tabletop.control(*target)
        return tabletop


def pack(name: str, now: Moment, goal: Moment, past: Past | None) -> bytes:
    """The state of one episode of the environment ``name``."""
    payload = now.tobytes() + goal.tobytes()
    if past is not None:
        payload += bytes([past.is_start]) + past.base.tobytes() + np.array(past.targets_px, "<f8").tobytes()
    return HEADER.pack(name.encode(), VERSION, zlib.crc32(payload)) + payload


def unpack(name: str, state: bytes) -> tuple[np.ndarray, np.ndarray, Past | None]:
    """Now, goal (``MOMENT`` [] each) and past of a state; ``EnvError`` for one of another environment or version, or a damaged one."""
    if not isinstance(state, bytes):
        raise EnvError(f"a state must be bytes as get_states gives them, got {type(state).__name__}; decode hexadecimal with bytes.fromhex")
    if state[:16] != name.encode().ljust(16, b"\0"):
        raise EnvError(f"this is not a state of {name!r}: it begins with {state[:16]!r}")
    if len(state) < HEADER.size or (found := HEADER.unpack_from(state)[1]) != VERSION:
        raise EnvError(f"a state of {name!r} must have version {VERSION}, got {found if len(state) >= HEADER.size else 'none'}; record it again")
    payload, num_moments = state[HEADER.size :], 2
    if HEADER.unpack_from(state)[2] != zlib.crc32(payload) or len(payload) < num_moments * MOMENT.itemsize:
        raise EnvError(f"this state of {name!r} is damaged: its {len(payload)} bytes do not have their own checksum; take states from get_states")
    now, goal = np.frombuffer(payload, MOMENT, num_moments)
    check_moments(np.stack([now, goal]))
    rest = payload[num_moments * MOMENT.itemsize :]
    if not rest:
        return np.array(now), np.array(goal), None
    if len(rest) < 1 + MOMENT.itemsize or (len(rest) - 1 - MOMENT.itemsize) % 16:
        raise EnvError(f"this state of {name!r} is damaged: its past has {len(rest)} bytes; take states from get_states")
    base = np.frombuffer(rest, MOMENT, 1, offset=1)
    targets = np.frombuffer(rest, "<f8", offset=1 + MOMENT.itemsize).reshape(-1, 2)
    check_moments(base)
    return np.array(now), np.array(goal), Past(np.array(base[0]), bool(rest[0]), [(float(x), float(y)) for x, y in targets])


def unpack_all(name: str, states: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, list[Past]]:
    """Of several states: now and goal, ``MOMENT`` [E], and pasts; a state without a past begins where it is."""
    found = [unpack(name, state) for state in states]
    now, goals = (np.array([one[index] for one in found], MOMENT) for index in (0, 1))
    return now, goals, [Past.of(moment) if past is None else past for moment, _, past in found]
