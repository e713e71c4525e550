"""State bytes of Control Suite worlds."""

from lewm.envs.mujoco.states import StateFormat

VERSION = 1
"""Of the dynamics, the frames and the state bytes."""
STATES = StateFormat(magic=b"lewm-dmc", version=VERSION)
pack, unpack = STATES.pack, STATES.unpack
