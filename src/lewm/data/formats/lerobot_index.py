"""Where the episodes of a LeRobot v3 dataset are: which rows of which file, and from when on in which video.

Axes: E episode, n row, a env action.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats import own_metadata
from lewm.data.formats.base import checked_actions
from lewm.data.formats.lerobot_layout import ACTION, DONE, EPISODES_DIRECTORY, OWN_DIRECTORY, OWN_META_FILE, TRUNCATED, Camera, Layout
from lewm.data.formats.parquet_rows import as_matrix, read_columns, reported_as_damaged
from lewm.data.layout import DatasetMeta
from lewm.errors import DataError


@dataclass(frozen=True, kw_only=True)
class EpisodeTable:
    """``meta/episodes``, in the order of the episodes' numbers."""

    number: np.ndarray
    """int64 [E]."""
    length: np.ndarray
    """int64 [E]: frames."""
    data: np.ndarray
    """int64 [E, 2]: chunk and file of the rows."""
    videos: dict[str, np.ndarray]
    """By feature, int64 [E, 2]: chunk and file."""
    starts_s: dict[str, np.ndarray]
    """By feature, float64 [E]: when the episode begins in its video."""
    tasks: list[list[str]]


def read_episode_table(layout: Layout, cameras: Sequence[Camera]) -> EpisodeTable:
    """The list of episodes; ``DataError`` if there are fewer than announced, or one is listed twice."""
    files = sorted((layout.root / EPISODES_DIRECTORY).glob("*/*.parquet"))
    if not files:
        raise DataError(f"{str(layout.root)!r} lists no episodes: {EPISODES_DIRECTORY} has no files; restore it")
    videos = [camera.key for camera in cameras if camera.is_video]
    numbers = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    numbers += [f"videos/{key}/{name}" for key in videos for name in ("chunk_index", "file_index", "from_timestamp")]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in numbers}
    tasks: list[list[str]] = []
    for file in files:
        read = read_columns(file, numbers, optional=["tasks"])
        for name in numbers:
            parts[name].append(as_matrix(read[name], f"column {name!r} of {str(file)!r}"))
        num_rows = len(read["length"])
        with reported_as_damaged(file):
            tasks += [[str(task) for task in each or ()] for each in read["tasks"].to_pylist()] if "tasks" in read else [[]] * num_rows
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    return _table(layout, columns, videos, tasks)


def _table(layout: Layout, columns: dict[str, np.ndarray], videos: list[str], tasks: list[list[str]]) -> EpisodeTable:
    for name, values in columns.items():
        if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
            raise DataError(f"{str(layout.root)!r}: {EPISODES_DIRECTORY} has something else than numbers from 0 on in column {name!r}; restore it")
    number = columns["episode_index"].astype(np.int64)
    order = np.argsort(number, kind="stable")
    twice = number[order][1:][np.diff(number[order]) == 0]
    if len(twice):
        raise DataError(f"{str(layout.root)!r} lists episode {int(twice[0])} twice; restore {EPISODES_DIRECTORY}")
    if len(number) < layout.num_episodes:
        raise DataError(f"{str(layout.root)!r} lists {len(number)} of {layout.num_episodes} episodes; restore {EPISODES_DIRECTORY}")

    def whole(*names: str) -> np.ndarray:
        return np.stack([columns[name][order].astype(np.int64) for name in names], axis=1)

    return EpisodeTable(
        number=number[order],
        length=columns["length"][order].astype(np.int64),
        data=whole("data/chunk_index", "data/file_index"),
        videos={key: whole(f"videos/{key}/chunk_index", f"videos/{key}/file_index") for key in videos},
        starts_s={key: columns[f"videos/{key}/from_timestamp"][order].astype(np.float64) for key in videos},
        tasks=[tasks[row] for row in order],
    )


def read_own_meta(root: Path) -> DatasetMeta | None:
    """The settings of the dataset that was written here; None in other people's."""
    file = root / OWN_META_FILE
    try:
        return own_metadata.from_text(file.read_bytes(), repr(str(file)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read ({error.strerror}); restore it") from None


def read_provenance(root: Path) -> dict[int, dict[str, Any]]:
    """What was noted of episodes when they were written here, by their numbers; nothing in other people's datasets."""
    found: dict[int, dict[str, Any]] = {}
    for file in sorted((root / OWN_DIRECTORY / "provenance").glob("*/*.jsonl")):
        try:
            entries = [json.loads(line) for line in file.read_text().splitlines()]
            found |= {int(entry["episode_index"]): dict(entry["provenance"]) for entry in entries}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{str(file)!r} cannot be read ({error}); restore it") from None
    return found


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What reading the small columns of every file once tells."""

    file: list[Path]
    """[E]."""
    first: np.ndarray
    """int64 [E]: row of the file with which an episode begins."""
    terminated: np.ndarray
    """bool [E]."""
    low: np.ndarray
    """[a]: least actions of all transitions."""
    high: np.ndarray
    is_discrete: bool


def find_rows(layout: Layout, table: EpisodeTable, *, missing_actions: str) -> Rows:
    """The rows of every episode; ``DataError`` if they are not as many as announced, in order and in one piece, or if an action is missing."""
    episodes = len(table.number)
    files = [layout.data_file(*place) for place in table.data.tolist()]
    first, terminated = np.full(episodes, -1, np.int64), np.zeros(episodes, bool)
    low, high, kinds = np.zeros(0), np.zeros(0), set()
    names = ["episode_index", *(name for name in ("frame_index", ACTION) if name in layout.features)]
    ends = [DONE, TRUNCATED] if {DONE, TRUNCATED} <= layout.features.keys() else []
    episodes_of: dict[Path, list[int]] = {}
    for episode, file in enumerate(files):
        episodes_of.setdefault(file, []).append(episode)
    for file, inside in episodes_of.items():
        columns = {name: as_matrix(values, f"column {name!r} of {str(file)!r}") for name, values in read_columns(file, names + ends).items()}
        where = {int(number): place for number, place in _runs(columns["episode_index"], file).items()}
        if ACTION in columns:
            kinds.add(columns[ACTION].dtype.kind if columns[ACTION].ndim == 1 else "f")
        for episode in inside:
            part = _part(table, episode, where, file)
            first[episode] = part.start
            _check_order(columns, part, file, int(table.number[episode]))
            if ends:
                terminated[episode] = bool((columns[DONE][part].astype(bool) & ~columns[TRUNCATED][part].astype(bool)).any())
            if ACTION in columns and part.stop - part.start > 1:
                own = _checked(columns[ACTION][part][:-1], f"{str(file)!r}, episode {table.number[episode]}", missing_actions)
                if len(low) not in (0, own.shape[1]):
                    raise DataError(f"{str(file)!r} has actions of {own.shape[1]} numbers, other files of {len(low)}; restore it")
                low = np.minimum(low, own.min(0)) if len(low) else own.min(0)
                high = np.maximum(high, own.max(0)) if len(high) else own.max(0)
    if len(kinds) > 1:
        raise DataError(f"{str(layout.root)!r} has actions of different types in its files; restore them")
    return Rows(file=files, first=first, terminated=terminated, low=low, high=high, is_discrete=bool(kinds & set("iub")))


def _checked(actions: np.ndarray, where: str, missing: str) -> np.ndarray:
    if actions.dtype.kind == "f" or actions.ndim > 1:
        return checked_actions(actions.reshape(len(actions), -1), where, missing=missing)
    if (actions < 0).any():
        raise DataError(f"{where}: discrete actions must be whole numbers from 0 on, got {actions.min()}")
    return actions.reshape(-1, 1)


def _runs(numbers: np.ndarray, file: Path) -> dict[int, slice]:
    """Rows of each episode in a file; ``DataError`` if one comes in two pieces."""
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError(f"{str(file)!r}: column 'episode_index' must be whole numbers, got {numbers.dtype.name}; restore the file")
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)] if len(numbers) else []
    found: dict[int, slice] = {}
    for start, stop in pairwise(edges):
        if int(numbers[start]) in found:
            raise DataError(f"{str(file)!r} has episode {int(numbers[start])} in two pieces; restore it")
        found[int(numbers[start])] = slice(start, stop)
    return found


def _part(table: EpisodeTable, episode: int, where: dict[int, slice], file: Path) -> slice:
    number, length = int(table.number[episode]), int(table.length[episode])
    part = where.get(number, slice(0, 0))
    if part.stop - part.start != length:
        raise DataError(f"{str(file)!r} has {part.stop - part.start} of the {length} rows of episode {number}; restore it")
    return part


def _check_order(columns: dict[str, np.ndarray], part: slice, file: Path, number: int) -> None:
    frames = columns.get("frame_index")
    if frames is not None and not np.array_equal(frames[part], np.arange(part.stop - part.start)):
        raise DataError(f"{str(file)!r}: the rows of episode {number} are not in the order of their frames; restore it")
