"""The last frames of one environment, stacked as views: what an observation with ``stack_offsets_env_steps`` shows.

Axes: K kept frame, V view (cameras x stacked frames), c camera, Y X image.
"""

import struct
import zlib

import numpy as np

from lewm.errors import EnvError

MAGIC = b"stacked1"
HEADER = struct.Struct("<8sI")
"""Magic, bytes of the world's own state."""


class FrameStack:
    """Keeps as many frames as the oldest offset needs; before an episode's first frame there is only the first frame."""

    def __init__(self, offsets_env_steps: tuple[int, ...], shape: tuple[int, ...]) -> None:
        self._offsets = offsets_env_steps
        self._frames = np.zeros((1 - offsets_env_steps[0], *shape), np.uint8)  # K c Y X 3

    def start(self, frame: np.ndarray) -> None:
        """Begin an episode with the frames of all cameras, uint8 [c, Y, X, 3]."""
        self._frames[:] = frame

    def push(self, frame: np.ndarray) -> None:
        """Take in the next env step's frames."""
        self._frames = np.concatenate([self._frames[1:], frame[None]])

    def views(self) -> np.ndarray:
        """uint8 [V, Y, X, 3]: the stack of the first camera comes first, oldest frame first."""
        return self.repeated(self._frames[[offset - 1 for offset in self._offsets]])

    def repeated(self, frames: np.ndarray) -> np.ndarray:
        """Views of frames [stack, c, Y, X, 3], or of one frame [c, Y, X, 3] that nothing preceded: each camera's frame as often as it is stacked."""
        if frames.ndim == self._frames.ndim - 1:
            frames = np.repeat(frames[None], len(self._offsets), axis=0)
        return np.ascontiguousarray(frames.swapaxes(0, 1)).reshape(-1, *frames.shape[2:])

    def pack(self, state: bytes) -> bytes:
        """The world's state with the kept frames behind it."""
        return HEADER.pack(MAGIC, len(state)) + state + zlib.compress(self._frames.tobytes(), 1)

    def unpack(self, packed: bytes) -> tuple[bytes, np.ndarray]:
        """The world's state within ``packed``, and its frames for ``take_over``; ``EnvError`` if they are not of this size and number."""
        state = world_state(packed)
        if state is packed:
            raise EnvError("this state has no stacked frames; take it from an environment with the same stack_offsets_env_steps")
        try:
            frames = zlib.decompress(packed[HEADER.size + len(state) :])
        except zlib.error:
            frames = b""
        if len(frames) != self._frames.nbytes:
            raise EnvError(f"the state's stacked frames must have {self._frames.nbytes:,} bytes, got {len(frames):,}: other sizes or offsets")
        return state, np.frombuffer(frames, np.uint8).reshape(self._frames.shape).copy()

    def take_over(self, frames: np.ndarray) -> None:
        """Go on with the kept frames of another stack, as ``unpack`` gives them."""
        self._frames = frames


def world_state(packed: bytes) -> bytes:
    """The world's own state: ``packed`` itself if there are no stacked frames in it."""
    if not isinstance(packed, bytes) or not packed.startswith(MAGIC) or len(packed) < HEADER.size:
        return packed
    return packed[HEADER.size : HEADER.size + HEADER.unpack_from(packed)[1]]
