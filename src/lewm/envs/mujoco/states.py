"""State bytes of MuJoCo worlds: a header that says whose they are, then the present moment and the goal's."""

import struct
from dataclasses import dataclass

import numpy as np

from lewm.envs.mujoco.simulator import Moment, MujocoSimulator
from lewm.errors import EnvError

LARGEST = 1e10
"""MuJoCo starts anew, with a warning only, where a position, velocity or acceleration is larger."""
HEADER = struct.Struct("<8sHH")
MOMENT_HEADER = struct.Struct("<III")
FIELD_HEADER = struct.Struct("<HI")


@dataclass(frozen=True, kw_only=True)
class StateFormat:
    """The states of one family of worlds."""

    magic: bytes
    """Eight bytes at the beginning of every state."""
    version: int
    """Of the dynamics, the frames and the state bytes."""

    def pack(self, env: str, now: Moment, goal: Moment) -> bytes:
        """The state of one episode of the environment called ``env``."""
        return HEADER.pack(self.magic, self.version, len(env)) + env.encode() + _pack_moment(now) + _pack_moment(goal)

    def unpack(self, env: str, state: bytes, simulator: MujocoSimulator) -> tuple[Moment, Moment]:
        """(now, goal) of a state; ``EnvError`` if it is not one of this environment and version, or is damaged."""
        if not isinstance(state, bytes):
            raise EnvError(f"a state must be bytes as get_states gives them, got {type(state).__name__}; decode hexadecimal with bytes.fromhex")
        if len(state) < HEADER.size or not state.startswith(self.magic):
            raise EnvError(f"this is not a state of {env!r}: it begins with {state[:8]!r}")
        _, version, length = HEADER.unpack_from(state)
        owner = state[HEADER.size : HEADER.size + length].decode(errors="replace")
        if owner != env or version != self.version:
            raise EnvError(f"a state of {env!r} version {self.version} is needed, got one of {owner!r} version {version}")
        try:
            now, offset = _unpack_moment(state, HEADER.size + length, simulator)
            goal, offset = _unpack_moment(state, offset, simulator)
        except (struct.error, ValueError, UnicodeDecodeError) as error:
            raise EnvError(f"this state of {env!r} is damaged or of another release of MuJoCo: it has {len(state)} bytes; {error}") from error
        if offset != len(state):
            raise EnvError(f"this state of {env!r} is damaged: it has {len(state)} bytes instead of {offset}")
        return now, goal


def _pack_moment(moment: Moment) -> bytes:
    parts = [MOMENT_HEADER.pack(moment.env_step, len(moment.physics), len(moment.variation)), moment.physics.tobytes()]
    for name, value in moment.variation.items():
        parts += [FIELD_HEADER.pack(len(name), value.nbytes), name.encode(), value.tobytes()]
    return b"".join(parts)


def _unpack_moment(state: bytes, offset: int, simulator: MujocoSimulator) -> tuple[Moment, int]:
    env_step, num_physics, num_fields = MOMENT_HEADER.unpack_from(state, offset)
    offset += MOMENT_HEADER.size
    if num_physics != simulator.num_physics:
        raise ValueError(f"its physics has {num_physics} numbers, not {simulator.num_physics}")
    physics = np.frombuffer(state, np.float64, num_physics, offset).copy()
    if not (np.abs(physics) < LARGEST).all():
        raise ValueError("its physics is not finite, or larger than MuJoCo takes")
    offset += physics.nbytes
    variation = {}
    for _ in range(num_fields):
        length, num_bytes = FIELD_HEADER.unpack_from(state, offset)
        offset += FIELD_HEADER.size
        name = state[offset : offset + length].decode()
        variation[name] = _unpack_field(state, offset + length, num_bytes, name, simulator.field(name))
        offset += length + num_bytes
    moment = Moment(physics, variation, env_step)
    simulator.check(moment)
    return moment, offset


def _unpack_field(state: bytes, offset: int, num_bytes: int, name: str, pristine: np.ndarray | None) -> np.ndarray:
    # Worlds vary measures only; a foreign number in a field of indices would be followed into memory that is not the model's.
    if pristine is None or pristine.dtype.kind != "f":
        raise ValueError(f"its model field {name!r} is none that differs between episodes")
    if pristine.nbytes != num_bytes:
        raise ValueError(f"its model field {name!r} has {num_bytes} bytes, not {pristine.nbytes}")
    value = np.frombuffer(state, pristine.dtype, pristine.size, offset).reshape(pristine.shape).copy()
    if not np.isfinite(value).all():
        raise ValueError(f"its model field {name!r} is not finite")
    return value
