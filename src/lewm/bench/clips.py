"""Cutting shuffled training batches out of a dataset, against copying as many bytes in one piece.

Axes: B batch, T model step, V view, Y X image.
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np

from lewm.bench.suite import BenchOptions
from lewm.bench.timing import Contender, Row, per_second, take_turns
from lewm.data.clips import ClipSampler
from lewm.data.collect import collect
from lewm.data.episodes import EpisodeStore

GIGABYTE = 1e9
REFERENCE = "numpy.copyto of as many bytes into one buffer, on one thread, from consecutive places of a source as large as the dataset"


def measure(options: BenchOptions) -> list[Row]:
    """Bytes per second of whole clips (frames and the small columns) at both frame sizes, the dataset being in the page cache."""
    if options.is_quick:
        return [_measure_size(32, num_episodes=3, max_env_steps=20, batch_size=4, num_rounds=3)]
    return [
        _measure_size(64, num_episodes=200, max_env_steps=100, batch_size=128, num_rounds=200, must=0.5, aim=0.8),
        _measure_size(224, num_episodes=40, max_env_steps=100, batch_size=128, num_rounds=40, must=0.5, aim=0.8),
    ]


def _measure_size(
    size_px: int, *, num_episodes: int, max_env_steps: int, batch_size: int, num_rounds: int, must: float | None = None, aim: float | None = None
) -> Row:
    with tempfile.TemporaryDirectory(prefix="lewm-bench-") as folder:
        store = collect("two-room", Path(folder) / "data", episodes=num_episodes, max_env_steps=max_env_steps, env_options={"size_px": size_px})
        fill_page_cache(store)
        sampler = ClipSampler(store, num_transitions=3, action_block=5, episode_ids=store.episode_ids, batch_size=batch_size, seed=0)
        clip = sampler.empty_clip()
        num_bytes = sum(array.nbytes for array in (clip.observations.frames, clip.blocks, clip.rewards, clip.labels) if array is not None)
        # A source of one batch would stay in the processor's cache, where shuffled clips of a dataset are not.
        source = np.ones(max(store.num_bytes // num_bytes, 1) * num_bytes, np.uint8).reshape(-1, num_bytes)
        target = np.empty(num_bytes, np.uint8)
        batches, pieces = itertools.count(), itertools.cycle(source)
        contenders = {
            "ours": Contender(lambda: sampler.batch(next(batches), clip), amount=num_bytes / GIGABYTE),
            "reference": Contender(lambda: np.copyto(target, next(pieces)), amount=num_bytes / GIGABYTE),
        }
        seconds = take_turns(contenders, num_rounds=num_rounds, num_warmups=max(2, num_rounds // 10))
    ours = per_second(seconds["ours"])
    return Row(
        case=f"clips, shuffled, B={batch_size} T=3, {size_px} px",
        unit="GB/s",
        better="higher",
        ours=ours,
        reference=per_second(seconds["reference"]),
        reference_is=REFERENCE,
        target_must=must,
        target_aim=aim,
        details={"batch_bytes": num_bytes, "dataset_bytes": store.num_bytes, "clips_per_second": ours.median * GIGABYTE / num_bytes * batch_size},
    )


def fill_page_cache(store: EpisodeStore) -> None:
    """Read every column once, so that what follows measures no disk."""
    for name in store.meta.columns:
        for column in store.columns(name, range(store.num_shards)):
            column.max()
