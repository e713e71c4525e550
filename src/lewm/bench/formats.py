"""Training clips from a native dataset against the official reading of HDF5, and how fast HDF5 becomes a native dataset.

Axes: B batch, T model step, Y X image.
"""

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import torch

from lewm.bench.clips import fill_page_cache
from lewm.bench.memory import forget_peak, peak_bytes
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import MEBIBYTE, Contender, Row, per_second, take_turns
from lewm.data.clips import ClipSampler
from lewm.data.convert import convert
from lewm.data.episodes import EpisodeStore
from lewm.seeds import hash64

NUM_STEPS, FRAMESKIP = 4, 5
"""The official window: 4 observations, 5 env steps apart."""
OFFICIAL_CACHE_BYTES = 256 * 2**20
"""The chunk cache with which stable-worldmodel opens a file: in a small benchmark it holds a good part of the file, in 43 GB it holds nothing."""
MEGABYTE = 1e6
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "chunks of one frame": (1, {}),
    "Blosc chunks of 100 frames": (100, dict(hdf5plugin.Blosc(cname="lz4", clevel=5))),
}
"""As stable-worldmodel's writer and its recorder lay out ``pixels``: rows per chunk, compression."""


def measure(options: BenchOptions) -> list[Row]:
    """Clips per second with all files in the page cache, and megabytes of decoded frames per second of a conversion."""
    size_px, num_episodes, num_rows, batch_size = (16, 3, 30, 4) if options.is_quick else (224, 60, 101, 128)
    num_rounds = 2 if options.is_quick else 8
    with tempfile.TemporaryDirectory(prefix="lewm-bench-") as folder:
        files = {name: Path(folder) / f"{number}.h5" for number, name in enumerate(LAYOUTS)}
        for name, path in files.items():
            write_noise(path, size_px, num_episodes, num_rows, *LAYOUTS[name])
        convert(files["chunks of one frame"], Path(folder) / "native", verify=False)
        rows = _clip_rows(EpisodeStore(Path(folder) / "native"), files, batch_size, num_rounds, is_held_to_targets=not options.is_quick)
        return [*rows, *(_conversion_row(name, path, Path(folder), is_held_to_targets=not options.is_quick) for name, path in files.items())]


def write_noise(path: Path, size_px: int, num_episodes: int, num_rows: int, rows_per_chunk: int, compression: dict[str, Any]) -> None:
    """A flat HDF5 file whose frames no compression makes smaller: reading it is as cheap as it can be."""
    generator, total = np.random.default_rng(0), num_episodes * num_rows
    shape = (total, size_px, size_px, 3)
    with h5py.File(path, "w", libver="latest") as file:
        pixels = file.create_dataset("pixels", shape, np.uint8, chunks=(min(rows_per_chunk, total), *shape[1:]), **compression)
        for first in range(0, total, num_rows):
            pixels[first : first + num_rows] = generator.integers(0, 256, (num_rows, *shape[1:]), np.uint8)
        actions = generator.uniform(-1, 1, (total, 2)).astype(np.float32)
        actions[num_rows - 1 :: num_rows] = np.nan
        file["action"] = actions
        file["ep_len"], file["ep_offset"] = np.full(num_episodes, num_rows, np.int32), np.arange(num_episodes) * num_rows


class OfficialClips:
    """Batches as le-wm's training makes them: each window a slice of every env step's frame, of which every fifth is kept; actions are in memory."""

    def __init__(self, path: Path, batch_size: int) -> None:
        self.file = h5py.File(path, "r", swmr=True, rdcc_nbytes=OFFICIAL_CACHE_BYTES)
        self._actions = self.file["action"][:]
        lengths, offsets = self.file["ep_len"][:], self.file["ep_offset"][:]
        span = NUM_STEPS * FRAMESKIP
        self._starts = np.concatenate([offset + np.arange(length - span + 1) for length, offset in zip(lengths, offsets, strict=True)])
        self._batch_size = batch_size
        self._counter = itertools.count()

    def __call__(self) -> dict[str, torch.Tensor]:
        """The next shuffled batch."""
        draws = hash64(np.arange(self._batch_size) + next(self._counter) * self._batch_size, 0) % np.uint64(len(self._starts))
        items = [self._item(int(start)) for start in self._starts[draws.astype(np.int64)]]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def _item(self, start: int) -> dict[str, torch.Tensor]:
        rows = slice(start, start + NUM_STEPS * FRAMESKIP)
        pixels = torch.from_numpy(self.file["pixels"][rows][::FRAMESKIP]).permute(0, 3, 1, 2)
        return {"pixels": pixels, "action": torch.from_numpy(self._actions[rows]).reshape(NUM_STEPS, -1)}


def _clip_rows(store: EpisodeStore, files: dict[str, Path], batch_size: int, num_rounds: int, *, is_held_to_targets: bool) -> list[Row]:
    fill_page_cache(store)
    sampler = ClipSampler(store, num_transitions=NUM_STEPS - 1, action_block=FRAMESKIP, episode_ids=store.episode_ids, batch_size=batch_size, seed=0)
    clip, batches = sampler.empty_clip(), itertools.count()
    num_bytes = clip.observations.frames.nbytes + clip.blocks.nbytes
    source = np.ones(max(store.num_bytes // num_bytes, 1) * num_bytes, np.uint8).reshape(-1, num_bytes)
    target, pieces = np.empty(num_bytes, np.uint8), itertools.cycle(source)
    official = {name: OfficialClips(path, batch_size) for name, path in files.items()}
    contenders = {
        "ours": Contender(lambda: sampler.batch(next(batches), clip), amount=batch_size),
        "memcpy": Contender(lambda: np.copyto(target, next(pieces)), amount=batch_size),
        **{name: Contender(each, amount=batch_size) for name, each in official.items()},
    }
    seconds = take_turns(contenders, num_rounds=num_rounds)
    for each in official.values():
        each.file.close()
    targets = dict.fromkeys(files, (10.0, 20.0) if is_held_to_targets else (None, None)) | {"memcpy": (None, 0.8 if is_held_to_targets else None)}
    references = {name: f"le-wm's reading of an HDF5 file in {name}, one process" for name in files}
    references["memcpy"] = "numpy.copyto of as many bytes, on one thread, from a source as large as the dataset"
    return [
        Row(
            case=f"clips, shuffled, B={batch_size} T={NUM_STEPS - 1}, {store.observation_spec.height_px} px, against {name}",
            unit="clips/s",
            better="higher",
            ours=per_second(seconds["ours"]),
            reference=per_second(seconds[name]),
            reference_is=references[name],
            target_must=targets[name][0],
            target_aim=targets[name][1],
            details={"batch_bytes": num_bytes, "dataset_bytes": store.num_bytes},
        )
        for name in (*files, "memcpy")
    ]


def _conversion_row(name: str, path: Path, folder: Path, *, is_held_to_targets: bool) -> Row:
    with h5py.File(path, "r") as file:
        num_megabytes = int(np.prod(file["pixels"].shape, dtype=np.int64)) / MEGABYTE
        offsets = file["ep_offset"][:].tolist()
    outs = (folder / f"{path.stem}-{number}" for number in itertools.count())
    contenders = {
        "ours": Contender(lambda: convert(path, next(outs), verify=False), amount=num_megabytes),
        "reading": Contender(lambda: _read_episodes(path, offsets), amount=num_megabytes),
    }
    seconds = take_turns(contenders, num_rounds=2, num_warmups=0)
    growth = _conversion_growth_bytes(path, next(outs))
    return Row(
        case=f"convert HDF5 in {name} to native, without verifying",
        unit="MB/s",
        better="higher",
        ours=per_second(seconds["ours"]),
        reference=per_second(seconds["reading"]),
        reference_is="slices of whole episodes read by h5py and written nowhere",
        target_of="ours",
        target_must=200.0 if is_held_to_targets else None,
        details={"peak_memory_growth_MiB": round(growth / MEBIBYTE, 1), "decoded_MB": round(num_megabytes, 1)},
    )


def _read_episodes(path: Path, offsets: Sequence[int]) -> None:
    with h5py.File(path, "r") as file:
        for first, last in itertools.pairwise([*offsets, file["pixels"].shape[0]]):
            file["pixels"][first:last]


def _conversion_growth_bytes(source: Path, out: Path) -> int:
    """How much the resident size of a fresh process grows while it converts."""
    words = [sys.executable, "-m", "lewm.bench.formats", str(source), str(out)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main(words: Sequence[str]) -> int:
    """Convert in this process, which should be a fresh one."""
    forget_peak()
    before = peak_bytes()
    convert(words[0], words[1], verify=False)
    return max(peak_bytes() - before, 1)


if __name__ == "__main__":
    sys.stdout.write(str(main(sys.argv[1:])))
