"""From one data format to another: ``lewm convert``.

Episodes are read and written one by one, so memory does not grow with the dataset. An interrupted conversion goes on where it was; at the end what
was written is read again and compared with what was meant.

Axes: N env step, V view, Y X image.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.episodes import EpisodeStore
from lewm.data.formats.store import Store, load_format, open_store
from lewm.data.layout import DatasetMeta
from lewm.data.resizing import Resizing
from lewm.envs.stress import FAMILY, LowDimension, Stress, make_stress
from lewm.errors import ConfigError, DataError
from lewm.registry import ENVS
from lewm.schema import Episode, Observation
from lewm.seeds import hash64
from lewm.versions import versions

MAX_EPISODE_BYTES = 2 * 2**30
"""Longer episodes must be cut: a whole one is held in memory."""
STRESS_SEED = 13
LOSSY_PSNR_DB = 38.0
"""What frames that were stored with loss must reach, each episode as a whole."""


@dataclass(frozen=True)
class Piece:
    """What becomes one episode of the new dataset."""

    episode: int
    first_env_step: int
    num_env_steps: int


@dataclass(frozen=True, kw_only=True)
class ConversionProgress:
    """How far a conversion has come."""

    stage: str
    """``writing`` or ``verifying``."""
    num_done: int
    num_episodes: int
    num_frame_bytes: int
    """Of decoded frames, in this stage."""
    elapsed_s: float


def convert(
    source: Path | str,
    out: Path | str,
    *,
    to: str = "native",
    format: str | None = None,
    options: dict[str, Any] | None = None,
    resizing: Resizing | None = None,
    max_env_steps: int | None = None,
    stress: str | None = None,
    resume: bool = False,
    verify: bool = True,
    command: str = "",
    progress: Callable[[ConversionProgress], None] | None = None,
) -> dict[str, Any]:
    """Write the recording at ``source`` in the format ``to`` at ``out``; what was done, as plain JSON values.

    ``format`` and ``options`` are the source's. ``resizing`` changes all frames; ``max_env_steps`` cuts longer episodes into pieces, each beginning
    with the observation at which the one before ended; ``stress`` draws a nuisance over the frames (``envs/stress.py``), which follows each
    episode's seed or, where there is none, its number. ``resume`` continues an interrupted conversion of the same source. With ``verify`` every
    number, and frames as far as the format keeps them, are read back and compared. ``DataError`` for damaged sources, an existing ``out``, a full
    disk, and for a result that is not what was meant.
    """
    start_s = time.monotonic()
    store = open_store(source, format=format, options=options)
    pieces = cut_into_pieces(store, max_env_steps)
    change = _Change(store, resizing, None if stress is None else make_stress(stress))
    meta = _converted_meta(change, pieces, max_env_steps, stress, command)
    target = load_format(to)
    _refuse_itself(Path(source), Path(out))
    state, digests = _State(len(pieces), progress), dict[int, dict[str, bytes]]()
    with target.create(Path(out), meta, resume=resume) as sink:
        num_before = len(sink)
        if num_before > len(pieces):
            raise DataError(f"{str(out)!r} already has {num_before} episodes and the source has {len(pieces)}; choose another place")
        for number in range(num_before, len(pieces)):
            episode = change.converted(pieces[number])
            sink.append(episode)
            if verify:
                digests[number] = _digests(episode)
            state.tell("writing", number + 1, episode)
    written = open_store(out, format=to)
    _check_counts(written, pieces)
    quality: dict[str, float] = {}
    if verify:
        quality = _verify(written, lambda number: change.converted(pieces[number]), digests, state, is_lossless=target.IS_LOSSLESS)
    return {
        "source": {"format": store.meta.provenance.get("format", "native"), "dataset_sha256": store.dataset_sha256, "num_episodes": len(store)},
        "to": to,
        "dataset_sha256": written.dataset_sha256,
        "num_episodes": len(pieces),
        "num_resumed": num_before,
        "num_env_steps": sum(piece.num_env_steps for piece in pieces),
        "verified": verify,
        **quality,
        "seconds": round(time.monotonic() - start_s, 3),
    }


def cut_into_pieces(store: Store, max_env_steps: int | None) -> list[Piece]:
    """All episodes, those longer than ``max_env_steps`` in pieces; ``DataError`` for one that is too large for memory."""
    if max_env_steps is not None and max_env_steps < 1:
        raise ConfigError(f"max_env_steps must be at least 1, got {max_env_steps}")
    pieces = []
    for episode, length in enumerate(store.index["length"].tolist()):
        size = min(length, max_env_steps or length)
        if (size + 1) * store.meta.row_bytes > MAX_EPISODE_BYTES:
            most = MAX_EPISODE_BYTES // store.meta.row_bytes - 1
            raise DataError(f"episode {episode} has {length:,} env steps, too many to hold in memory: cut it with --max-env-steps {min(most, 1000)}")
        pieces += [Piece(episode, first, min(size, length - first)) for first in range(0, length, size)]
    return pieces


def _refuse_itself(source: Path, out: Path) -> None:
    if out.exists() and source.resolve() == out.resolve():
        raise DataError(f"{str(out)!r} is the source itself; choose another place")


@dataclass(frozen=True)
class _Change:
    """What becomes of a source's episodes."""

    store: Store
    resizing: Resizing | None
    stress: Stress | None

    def converted(self, piece: Piece) -> Episode:
        """One episode of the new dataset."""
        if isinstance(self.store, EpisodeStore):
            episode = _part(self.store.episode(piece.episode), piece)
        else:
            episode = self.store.episode(piece.episode, piece.first_env_step, piece.num_env_steps)
        if self.resizing is not None:
            observations = Observation(self.resizing.apply(episode.observations.frames), episode.observations.proprioception)
            episode = dataclasses.replace(episode, observations=observations)
        return episode if self.stress is None else self._stressed(self.stress, episode, piece)

    def _stressed(self, stress: Stress, episode: Episode, piece: Piece) -> Episode:
        seed = episode.seed if episode.seed >= 0 else int(hash64(np.array([piece.episode], np.uint64), STRESS_SEED)[0])
        frames = episode.observations.frames.copy()
        clocks = range(piece.first_env_step, piece.first_env_step + len(frames))
        for frame, env_step in zip(frames, clocks, strict=True):
            stress.draw(frame, seed, env_step)
        nuisance = np.stack([stress.values(seed, env_step) for env_step in clocks])
        labels = nuisance if episode.labels is None else np.concatenate([episode.labels, nuisance], axis=1)
        observations = Observation(frames, episode.observations.proprioception)
        return dataclasses.replace(episode, observations=observations, labels=labels if labels.shape[1] else None)


def _converted_meta(change: _Change, pieces: Sequence[Piece], max_env_steps: int | None, stress: str | None, command: str) -> DatasetMeta:
    store, resizing = change.store, change.resizing
    spec, env, names = store.observation_spec, store.env, store.label_names
    conversion: dict[str, Any] = {"source_sha256": store.dataset_sha256}
    provenance = store.meta.provenance | {"versions": versions(), "command": command}
    if resizing is not None:
        resizing.box(spec.height_px, spec.width_px)  # refuses what would be distorted, before anything is written
        spec = dataclasses.replace(spec, height_px=resizing.height_px, width_px=resizing.width_px)
        conversion["resizing"] = dataclasses.asdict(resizing)
        provenance, env = provenance | ({"resized_from_env": env} if env else {}), {}  # the world draws other frames than these
    if max_env_steps is not None:
        conversion["max_env_steps"] = max_env_steps
    if change.stress is not None:
        if isinstance(change.stress, LowDimension):
            raise ConfigError("the stress low-dimension changes what actions do, not what frames show: collect stress/low-dimension/<env> instead")
        conversion["stress"] = stress
        names += change.stress.label_names
        if env:
            env |= {"name": f"{FAMILY}{stress}/{env['name']}", "version": ENVS.load(f"{FAMILY}{stress}/{env['name']}").VERSION}
    collection = store.meta.collection | {"conversion": conversion}
    meta = dataclasses.replace(store.meta, observation_spec=spec, env=env, label_names=names, collection=collection, provenance=provenance)
    return meta.with_shards_for(max(piece.num_env_steps for piece in pieces))


def _part(episode: Episode, piece: Piece) -> Episode:
    first, last = piece.first_env_step, piece.first_env_step + piece.num_env_steps
    if (first, last) == (0, episode.num_env_steps):
        return episode
    return dataclasses.replace(
        episode,
        observations=episode.observations[first : last + 1],
        actions=None if episode.actions is None else episode.actions[first:last],
        labels=None if episode.labels is None else episode.labels[first : last + 1],
        rewards=None if episode.rewards is None else episode.rewards[first:last],
        terminated=episode.terminated and last == episode.num_env_steps,
    )


class _State:
    """Tells how far the conversion has come."""

    def __init__(self, num_episodes: int, progress: Callable[[ConversionProgress], None] | None) -> None:
        self._num_episodes, self._progress = num_episodes, progress
        self._stage, self._num_bytes, self._start_s = "", 0, time.monotonic()

    def tell(self, stage: str, num_done: int, episode: Episode) -> None:
        """One more episode."""
        if stage != self._stage:
            self._stage, self._num_bytes, self._start_s = stage, 0, time.monotonic()
        self._num_bytes += episode.observations.frames.nbytes
        if self._progress is not None:
            elapsed_s = time.monotonic() - self._start_s
            self._progress(
                ConversionProgress(
                    stage=stage, num_done=num_done, num_episodes=self._num_episodes, num_frame_bytes=self._num_bytes, elapsed_s=elapsed_s
                )
            )


def _check_counts(written: Store, pieces: Sequence[Piece]) -> None:
    found, meant = written.index["length"].tolist(), [piece.num_env_steps for piece in pieces]
    if found != meant:
        raise DataError(
            f"{str(written.path)!r} has {len(found)} episodes of {sum(found)} env steps, meant were {len(meant)} of {sum(meant)}: "
            "its writer or reader is at fault; please report this"
        )


def _verify(
    written: Store, source: Callable[[int], Episode], digests: dict[int, dict[str, bytes]], state: _State, *, is_lossless: bool
) -> dict[str, float]:
    """Compare all episodes with what was meant; the worst PSNR of an episode's frames where they were stored with loss.

    ``digests`` are those of the episodes that were just written; others, and frames that were stored with loss, are read from the source again.
    """
    worst = float("inf")
    for number in range(len(written)):
        found = written.episode(number)
        meant = source(number) if number not in digests or not is_lossless else None
        expected = digests.get(number) or _digests(meant)
        if not is_lossless and meant is not None:
            worst = min(worst, psnr_db(found.observations.frames, meant.observations.frames))
        actual = _digests(found)
        different = [name for name in expected if actual[name] != expected[name] and (is_lossless or name != "frames")]
        if different or worst < LOSSY_PSNR_DB:
            what = ", ".join(different) or f"frames (PSNR {worst:.1f} dB, {LOSSY_PSNR_DB:.0f} meant)"
            raise DataError(
                f"{str(written.path)!r}: {what} of episode {number} are not what was meant; check the disk, then convert to another place"
            )
        state.tell("verifying", number + 1, found)
    return {} if is_lossless else {"psnr_db": round(worst, 2)}


def _digests(episode: Episode | None) -> dict[str, bytes]:
    """SHA-256 of each column of an episode, with its type and shape."""
    assert episode is not None
    columns = {
        "frames": episode.observations.frames,
        "proprioception": episode.observations.proprioception,
        "actions": episode.actions,
        "labels": episode.labels,
        "rewards": episode.rewards,
        "terminated": np.array(episode.terminated),
    }
    return {name: b"" if array is None else _digest(array) for name, array in columns.items()}


def _digest(array: np.ndarray) -> bytes:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def psnr_db(found: np.ndarray, meant: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 frames: infinite for equal ones, minus infinity for those of another shape."""
    if found.shape != meant.shape:
        return float("-inf")
    squares = 0.0
    for one, other in zip(found, meant, strict=True):  # frame by frame: differences take more memory than frames
        squares += float(np.square(one.astype(np.float32) - other).sum(dtype=np.float64))
    error = squares / max(1, found.size)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
