"""The training windows of a dataset, counted and shuffled in memory that grows with the number of episodes, not of windows.

Axes: B batch. A window is a start within an episode; windows are numbered 0, 1, ... through the episodes in order.
"""

import math
from dataclasses import dataclass

import numpy as np

from lewm.errors import DataError
from lewm.seeds import hash64

NUM_ROUNDS = 6
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Windows:
    """Where some windows lie, int64 [B] each."""

    episode: np.ndarray
    shard: np.ndarray
    first_row: np.ndarray
    """Row of the window's first observation in its shard."""
    start_env_step: np.ndarray
    """The same, counted from the start of the episode."""

    def __len__(self) -> int:
        return len(self.episode)

    def __getitem__(self, part: slice) -> "Windows":
        return Windows(self.episode[part], self.shard[part], self.first_row[part], self.start_env_step[part])


class WindowIndex:
    """Every window of ``span_env_steps`` in some episodes; episodes that are too short have none.

    ``index`` are rows of ``episodes.npy``. ``DataError`` if there is no episode, or none is long enough.
    """

    def __init__(self, index: np.ndarray, span_env_steps: int) -> None:
        if len(index) == 0:
            raise DataError("there are no episodes to cut clips from; collect more, or change data.validation_fraction")
        counts = np.maximum(index["length"] - span_env_steps + 1, 0)
        if counts.sum() == 0:
            raise DataError(
                f"no episode is long enough for a clip: the longest has {index['length'].max()} env steps and a clip needs {span_env_steps}; "
                "lower data.num_transitions or data.action_block, or collect longer episodes"
            )
        index, counts = index[counts > 0], counts[counts > 0]
        self._episode, self._shard, self._offset = (index[name].copy() for name in ("id", "shard", "offset"))
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts

    @property
    def num_windows(self) -> int:
        """How many windows there are."""
        return int(self._ends[-1])

    def in_same_episode(self, windows: np.ndarray, draws: np.ndarray, span_env_steps: int | None = None) -> np.ndarray:
        """For windows [n] and uint64 draws [n, k], the numbers [n, k] of k windows of the same episodes, uniform in them.

        With ``span_env_steps``, uniform among those that start at most so many env steps earlier or later.
        """
        which = self._episode_of(windows)
        first, end = self._begins[which], self._ends[which]
        if span_env_steps is not None:
            first, end = np.maximum(first, windows - span_env_steps), np.minimum(end, windows + span_env_steps + 1)
        return np.asarray(first[:, None] + (draws % (end - first).astype(np.uint64)[:, None]).astype(np.int64))

    def at_same_env_step(self, windows: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """For windows [n] and uint64 draws [n, k], the numbers [n, k] of k windows that start at the same env step of drawn episodes.

        An episode that is too short for that gives its last window.
        """
        start = windows - self._begins[self._episode_of(windows)]
        drawn = (draws % np.uint64(len(self._begins))).astype(np.int64)
        return np.asarray(np.minimum(self._begins[drawn] + start[:, None], self._ends[drawn] - 1))

    def locate(self, windows: np.ndarray) -> Windows:
        """Where the windows with these numbers [B] lie."""
        which = self._episode_of(windows)
        start = windows - self._begins[which]
        return Windows(self._episode[which], self._shard[which], self._offset[which] + start, start)

    def _episode_of(self, windows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, windows, side="right")


def shuffled(positions: np.ndarray, num_windows: int, seed: int) -> np.ndarray:
    """Window numbers [B] at some positions of an endless sequence in which each pass of ``num_windows`` visits every window once.

    Each pass has an order of its own, a function of (seed, pass). The order is a Feistel network on pairs (left, right) of about sqrt(num_windows)
    values each, walked along its cycle until it lands on a window (Black and Rogaway, 2002), so that no permutation is ever stored.
    """
    positions = np.asarray(positions, dtype=np.uint64)
    passes, left_overs = np.divmod(positions, np.uint64(num_windows))
    first_key = hash64(passes, seed)
    num_left = math.isqrt(num_windows - 1) + 1
    num_right = -(-num_windows // num_left)
    found = _feistel(left_overs, first_key, num_left, num_right)
    while (is_outside := found >= num_windows).any():
        found[is_outside] = _feistel(found[is_outside], first_key[is_outside], num_left, num_right)
    return found.astype(np.int64)


def _feistel(values: np.ndarray, keys: np.ndarray, num_left: int, num_right: int) -> np.ndarray:
    """A permutation of 0 .. num_left * num_right - 1 for each key, elementwise."""
    moduli = np.uint64(num_left), np.uint64(num_right)
    halves = list(np.divmod(values, moduli[1]))
    for number in range(NUM_ROUNDS):
        side = number % 2
        mixed = (halves[1 - side] + keys + np.uint64(number)) * _MULTIPLIERS[0]
        mixed ^= mixed >> np.uint64(29)
        mixed *= _MULTIPLIERS[1]
        mixed >>= np.uint64(32)
        halves[side] = (halves[side] + mixed) % moduli[side]
    return np.asarray(halves[0] * moduli[1] + halves[1])
