"""Training clips cut from a dataset: which windows make batch k, and their copying into buffers that are used again.

Axes: B batch, T model step, V view (cameras x stacked frames), Y X image, P proprioception, A action block, s label.
"""

import queue
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType

import numpy as np

from lewm.data.formats.store import ForeignColumn, Store
from lewm.data.windows import WindowIndex, Windows, shuffled
from lewm.errors import ConfigError
from lewm.schema import Clip, Observation
from lewm.seeds import hash64

BATCHES_PER_DRAW = 16
THREADED_GROUP_BYTES = 128 * 2**10
"""From this many bytes per shard on, two threads copy frames; for less, they would spend their time taking turns at the interpreter."""

Group = tuple[int, slice]
"""A shard, and which windows of a batch lie in it."""


class ClipSampler:
    """Cuts clips of ``num_transitions`` blocks of ``action_block`` env steps out of the episodes ``episode_ids``.

    The global batch k is a pure function of (seed, k) and of the episodes: batches walk through a shuffled order of all windows (a window starts at
    every env step that leaves room for it), each pass over the data in a new order. With ``clips_per_episode`` > 1 every window of that order brings
    other windows of its own episode along, at most ``group_span_env_steps`` away if that is given, so that a batch holds fewer episodes; with
    ``clips_per_env_step`` > 1, windows that start at the same env step of other episodes. Within a batch, clips are in the order of the dataset.
    Rank r of ``world_size`` cuts its slice of every batch. A stacked frame from before an episode's start is the first frame. Episodes too short for
    a clip are left out; ``DataError`` if that leaves none. Memory grows with the number of episodes, not of windows. Safe from several threads.
    """

    def __init__(
        self,
        store: Store,
        *,
        num_transitions: int,
        action_block: int,
        stack_offsets_env_steps: tuple[int, ...] = (0,),
        episode_ids: np.ndarray,
        batch_size: int,
        seed: int,
        clips_per_episode: int = 1,
        clips_per_env_step: int = 1,
        group_span_env_steps: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_transitions < 1 or action_block < 1 or batch_size < 1:
            raise ConfigError(
                f"num_transitions, action_block and batch_size must be at least 1, got {num_transitions}, {action_block} and {batch_size}"
            )
        if world_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ConfigError(f"batch_size ({batch_size}) must be a multiple of the number of processes ({world_size}), and rank ({rank}) below it")
        for name, size in {"clips_per_episode": clips_per_episode, "clips_per_env_step": clips_per_env_step}.items():
            if size < 1 or batch_size % size:
                raise ConfigError(f"batch_size ({batch_size}) must be a multiple of {name} ({size})")
        if min(clips_per_episode, clips_per_env_step) > 1:
            raise ConfigError(f"clips_per_episode ({clips_per_episode}) and clips_per_env_step ({clips_per_env_step}) cannot both be above 1")
        self._store = store
        self._group_size = max(clips_per_episode, clips_per_env_step)
        self._is_grouped_by_time, self._group_span_env_steps = clips_per_env_step > 1, group_span_env_steps
        self._num_transitions, self._action_block, self._offsets = num_transitions, action_block, stack_offsets_env_steps
        self._batch_size, self._seed = batch_size, seed
        self.rank_batch_size = batch_size // world_size
        """B: clips per batch of this rank."""
        self.first_row = rank * self.rank_batch_size
        """Row of the global batch at which this rank's slice starts."""
        self._index = WindowIndex(store.index[np.asarray(episode_ids, dtype=np.int64)], num_transitions * action_block)
        self._helper = ThreadPoolExecutor(1, "lewm-clips")
        self._drawn: tuple[int, np.ndarray] = (-1, np.empty((0, 0), np.int64))

    @property
    def num_windows(self) -> int:
        """How many windows the episodes have: one pass over the data."""
        return self._index.num_windows

    def batch(self, k: int, out: Clip[np.ndarray] | None = None) -> Clip[np.ndarray]:
        """Batch ``k``, this rank's slice of it, in ``out`` (from ``empty_clip``) or in new arrays."""
        numbers = self._windows_of_batch(k)[self.first_row : self.first_row + self.rank_batch_size]
        return self._cut(numbers, out)

    def _windows_of_batch(self, k: int) -> np.ndarray:
        """Window numbers of the global batch k, int64, in ascending order. They are drawn for several batches at once, which is quicker."""
        which, row = divmod(k, BATCHES_PER_DRAW)
        number, drawn = self._drawn
        if number != which:
            num_groups = BATCHES_PER_DRAW * self._batch_size // self._group_size
            windows = self._grouped(which * num_groups + np.arange(num_groups))
            drawn = np.sort(windows.reshape(BATCHES_PER_DRAW, self._batch_size), axis=1)
            self._drawn = (which, drawn)
        return np.asarray(drawn[row])

    def _grouped(self, positions: np.ndarray) -> np.ndarray:
        """The windows at some positions of the shuffled order and, beside each, the others of its group: int64 [positions, group size]."""
        windows = shuffled(positions, self.num_windows, self._seed)
        draws = hash64(positions[:, None] * self._group_size + np.arange(1, self._group_size), self._seed)
        if self._is_grouped_by_time:
            others = self._index.at_same_env_step(windows, draws)
        else:
            others = self._index.in_same_episode(windows, draws, self._group_span_env_steps)
        return np.concatenate([windows[:, None], others], axis=1)

    def fixed_batch(self, seed: int, num_clips: int) -> Clip[np.ndarray]:
        """The same ``num_clips`` distinct windows at every call, or all of them if there are fewer: for validation."""
        return self._cut(self._fixed_numbers(seed, num_clips), None)

    def fixed_chunks(self, seed: int, num_clips: int, chunk: int) -> Iterator[Clip[np.ndarray]]:
        """The windows of ``fixed_batch`` in chunks of about the same size, at most ``chunk``."""
        numbers = self._fixed_numbers(seed, num_clips)
        for part in np.array_split(numbers, -(-len(numbers) // chunk)):
            yield self._cut(part, None)

    def all_windows_in_order(self, batch_size: int | None = None) -> Iterator[Clip[np.ndarray]]:
        """Every window once, episode by episode, in new arrays; the last batch may be smaller."""
        step = batch_size or self._batch_size
        for first in range(0, self.num_windows, step):
            yield self._cut(np.arange(first, min(first + step, self.num_windows)), None)

    def empty_clip(self, num_clips: int | None = None) -> Clip[np.ndarray]:
        """Arrays for ``num_clips`` (default: this rank's slice of a batch) that ``batch`` can fill."""
        B, T, meta = num_clips or self.rank_batch_size, self._num_transitions, self._store.meta
        spec = meta.observation_spec
        num_views = len(spec.cameras) * len(self._offsets)
        frames = np.empty((B, T + 1, num_views, spec.height_px, spec.width_px, 3), np.uint8)
        proprioception = np.empty((B, T + 1, len(spec.proprioception)), np.float32) if spec.proprioception else None
        return Clip(
            Observation(frames, proprioception),
            blocks=np.empty((B, T, meta.action_spec.block_dimension(self._action_block)), np.float32),
            rewards=np.empty((B, T), np.float32) if meta.has_rewards else None,
            labels=np.empty((B, T + 1, len(meta.label_names)), np.float32) if meta.label_names else None,
            episode=np.empty(B, np.int64),
            start_env_step=np.empty(B, np.int64),
        )

    def _fixed_numbers(self, seed: int, num_clips: int) -> np.ndarray:
        return np.sort(shuffled(np.arange(min(num_clips, self.num_windows)), self.num_windows, seed))

    def _cut(self, window_numbers: np.ndarray, out: Clip[np.ndarray] | None) -> Clip[np.ndarray]:
        clip = out if out is not None else self.empty_clip(len(window_numbers))
        windows = self._index.locate(window_numbers)
        # Windows are in order, so those of a shard are neighbours: one native copy per shard instead of one per row.
        edges = [0, *(np.flatnonzero(np.diff(windows.shard)) + 1).tolist(), len(windows)]
        groups = [(int(windows.shard[a]), slice(a, b)) for a, b in pairwise(edges)]
        self._copy_frames(groups, windows, clip.observations.frames)
        self._copy_actions(groups, windows, clip.blocks)
        if clip.rewards is not None:
            self._gather("rewards", groups, self._env_step_rows(windows)).reshape(*clip.rewards.shape, -1).sum(axis=-1, out=clip.rewards)
        rows = self._observed_rows(windows)
        if clip.labels is not None:
            self._gather("labels", groups, rows, clip.labels)
        if clip.observations.proprioception is not None:
            self._gather("proprioception", groups, rows, clip.observations.proprioception)
        clip.episode[:] = windows.episode
        clip.start_env_step[:] = windows.start_env_step
        return clip

    def _copy_frames(self, groups: list[Group], windows: Windows, frames: np.ndarray) -> None:
        half = len(groups) // 2
        is_threaded = half > 0 and frames.nbytes >= THREADED_GROUP_BYTES * len(groups)
        for view in range(frames.shape[2]):
            camera, which_offset = divmod(view, len(self._offsets))
            rows = self._observed_rows(windows, self._offsets[which_offset])
            name = f"frames.{self._store.observation_spec.cameras[camera]}"
            out = frames[:, :, view]
            if is_threaded:
                other_half = self._helper.submit(self._gather, name, groups[half:], rows, out)
                self._gather(name, groups[:half], rows, out)
                other_half.result()
            else:
                self._gather(name, groups, rows, out)

    def _copy_actions(self, groups: list[Group], windows: Windows, blocks: np.ndarray) -> None:
        spec = self._store.action_spec
        if spec.kind == "none":
            return
        rows = self._env_step_rows(windows)
        if spec.kind == "continuous":
            self._gather("actions", groups, rows, blocks.reshape(*rows.shape, spec.dimension))
        else:
            blocks[:] = spec.as_blocks(self._gather("actions", groups, rows), self._action_block)

    def _observed_rows(self, windows: Windows, offset: int = 0) -> np.ndarray:
        """int64 [B, T+1]: rows of the observations in their shards, ``offset`` env steps away but not before the episode's start."""
        env_steps = windows.start_env_step[:, None] + np.arange(self._num_transitions + 1) * self._action_block + offset
        return np.asarray((windows.first_row - windows.start_env_step)[:, None] + np.maximum(env_steps, 0))

    def _env_step_rows(self, windows: Windows) -> np.ndarray:
        """int64 [B, T * action_block]: rows of every env step in its shard."""
        return np.asarray(windows.first_row[:, None] + np.arange(self._num_transitions * self._action_block))

    def _gather(self, name: str, groups: list[Group], rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Rows [B, n] of a column, those of each group from its shard: [B, n, ...]."""
        columns: Sequence[np.ndarray | ForeignColumn] = self._store.columns(name, [shard for shard, _ in groups])
        if out is None:
            out = np.empty((*rows.shape, *columns[0].shape[1:]), columns[0].dtype)
        for column, (_, part) in zip(columns, groups, strict=True):
            column.take(rows[part], axis=0, out=out[part], mode="clip")  # the rows exist: "clip" only spares a buffer and its copy
        return out


class Prefetcher:
    """Batches k, k + 1, ... of a sampler, cut by a background thread into a ring of buffers; an iterator and a context manager.

    A clip is valid until the next one is asked for: copy it to the device, or ``map(np.copy)`` it, before that. An error in the thread is raised
    by ``next``. Leaving the ``with`` block ends the thread.
    """

    def __init__(self, sampler: ClipSampler, start: int = 0, *, num_batches: int = 2) -> None:
        if num_batches < 1:
            raise ConfigError(f"num_batches must be at least 1, got {num_batches}")
        self._free: queue.SimpleQueue[Clip[np.ndarray] | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Clip[np.ndarray] | BaseException] = queue.SimpleQueue()
        self._in_use: Clip[np.ndarray] | None = None
        self._failure: BaseException | None = None
        for _ in range(num_batches + 1):
            self._free.put(sampler.empty_clip())
        stop = threading.Event()
        self._thread = threading.Thread(target=_produce, args=(sampler, start, self._free, self._ready, stop), name="lewm-prefetch", daemon=True)
        self._thread.start()
        # The thread holds no reference to this object, so one that is dropped without close() still ends it.
        self._finalizer = weakref.finalize(self, _end, self._free, stop)

    def __iter__(self) -> Iterator[Clip[np.ndarray]]:
        return self

    def __next__(self) -> Clip[np.ndarray]:
        if self._failure is None and not self._finalizer.alive:
            self._failure = RuntimeError("this Prefetcher was closed")
        if self._failure is not None:
            raise self._failure
        if self._in_use is not None:
            self._free.put(self._in_use)
            self._in_use = None
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._failure = item
            raise item
        self._in_use = item
        return item

    def close(self) -> None:
        """End the thread and wait for it; harmless when called twice."""
        self._finalizer()
        self._thread.join()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _produce(
    sampler: ClipSampler,
    start: int,
    free: "queue.SimpleQueue[Clip[np.ndarray] | None]",
    ready: "queue.SimpleQueue[Clip[np.ndarray] | BaseException]",
    stop: threading.Event,
) -> None:
    k = start
    try:
        while (buffer := free.get()) is not None and not stop.is_set():
            ready.put(sampler.batch(k, buffer))
            k += 1
    except BaseException as error:  # noqa: BLE001 - it is the consumer's: raised by its next()
        ready.put(error)


def _end(free: "queue.SimpleQueue[Clip[np.ndarray] | None]", stop: threading.Event) -> None:
    stop.set()
    free.put(None)
