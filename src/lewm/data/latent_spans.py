"""Pairs of env steps of the same episode, at any distance, drawn from a cache of latents.

Axes: B pair, n row, D latent, A action block, a env action.
"""

from dataclasses import dataclass

import numpy as np

from lewm.data.latents import LatentCache
from lewm.errors import DataError
from lewm.seeds import hash64

START_STREAM, SPAN_STREAM = 0, 1
FIRST_FREE_STREAM = 2
"""Streams of random numbers from here on belong to whoever trains on the pairs."""
NUM_STREAMS = 16


@dataclass(frozen=True)
class Spans:
    """Where pairs lie, int64 [B] each: from env step ``start`` of ``episode`` to ``start + length``."""

    episode: np.ndarray
    start: np.ndarray
    length: np.ndarray


class SpanSampler:
    """Draws spans from the episodes ``episode_ids``: every env step that has ``least_env_steps`` after it is as likely a start as any other.

    Batch k is a pure function of (seed, k) and of the episodes. ``DataError`` if no episode is long enough.
    """

    def __init__(self, cache: LatentCache, episode_ids: np.ndarray, *, least_env_steps: int, batch_size: int, seed: int) -> None:
        counts = np.maximum(cache.length[episode_ids] - least_env_steps + 1, 0)
        if counts.sum() == 0:
            raise DataError(f"no training episode has {least_env_steps} env steps; collect longer ones, or ask for shorter spans")
        self.cache, self.batch_size = cache, batch_size
        self._episodes = np.asarray(episode_ids, dtype=np.int64)[counts > 0]
        self._ends = np.cumsum(counts[counts > 0])
        self._least, self._seed = least_env_steps, seed

    def draw(self, k: int, most_env_steps: int | np.ndarray) -> Spans:
        """Batch k: lengths are uniform in ``least_env_steps`` .. ``most_env_steps`` ([B] or one for all), as far as the episode goes."""
        position = (self.random(k, START_STREAM) % np.uint64(self._ends[-1])).astype(np.int64)
        which = np.searchsorted(self._ends, position, side="right")
        episode = self._episodes[which]
        start = position - (self._ends[which] - np.maximum(self.cache.length[episode] - self._least + 1, 0))
        most = np.minimum(self.cache.length[episode] - start, most_env_steps)
        choices = np.maximum(most - self._least + 1, 1).astype(np.uint64)
        return Spans(episode, start, self._least + (self.random(k, SPAN_STREAM) % choices).astype(np.int64))

    def random(self, k: int, stream: int) -> np.ndarray:
        """uint64 [B]: numbers of batch k that belong to one stream."""
        assert stream < NUM_STREAMS
        positions = k * self.batch_size + np.arange(self.batch_size)
        return hash64(positions * NUM_STREAMS + stream, self._seed)

    def fraction(self, k: int, stream: int) -> np.ndarray:
        """float64 [B] in [0, 1): the same as fractions."""
        return np.asarray((self.random(k, stream) >> np.uint64(11)).astype(np.float64) / 2.0**53)

    def latents(self, episode: np.ndarray, env_step: np.ndarray) -> np.ndarray:
        """float32 [B, D]."""
        return np.asarray(self.cache.latents[self.cache.rows(episode, env_step)])

    def goals(self, episode: np.ndarray, env_step: np.ndarray) -> np.ndarray:
        """float32 [B, D]: latents of the same frames when they are shown as goals."""
        return np.asarray(self.cache.goals[self.cache.rows(episode, env_step)])

    def actions(self, episode: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
        """``count`` actions from env step ``first`` on, float32 [B, count, a].

        Those before an episode's start or after its end are raw zeros: what an agent has done before it begins.
        """
        steps = first[:, None] + np.arange(count)
        is_there = (steps >= 0) & (steps < self.cache.length[episode][:, None])
        rows = self.cache.rows(episode[:, None], np.where(is_there, steps, 0))
        return np.where(is_there[..., None], self.cache.actions[rows], np.float32(0))
