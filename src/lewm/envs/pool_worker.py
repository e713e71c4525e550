"""What lives in the processes of a pool: some rows of the batch, and the memory in which all processes draw their frames.

Axes: E episode, V view, Y X image.
"""

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from lewm.envs.base import GoalEnvBatch, make_batch
from lewm.errors import EnvError
from lewm.registry import ENVS, Entry
from lewm.schema import ActionSpec, ObservationSpec

SHARED_MEMORY_DIRECTORY = "/dev/shm"
"""Where Linux keeps it; containers often have little."""


class SharedFrames:
    """A uint8 array [E, V, Y, X, 3] that several processes see; the one that made it, without a ``name``, removes it."""

    def __init__(self, shape: tuple[int, ...], name: str | None = None) -> None:
        num_bytes = int(np.prod(shape, dtype=np.int64))
        if name is None and os.path.isdir(SHARED_MEMORY_DIRECTORY) and shutil.disk_usage(SHARED_MEMORY_DIRECTORY).free < num_bytes:
            raise EnvError(
                f"the frames of a pool need {num_bytes:,} bytes of shared memory, and {SHARED_MEMORY_DIRECTORY} has less; use fewer episodes"
            )
        self._is_owner = name is None
        self.name = name or f"lewm-{os.getpid()}-{secrets.token_hex(4)}"
        self._memory = SharedMemory(self.name, create=self._is_owner, size=num_bytes)
        self._array: np.ndarray | None = np.ndarray(shape, np.uint8, self._memory.buf)

    @property
    def array(self) -> np.ndarray:
        """The frames themselves, not a copy: keep no reference to them."""
        if self._array is None:
            raise EnvError("the shared memory of this pool was freed: the pool is closed")
        return self._array

    def close(self) -> None:
        """Let go of the memory; harmless when called twice."""
        self._array = None
        self._memory.close()
        if self._is_owner:
            with contextlib.suppress(FileNotFoundError):
                self._memory.unlink()
            self._is_owner = False


@dataclass(frozen=True)
class RowsDescription:
    """What a batch says of itself."""

    observation_spec: ObservationSpec
    action_spec: ActionSpec
    label_names: tuple[str, ...]
    goal_label_names: tuple[str, ...]


class RowsServant:
    """Some consecutive rows of a pooled batch."""

    def __init__(self) -> None:
        self._batch: GoalEnvBatch | None = None
        self._frames: SharedFrames | None = None
        self._goal_frames: SharedFrames | None = None
        self._rows = slice(0)

    def open(self, name: str, entry: tuple[str, Entry], rows: slice, options: dict[str, Any]) -> RowsDescription:
        """Make the worlds; ``entry`` is what answers for ``name`` in the table of the parent, which may know more than this process."""
        ENVS.adopt(*entry)
        self._rows = rows
        self._batch = make_batch(name, rows.stop - rows.start, **options)
        batch = self._batch
        return RowsDescription(batch.observation_spec, batch.action_spec, tuple(batch.label_names), tuple(batch.goal_label_names))

    def attach(self, shape: tuple[int, ...], frames: str, goal_frames: str) -> None:
        """Draw into the shared memory of these names from now on."""
        self._frames, self._goal_frames = SharedFrames(shape, frames), SharedFrames(shape, goal_frames)

    def call(self, method: str, *arguments: Any) -> Any:
        """Any method of the batch that returns no frames."""
        return getattr(self._batch, method)(*arguments)

    def observe(self) -> np.ndarray | None:
        """Draw the present frames; returns the proprioception."""
        assert self._batch is not None
        assert self._frames is not None
        return self._batch.observe(out=self._frames.array[self._rows]).proprioception

    def observe_goals(self) -> np.ndarray | None:
        """Draw the goals; returns their proprioception."""
        assert self._batch is not None
        assert self._goal_frames is not None
        goals = self._batch.observe_goals()
        self._goal_frames.array[self._rows] = goals.frames
        return goals.proprioception

    def close(self) -> None:
        """Free the worlds and let go of the memory."""
        if self._batch is not None:
            self._batch.close()
        for frames in (self._frames, self._goal_frames):
            if frames is not None:
                frames.close()
