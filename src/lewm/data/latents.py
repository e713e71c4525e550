"""The latents of every env step of a dataset, computed once and kept on disk: what is trained on pairs at any distance never sees a frame.

Axes: n row (an observation; the episodes one after another, N + 1 rows each), N env step, D latent, V view, a env action.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm.data.durable import DirectoryLock, reported_as_data_error, write_atomically
from lewm.data.formats.store import Store
from lewm.errors import DataError
from lewm.models.world_model import WorldModel
from lewm.planning.frame_stacks import as_goals
from lewm.schema import Observation

FORMAT, FORMAT_WITH_STILL = 1, 2
LATENTS_FILE, ACTIONS_FILE, META_FILE, PROGRESS_FILE = "latents.npy", "actions.npy", "meta.json", "progress.json"
STILL_FILE = "still.npy"
"""Where frames are stacked."""
UNFINISHED = ".unfinished"
ROWS_PER_CHUNK = 512
"""Episodes are read together until they have so many rows, and at most so many are encoded at once."""
CHUNKS_PER_NOTE = 8
"""After so many chunks what is done is flushed to the disk and noted, so that a killed build goes on from there."""
NETWORKS_OF_LATENTS = ("encoder.", "projector.", "proprioception.", "pixel_")
"""Tensors of a world model that decide its latents."""

Progress = Callable[[int, int], None]
"""Told rows done and in all."""


@dataclass(frozen=True, kw_only=True)
class LatentCache:
    """Latents and actions of a dataset, memory-mapped and read-only; row ``first_row[e] + t`` is env step t of episode e."""

    latents: np.ndarray
    """float32 [n, D]."""
    actions: np.ndarray
    """float32 [n, a] in env units (discrete: one-hot), taken after each row's observation; 0 in the last row of an episode, which has none."""
    first_row: np.ndarray
    """int64 [episodes]."""
    length: np.ndarray
    """int64 [episodes]: N."""
    sha256: str
    """Hash of the arrays."""
    still: np.ndarray | None = None
    """float32 [n, D]: latents of still stacks, the row's frame repeated; None where nothing is stacked."""

    @property
    def goals(self) -> np.ndarray:
        """float32 [n, D]: the latents of the same frames when they are shown as goals, which are still."""
        return self.latents if self.still is None else self.still

    def rows(self, episodes: np.ndarray, env_steps: np.ndarray) -> np.ndarray:
        """int64: where some observations are; ``episodes`` and ``env_steps`` are broadcast."""
        return np.asarray(self.first_row[episodes] + env_steps)

    def rows_of(self, episodes: np.ndarray) -> np.ndarray:
        """int64: where all observations of some episodes are, one episode after another."""
        return np.concatenate([self.first_row[episode] + np.arange(self.length[episode] + 1) for episode in episodes])


def latent_cache(
    model: WorldModel, store: Store, parent: Path, *, checkpoint_sha256: str, device: str = "cpu", progress: Progress | None = None
) -> LatentCache:
    """The cache of a model's latents of a dataset, in a directory of its own below ``parent``; built if it is not there yet.

    Where frames are stacked it also has the latents of still stacks; one from before there were any is left alone, and another one is built.
    The directory's name and its ``meta.json`` hold the hashes of the dataset and of the weights that decide latents, so a checkpoint that gains a
    head still finds it. A build that was cut off goes on where it noted its progress last. Opening verifies sizes and hashes; ``DataError`` says
    what is damaged and what to do.
    """
    latents_sha256, is_stacked = encoder_sha256(model), model.observation_spec.is_stacked
    number = FORMAT_WITH_STILL if is_stacked else FORMAT
    identity = {"format": number, "encoder_sha256": latents_sha256, "dataset_sha256": store.dataset_sha256}
    directory = parent / (f"{latents_sha256[:16]}-{store.dataset_sha256[:16]}" + ("-still" if is_stacked else ""))
    if not (directory / META_FILE).is_file():
        about = {"checkpoint_sha256": checkpoint_sha256, "num_rows": int((store.index["length"] + 1).sum()), "dimension": model.latent_dimension}
        _build(model, store, directory, identity | about, device, progress)
    return open_latents(directory, store, identity)


def encoder_sha256(model: WorldModel) -> str:
    """Names everything that decides the latents of a frame: the observation spec, and the tensors between pixels and latents."""
    digest = hashlib.sha256(repr(model.observation_spec).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(NETWORKS_OF_LATENTS):
            digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
    return digest.hexdigest()


def open_latents(directory: Path, store: Store, identity: dict[str, Any]) -> LatentCache:
    """Open a finished cache; ``DataError`` unless it is of this dataset and these weights, and whole."""
    try:
        meta = json.loads((directory / META_FILE).read_text())
        found = {name: meta[name] for name in identity}
        files = _files(identity)
        arrays = {name: np.load(directory / name, mmap_mode="r", allow_pickle=False) for name in files}
        sha256 = _hash(directory, files)
        is_whole = sha256 == meta["sha256"] and arrays[LATENTS_FILE].shape == (meta["num_rows"], meta["dimension"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, f"it cannot be read ({error})") from None
    if found != identity:
        raise _damaged(directory, f"it is of {found}, expected {identity}")
    if not is_whole or any(len(array) != meta["num_rows"] for array in arrays.values()):
        raise _damaged(directory, "its arrays are not what was written")
    return LatentCache(
        latents=arrays[LATENTS_FILE],
        actions=arrays[ACTIONS_FILE],
        first_row=_first_rows(store),
        length=store.index["length"].astype(np.int64),
        sha256=sha256,
        still=arrays.get(STILL_FILE),
    )


def _files(meta: dict[str, Any]) -> tuple[str, ...]:
    """The arrays of a cache."""
    return (LATENTS_FILE, ACTIONS_FILE, STILL_FILE) if meta["format"] == FORMAT_WITH_STILL else (LATENTS_FILE, ACTIONS_FILE)


def _build(model: WorldModel, store: Store, directory: Path, meta: dict[str, Any], device: str, progress: Progress | None) -> None:
    with reported_as_data_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
    lock = DirectoryLock(directory)
    try:
        if (directory / META_FILE).is_file():  # somebody else has just finished it
            return
        with reported_as_data_error(directory):
            _fill(model, store, directory, meta, device, progress)
            for name in _files(meta):
                os.replace(directory / (name + UNFINISHED), directory / name)
        write_atomically(directory / META_FILE, (json.dumps(meta | {"sha256": _hash(directory, _files(meta))}, indent=1) + "\n").encode())
        (directory / PROGRESS_FILE).unlink(missing_ok=True)
    finally:
        lock.release()


@torch.no_grad()
def _fill(model: WorldModel, store: Store, directory: Path, meta: dict[str, Any], device: str, progress: Progress | None) -> None:
    """Encode every chunk of episodes that is not noted as done."""
    num_done = _episodes_done(directory, meta)
    widths = {name: store.action_spec.dimension if name == ACTIONS_FILE else meta["dimension"] for name in _files(meta)}
    arrays = {
        name: np.lib.format.open_memmap(
            directory / (name + UNFINISHED), mode="r+" if num_done else "w+", dtype=np.float32, shape=(meta["num_rows"], width)
        )
        for name, width in widths.items()
    }
    first_row = _first_rows(store)
    model.eval()
    for number, episodes in enumerate(_chunks(store)):
        if episodes[-1] < num_done:
            continue
        rows = slice(int(first_row[episodes[0]]), int(first_row[episodes[-1]] + store.index["length"][episodes[-1]] + 1))
        observations = _observations(model, store, episodes)
        arrays[LATENTS_FILE][rows] = _encoded(model, observations, device)
        if STILL_FILE in arrays:
            arrays[STILL_FILE][rows] = _encoded(model, as_goals(observations, model.observation_spec), device)
        arrays[ACTIONS_FILE][rows] = np.concatenate([_actions(store, episode) for episode in episodes])
        if (number + 1) % CHUNKS_PER_NOTE == 0 or episodes[-1] + 1 == len(store):
            for array in arrays.values():
                array.flush()
            write_atomically(directory / PROGRESS_FILE, json.dumps(meta | {"episodes_done": int(episodes[-1]) + 1}).encode())
        if progress is not None:
            progress(rows.stop, meta["num_rows"])


def _encoded(model: WorldModel, observations: Observation[np.ndarray], device: str) -> np.ndarray:
    """float32 [n, D]: the latents of observations, so many at a time that a long episode needs no more memory than short ones."""
    latents = []
    for first in range(0, len(observations.frames), ROWS_PER_CHUNK):
        some = observations[np.arange(first, min(first + ROWS_PER_CHUNK, len(observations.frames)))]
        latents.append(model.encode(some.map(lambda array: torch.from_numpy(array).to(device))).float().cpu().numpy())
    return np.concatenate(latents)


def _episodes_done(directory: Path, meta: dict[str, Any]) -> int:
    """How many episodes an earlier build finished; 0 if there was none, or another one."""
    try:
        noted = json.loads((directory / PROGRESS_FILE).read_text())
        is_same = all(noted[name] == meta[name] for name in ("format", "encoder_sha256", "dataset_sha256", "num_rows", "dimension"))
        files = [np.load(directory / (name + UNFINISHED), mmap_mode="r") for name in _files(meta)]
        return int(noted["episodes_done"]) if is_same and all(len(file) == meta["num_rows"] for file in files) else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _chunks(store: Store) -> Iterator[np.ndarray]:
    """Ids of consecutive episodes that are encoded together: the same chunks for every build of a dataset."""
    chunk_of = _first_rows(store) // ROWS_PER_CHUNK
    for _, group in itertools.groupby(range(len(store)), key=lambda episode: chunk_of[episode]):
        yield np.fromiter(group, dtype=np.int64)


def _observations(model: WorldModel, store: Store, episodes: np.ndarray) -> Observation[np.ndarray]:
    """Every observation of some episodes, frames uint8 [n, V, Y, X, 3]; before an episode's first frame there is only the first frame."""
    spec, rows = model.observation_spec, [_episode_rows(store, episode) for episode in episodes]
    views = [
        np.concatenate(
            [_take(store, f"frames.{camera}", episode, np.maximum(own + offset, own[0])) for episode, own in zip(episodes, rows, strict=True)]
        )
        for camera in spec.cameras
        for offset in spec.stack_offsets_env_steps
    ]
    proprioception = None
    if spec.proprioception:
        proprioception = np.concatenate([_take(store, "proprioception", episode, own) for episode, own in zip(episodes, rows, strict=True)])
    return Observation(np.stack(views, axis=1), proprioception)


def _actions(store: Store, episode: int) -> np.ndarray:
    """float32 [N+1, a]: an episode's actions as a model sees them, and a row of zeros."""
    spec, rows = store.action_spec, _episode_rows(store, episode)[:-1]
    actions = np.zeros((len(rows) + 1, spec.dimension), np.float32)
    if spec.kind != "none":
        actions[:-1] = spec.as_blocks(_take(store, "actions", episode, rows), 1)
    return actions


def _episode_rows(store: Store, episode: int) -> np.ndarray:
    """int64 [N+1]: where an episode's observations are in its shard."""
    own = store.index[episode]
    return np.asarray(int(own["offset"]) + np.arange(int(own["length"]) + 1))


def _take(store: Store, name: str, episode: int, rows: np.ndarray) -> np.ndarray:
    columns: Sequence[Any] = store.columns(name, [int(store.index["shard"][episode])])
    return np.asarray(columns[0].take(rows, axis=0))


def _first_rows(store: Store) -> np.ndarray:
    ends = np.cumsum(store.index["length"].astype(np.int64) + 1)
    return np.concatenate([[0], ends[:-1]])


def _hash(directory: Path, files: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in files:
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _damaged(directory: Path, what: str) -> DataError:
    return DataError(f"the latents at {str(directory)!r} are damaged: {what}; delete that directory, and they are computed again")
