"""What a data format has to offer: a reader of episodes, row by row, and where it can be written, a sink for them.

Axes: n row, N env step, Y X image, P proprioception, a env action, s label. An episode of N env steps has N + 1 rows in every column, as in the
native store: what belongs to a transition stands in the row where the transition starts, and the last row of it is padding.
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from lewm.data.layout import ACTION_PADDING, DISCRETE_ACTION_PADDING, REWARD_PADDING, DatasetMeta
from lewm.errors import DataError
from lewm.schema import ActionSpec, Episode

logger = logging.getLogger(__name__)
FINGERPRINT_BYTES = 2**16
"""So much of each end of a file is read for a fingerprint."""


class EpisodeReader(ABC):
    """Other people's episodes, a few rows at a time. Safe from several threads; closed when it is dropped.

    A reader sets these in its constructor, which refuses damaged files with ``DataError`` as far as it can without reading all frames. It leaves
    out episodes without a transition, with ``leave_out``.
    """

    path: Path
    meta: DatasetMeta
    """Specifications, label names, ``provenance`` with ``source`` and ``format``; ``env`` stays empty unless the file names one of ours."""
    lengths: np.ndarray
    """int64 [episodes]: env steps N, at least 1 each."""
    terminated: np.ndarray
    """bool [episodes]: whether the world ended the episode; False where nobody says."""

    @abstractmethod
    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a column of ``meta.columns``, [n, ...] with its dtype and shape; ``rows`` is int64 [n], ascending and distinct, within 0 .. N.

        Frames are decoded for these rows only, as far as the format allows. The padding row N of actions and rewards is what the native store has
        there (``padded``).
        """

    def provenance(self, episode: int) -> dict[str, Any]:
        """Anything particular to an episode, JSON-serialisable: source file, task text."""
        return {}

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 that names the content: of the files' names, sizes and ends (``fingerprint_of``), for reading all of them would take too long."""

    def close(self) -> None:  # noqa: B027  # many readers keep nothing open
        """Let go of open files; harmless when called twice."""


class EpisodeSink(Protocol):
    """Takes episodes in order and writes them; a context manager that leaves no half-written episode behind that a reader would take for whole."""

    def __len__(self) -> int:
        """Episodes that are there already, when resuming."""

    def append(self, episode: Episode) -> int:
        """Add an episode and return its number; ``DataError`` if the disk is full."""

    def __enter__(self) -> "EpisodeSink": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None: ...


def leave_out(path: Path, lengths: np.ndarray) -> np.ndarray:
    """int64: numbers of the episodes that have a transition, warning of the others; ``DataError`` if there is none. ``lengths``: env steps."""
    kept = np.flatnonzero(np.asarray(lengths) >= 1)
    if len(kept) == 0:
        raise DataError(f"{str(path)!r} has no episode with two observations or more; there is nothing to learn from")
    if len(kept) < len(lengths):
        logger.warning("%s: %d of %d episodes have fewer than two observations and are left out", path, len(lengths) - len(kept), len(lengths))
    return kept


def padded(values: np.ndarray, spec: ActionSpec | None = None) -> np.ndarray:
    """Values of N transitions with the native store's padding as row N: of actions if ``spec`` is theirs, else of rewards."""
    padding = REWARD_PADDING if spec is None else DISCRETE_ACTION_PADDING if spec.kind == "discrete" else ACTION_PADDING
    return np.concatenate([values, np.full((1, *values.shape[1:]), padding, values.dtype)])


def observed_action_spec(low: Sequence[float], high: Sequence[float]) -> ActionSpec:
    """Continuous actions bounded by what was seen, for files that name no bounds; a dimension that never varies is given 1 on either side."""
    lows, highs = np.asarray(low, np.float32), np.asarray(high, np.float32)
    is_constant = lows >= highs
    lows, highs = np.where(is_constant, lows - 1, lows), np.where(is_constant, highs + 1, highs)
    return ActionSpec(kind="continuous", low=tuple(lows.tolist()), high=tuple(highs.tolist()))


def checked_actions(actions: np.ndarray, where: str, *, missing: str = "refuse") -> np.ndarray:
    """float32 [N, a] of one episode's transitions; NaN, which some writers use for a missing action, becomes 0 if ``missing`` is ``zero``.

    ``DataError`` otherwise, and for infinite values. The action of the last observation leads nowhere and must have been cut off before.
    """
    actions = np.asarray(actions, np.float32)
    is_missing = np.isnan(actions)
    if is_missing.any() and missing == "zero":
        actions = np.where(is_missing, np.float32(0), actions)
    if not np.isfinite(actions).all():
        row = int(np.flatnonzero(~np.isfinite(actions).reshape(len(actions), -1).all(1))[0])
        raise DataError(f"{where}: the action of env step {row} is {actions[row].tolist()}; mend the file, or pass --option missing_actions=zero")
    return actions


def fingerprint_of(root: Path, files: Sequence[Path], *more: str) -> str:
    """SHA-256 of the names below ``root``, sizes and both ends of files, and of ``more``: another after nearly any change, in little time."""
    digest = hashlib.sha256("\n".join(more).encode())
    for file in sorted(files):
        size = file.stat().st_size
        name = file.relative_to(root).as_posix() if file != root else file.name
        digest.update(f"\n{name} {size} ".encode())
        with open(file, "rb") as opened:
            digest.update(opened.read(FINGERPRINT_BYTES))
            opened.seek(max(0, size - FINGERPRINT_BYTES))
            digest.update(opened.read(FINGERPRINT_BYTES))
    return digest.hexdigest()
