"""Any recording as a dataset: the native one as it is, other formats behind the same interface, decoded as they are read.

Axes: n row, N env step, V view (here: camera), Y X image, a env action.
"""

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lewm.data.episodes import EpisodeStore
from lewm.data.formats.base import EpisodeReader, EpisodeSink
from lewm.data.formats.recognition import recognise
from lewm.data.layout import INDEX_DTYPE, DatasetMeta
from lewm.errors import ConfigError, DataError
from lewm.registry import FORMATS, did_you_mean
from lewm.schema import ActionSpec, Episode, Observation, ObservationSpec

UNKNOWN_SEED = -1


class ForeignColumn:
    """One column of one episode, read when rows are asked for: as much of an array as the cutting of clips needs."""

    def __init__(self, reader: EpisodeReader, name: str, episode: int) -> None:
        column = reader.meta.columns[name]
        self._reader, self._name, self._episode = reader, name, episode
        self.dtype = column.dtype
        self.shape = (int(reader.lengths[episode]) + 1, *column.shape)

    def take(self, rows: np.ndarray, axis: int = 0, out: np.ndarray | None = None, mode: str = "raise") -> np.ndarray:
        """Rows, int64 of any shape, into ``out`` if given; each is decoded once, however often it is asked for. ``mode`` changes nothing."""
        assert axis == 0
        distinct, places = np.unique(rows, return_inverse=True)
        found = self._reader.rows(self._name, self._episode, distinct)[places.reshape(np.shape(rows))]
        if out is None:
            return found
        out[...] = found
        return out

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(self.shape[0])[part]
        return self.take(rows)


class ForeignStore:
    """Other people's episodes with the interface of ``EpisodeStore``: every episode is a shard of its own."""

    def __init__(self, reader: EpisodeReader) -> None:
        self.reader = reader
        self.path = reader.path
        self.meta: DatasetMeta = reader.meta
        number = np.arange(len(reader.lengths))
        self.index = np.zeros(len(number), INDEX_DTYPE)
        self.index["id"] = self.index["shard"] = number
        self.index["length"], self.index["terminated"] = reader.lengths, reader.terminated
        self.index["seed"] = UNKNOWN_SEED

    def __len__(self) -> int:
        return len(self.index)

    @property
    def episode_ids(self) -> np.ndarray:
        """int64 [episodes]."""
        return self.index["id"].copy()

    @property
    def num_env_steps(self) -> int:
        """Env steps of all episodes together."""
        return int(self.index["length"].sum())

    @property
    def num_shards(self) -> int:
        """As many as episodes."""
        return len(self.index)

    @property
    def observation_spec(self) -> ObservationSpec:
        """Of the decoded frames: one view per camera."""
        return self.meta.observation_spec

    @property
    def action_spec(self) -> ActionSpec:
        """The actions, in the file's units."""
        return self.meta.action_spec

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return self.meta.label_names

    @property
    def env(self) -> dict[str, Any]:
        """Empty unless the file names one of our worlds."""
        return dict(self.meta.env)

    @property
    def dataset_sha256(self) -> str:
        """Names the content by the reader's fingerprint and what the reader makes of it."""
        return hashlib.sha256(json.dumps([self.meta.identity(), self.reader.fingerprint()], sort_keys=True).encode()).hexdigest()

    def columns(self, name: str, shards: Sequence[int]) -> list[ForeignColumn]:
        """The column ``name`` of each episode."""
        return [ForeignColumn(self.reader, name, int(shard)) for shard in shards]

    def episode(self, episode_id: int, first_env_step: int = 0, num_env_steps: int | None = None) -> Episode:
        """The episode with an id, or ``num_env_steps`` of it from ``first_env_step`` on."""
        if not 0 <= episode_id < len(self):
            raise DataError(f"dataset {str(self.path)!r} has episodes 0 to {len(self) - 1}, got {episode_id}")
        names, length = self.meta.columns, int(self.index["length"][episode_id])
        num_env_steps = length - first_env_step if num_env_steps is None else num_env_steps

        def read(name: str, num_rows: int) -> np.ndarray | None:
            return self.reader.rows(name, episode_id, np.arange(first_env_step, first_env_step + num_rows)) if name in names else None

        cameras = [read(f"frames.{camera}", num_env_steps + 1) for camera in self.observation_spec.cameras]
        views = [camera for camera in cameras if camera is not None]
        frames = views[0][:, None] if len(views) == 1 else np.stack(views, axis=1)  # no copy where one view is all
        return Episode(
            observations=Observation(frames, read("proprioception", num_env_steps + 1)),
            actions=read("actions", num_env_steps),
            labels=read("labels", num_env_steps + 1),
            rewards=read("rewards", num_env_steps),
            terminated=bool(self.index["terminated"][episode_id]) and first_env_step + num_env_steps == length,
            seed=UNKNOWN_SEED,
            provenance=self.reader.provenance(episode_id),
        )

    def action_statistics(self, episode_ids: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the continuous actions of some episodes, per dimension [a]."""
        if self.action_spec.kind != "continuous":
            raise DataError(f"only continuous actions have a mean and a standard deviation, {str(self.path)!r} has kind {self.action_spec.kind!r}")
        lengths = self.index["length"]
        parts = [self.reader.rows("actions", int(number), np.arange(lengths[number])) for number in np.asarray(episode_ids)]
        if not parts:
            raise DataError(f"no episodes of {str(self.path)!r} to take action statistics from; record more, or hold out fewer")
        actions = np.concatenate(parts).astype(np.float64)
        return tuple(actions.mean(0).tolist()), tuple(actions.std(0).tolist())


Store = EpisodeStore | ForeignStore


class Format(ABC):
    """One line of the table of formats. Its ``open`` may have keyword-only options with defaults; the command line passes them as ``--option``."""

    IS_LOSSLESS: ClassVar[bool] = True
    """Whether frames come back from what it writes as they were."""

    @staticmethod
    @abstractmethod
    def open(path: Path) -> Store:
        """Open for reading; ``DataError`` says what is wrong with the files, ``ConfigError`` what is wrong with the options."""

    @staticmethod
    def create(path: Path, meta: DatasetMeta, *, resume: bool) -> EpisodeSink:
        """Open for writing; ``DataError`` if ``path`` exists and ``resume`` is False, or if the format cannot hold such episodes."""
        raise DataError("this format can be read but not written; `lewm list formats` says which can")


def open_store(path: Path | str, *, format: str | None = None, options: dict[str, Any] | None = None) -> Store:
    """The recording at ``path``, of the named format or of the one that it is recognised as.

    ``options`` are the format's own. ``DataError`` if nothing is there, it is of no known format, or it is damaged; ``MissingExtraError`` names what
    must be installed.
    """
    path = Path(path)
    name = format or format_of(path)
    format_class = load_format(name)
    known = inspect.signature(format_class.open).parameters
    for option in options or {}:
        if option not in known or option == "path":
            raise ConfigError(f"unknown option {option!r} of format {name!r}.{did_you_mean(option, [key for key in known if key != 'path'])}")
    return format_class.open(path, **(options or {}))


def format_of(path: Path) -> str:
    """The format that ``path`` is recognised as; ``DataError`` if it is none."""
    if not path.exists():
        raise DataError(f"there is no dataset at {str(path)!r}; `lewm collect ENV --out {path} --episodes N` makes one")
    name = recognise(path)
    if name is None:
        raise DataError(f"there is no dataset at {str(path)!r}: it is none of {', '.join(FORMATS)}; name its format with --format if you know it")
    return name


def load_format(name: str) -> type[Format]:
    """The format called ``name``; ``UnknownNameError`` or ``MissingExtraError`` if it cannot be had."""
    found: type[Format] = FORMATS.load(name)
    return found
