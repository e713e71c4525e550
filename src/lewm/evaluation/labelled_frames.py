"""Single observations of a dataset with their labels, read through its memory map.

Axes: n frame, V view (cameras x stacked frames), Y X image, P proprioception, s label.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from lewm.data.formats.store import Store
from lewm.schema import Observation


class LabelledFrames:
    """The first frames of some episodes, numbered 0 .. n - 1 in the order of the dataset; nothing but labels and places is held in memory.

    ``num_frames_of`` maps episode ids to how many of their frames count. A stacked frame from before an episode's start is its first frame.
    """

    def __init__(self, store: Store, num_frames_of: dict[int, int], stack_offsets_env_steps: tuple[int, ...] = (0,)) -> None:
        self._store, self._offsets = store, stack_offsets_env_steps
        ids = np.array(sorted(num_frames_of), np.int64)
        lengths = np.array([num_frames_of[episode_id] for episode_id in ids.tolist()], np.int64)
        self.episode = ids.repeat(lengths)
        """int64 [n]: episode ids."""
        self._env_step = np.arange(len(self.episode)) - (np.cumsum(lengths) - lengths).repeat(lengths)
        self._first_row, self._shard = store.index["offset"][self.episode], store.index["shard"][self.episode]

    def __len__(self) -> int:
        return len(self.episode)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """The numbers of all frames in order, int64 [<= size] at a time."""
        for first in range(0, len(self), size):
            yield np.arange(first, min(first + size, len(self)))

    def observations(self, numbers: np.ndarray) -> Observation[np.ndarray]:
        """The observations with these numbers (ascending is quickest), copied: frames uint8 [n, V, Y, X, 3]."""
        views = [self._read(f"frames.{camera}", numbers, offset) for camera in self._store.observation_spec.cameras for offset in self._offsets]
        proprioception = self._read("proprioception", numbers) if self._store.observation_spec.proprioception else None
        return Observation(np.stack(views, axis=1), proprioception)

    def labels(self) -> np.ndarray:
        """float32 [n, s], of all frames."""
        return self._read("labels", np.arange(len(self)))

    def digests(self, numbers: np.ndarray) -> list[bytes]:
        """A hash of each frame as it was stored (all cameras, nothing stacked): equal for frames that look the same."""
        frames = np.stack([self._read(f"frames.{camera}", numbers) for camera in self._store.observation_spec.cameras], axis=1)
        return [hashlib.blake2b(frame.tobytes(), digest_size=16).digest() for frame in frames]

    def _read(self, name: str, numbers: np.ndarray, offset_env_steps: int = 0) -> np.ndarray:
        """Rows of a column [n, ...], ``offset_env_steps`` away but not before their episodes' starts."""
        rows = self._first_row[numbers] + np.maximum(self._env_step[numbers] + offset_env_steps, 0)
        shards = self._shard[numbers]
        column = self._store.columns(name, [int(shards[0])])[0]
        out = np.empty((len(numbers), *column.shape[1:]), column.dtype)
        for shard in np.unique(shards):
            is_here = shards == shard
            out[is_here] = self._store.columns(name, [int(shard)])[0][rows[is_here]]
        return out
