"""Tables of numbers beside the frames of an episode, csv, parquet or npy: which columns are actions, and which row belongs to which frame.

Axes: n row, N env step, a env action, P proprioception, s label.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lewm.data.formats.base import checked_actions, observed_action_spec
from lewm.data.formats.own_metadata import listed
from lewm.data.formats.recent import Recent
from lewm.data.layout import DISCRETE_ACTION_PADDING
from lewm.errors import ConfigError, DataError, MissingExtraError
from lewm.registry import did_you_mean
from lewm.schema import ActionSpec

TABLE_SUFFIXES = (".csv", ".parquet", ".npy")
MAX_KEPT_BYTES = 64 * 2**20
TIME_TOLERANCE = 1e-6
"""Of a row."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Which columns are what, by name; a column that is named nowhere is an action, unless ``actions`` says which are."""

    actions: tuple[str, ...] = ()
    proprioception: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    reward: str = ""
    num_choices: int = 0
    """Of discrete actions; 0 if they are continuous."""
    missing_actions: str = "refuse"

    def __post_init__(self) -> None:
        if self.missing_actions not in ("refuse", "zero"):
            raise ConfigError(f"missing_actions must be 'refuse' or 'zero', got {self.missing_actions!r}")
        named = self.named
        if len(set(named)) < len(named):
            raise ConfigError(f"a column can be one thing only, got {', '.join(named)}")

    @property
    def named(self) -> tuple[str, ...]:
        """All names."""
        return (*self.actions, *self.proprioception, *self.labels, *([self.reward] if self.reward else []))


def table_options(*, actions: str, proprioception: str, labels: str, reward: str, num_choices: int | str, missing_actions: str) -> TableOptions:
    """Options as they are typed: names with commas between."""
    try:
        choices = int(num_choices)
    except ValueError:
        choices = -1
    if choices < 0 or choices == 1:
        raise ConfigError(f"num_choices must be a whole number from 2 on, or 0 for continuous actions, got {num_choices!r}")
    return TableOptions(
        actions=listed(actions) or (),
        proprioception=listed(proprioception) or (),
        labels=listed(labels) or (),
        reward=str(reward),
        num_choices=choices,
        missing_actions=missing_actions,
    )


def is_yes(value: bool | str) -> bool:
    """An option that is on or off, as it is typed."""
    if str(value).lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ConfigError(f"an option that is on or off must be true or false, got {value!r}")
    return str(value).lower() in ("true", "1", "yes")


@dataclass(frozen=True)
class Table:
    """A table as it is in its file."""

    names: tuple[str, ...]
    values: np.ndarray
    """float64 [n, columns]."""


def read_table(path: Path) -> Table:
    """A table of numbers; ``DataError`` if it is damaged or has anything else in it."""
    try:
        table = {".csv": _read_csv, ".npy": _read_npy, ".parquet": _read_parquet}[path.suffix.lower()](path)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table of numbers ({error}); mend or restore it") from None
    if len(set(table.names)) < len(table.names) or not table.names:
        raise DataError(f"{str(path)!r} needs columns with distinct names, got {', '.join(table.names) or 'none'}")
    return table


def _read_csv(path: Path) -> Table:
    """Separated by commas; the first line has the names, unless it consists of numbers."""
    lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    names = tuple(name.strip() for name in next(csv.reader(lines[:1])))
    is_headless = all(_is_number(name) for name in names)
    rows = lines if is_headless else lines[1:]
    values = np.loadtxt(rows, delimiter=",", ndmin=2, comments=None, quotechar='"') if rows else np.zeros((0, len(names)))
    if values.shape[1] != len(names):
        raise ValueError(f"{len(names)} names for {values.shape[1]} columns")
    return Table(_numbered(len(names)) if is_headless else names, values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_npy(path: Path) -> Table:
    values: np.ndarray = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or values.ndim not in (1, 2):
        raise ValueError("an array of numbers with one or two dimensions is needed")
    values = values.astype(np.float64).reshape(len(values), -1)
    return Table(_numbered(values.shape[1]), values)


def _read_parquet(path: Path) -> Table:
    """Columns of numbers, or of lists of numbers as long as each other, which become ``name_0``, ``name_1``, ..."""
    try:
        from lewm.data.formats.parquet_rows import as_matrix, read_columns
    except ImportError:
        raise MissingExtraError(f"{str(path)!r} needs 'pyarrow': pip install 'lewm[video]'") from None
    names: list[str] = []
    parts: list[np.ndarray] = []
    for name, column in read_columns(path).items():
        matrix = as_matrix(column, f"column {name!r} of {str(path)!r}")
        names += [name] if matrix.ndim == 1 else [f"{name}_{number}" for number in range(matrix.shape[1])]
        parts.append(matrix.reshape(len(matrix), -1).astype(np.float64))
    return Table(tuple(names), np.concatenate(parts, axis=1) if parts else np.zeros((0, 0)))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"action_{number}" for number in range(count))


def held_rows(num_rows: int, rate_hz: float, times_s: np.ndarray, where: str) -> np.ndarray:
    """int64 [frames]: for each frame the last row that was recorded at or before it; row k is recorded k / ``rate_hz`` after the first frame.

    ``DataError`` if the rows end before the last env step begins, or begin later than one frame interval after the last frame. The last frame may be
    left with the number ``num_rows``: no env step starts there.
    """
    times_s = times_s - times_s[0]
    rows = np.floor(times_s * rate_hz + TIME_TOLERANCE).astype(np.int64)
    interval_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    starts_s, ends_s = (num_rows - 1) / rate_hz, num_rows / rate_hz
    if len(times_s) > 1 and (rows[-2] >= num_rows or starts_s > times_s[-1] + interval_s + TIME_TOLERANCE / rate_hz):
        raise DataError(
            f"{where}: {num_rows} rows at {rate_hz:g} Hz last {ends_s:.3f} s, the frames {times_s[-1] + interval_s:.3f} s; "
            "they do not belong together, or were recorded at another rate: --option fps=RATE is that of the rows"
        )
    return np.minimum(rows, num_rows)


class SideTables:
    """The tables of a dataset, one for each episode. Opening reads each once; later the latest are kept."""

    def __init__(self, files: Sequence[Path], options: TableOptions) -> None:
        self.files, self.options = list(files), options
        self._names = read_table(self.files[0]).names
        unknown = [name for name in options.named if name not in self._names]
        if unknown:
            raise ConfigError(f"{str(self.files[0])!r} has no column {unknown[0]!r}.{did_you_mean(unknown[0], self._names)}")
        self.action_names = options.actions or tuple(name for name in self._names if name not in options.named)
        self._kept: Recent[int, np.ndarray] = Recent(MAX_KEPT_BYTES, lambda values: values.nbytes)
        self._low = np.full(len(self.action_names), np.inf)
        self._high = -self._low

    def look_at(self, episode: int, num_transitions: int, rows: np.ndarray | None = None) -> None:
        """Take the actions of an episode into the action space; ``rows`` [frames] where they are not simply the first ones."""
        actions = self.actions(episode, np.arange(num_transitions) if rows is None else rows[:num_transitions])
        if len(actions):
            self._low = np.minimum(self._low, actions.reshape(len(actions), -1).min(0))
            self._high = np.maximum(self._high, actions.reshape(len(actions), -1).max(0))

    def action_spec(self) -> ActionSpec:
        """What was seen: bounds, or the number of choices."""
        if not self.action_names:
            return ActionSpec(kind="none")
        if self.options.num_choices:
            return ActionSpec(kind="discrete", num_choices=self.options.num_choices)
        return observed_action_spec(self._low.tolist(), self._high.tolist())

    def count(self, episode: int) -> int:
        """How many rows a table has."""
        return len(self._values(episode))

    def actions(self, episode: int, rows: np.ndarray) -> np.ndarray:
        """float32 [n, a], or int64 [n] if they are discrete."""
        where = f"{str(self.files[episode])!r}"
        values = self._columns(episode, self.action_names)[rows]
        if not self.options.num_choices:
            return checked_actions(values, where, missing=self.options.missing_actions)
        most = self.options.num_choices - 1
        if values.shape[1] != 1 or not np.isin(values, np.arange(most + 1)).all():
            raise DataError(
                f"{where}: choices must be one column of whole numbers from 0 to {most}, as num_choices says; leave it out if they are not"
            )
        return np.asarray(values[:, 0], np.int64)

    def finite(self, episode: int, names: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
        """float32 [n, names]: columns that may not have gaps."""
        values = np.asarray(self._columns(episode, names)[rows], np.float32)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise DataError(f"{str(self.files[episode])!r}: {names[column]} is {values[row, column]} in row {rows[row]}; mend it or leave it out")
        return values

    def rows(self, column: str, episode: int, rows: np.ndarray, num_transitions: int, table_rows: np.ndarray | None) -> np.ndarray:
        """Rows of a column of the dataset that is not frames, as ``EpisodeReader.rows`` gives them."""
        own = rows if table_rows is None else table_rows[rows]
        if column in ("proprioception", "labels"):
            return self.finite(episode, self.options.proprioception if column == "proprioception" else self.options.labels, own)
        is_transition = rows < num_transitions
        values = (
            self.actions(episode, own[is_transition])
            if column == "actions"
            else self.finite(episode, (self.options.reward,), own[is_transition])[:, 0]
        )
        padding = DISCRETE_ACTION_PADDING if values.dtype == np.int64 else np.nan
        out = np.full((len(rows), *values.shape[1:]), padding, values.dtype)
        out[is_transition] = values
        return out

    def _columns(self, episode: int, names: tuple[str, ...]) -> np.ndarray:
        return self._values(episode)[:, [self._names.index(name) for name in names]]

    def _values(self, episode: int) -> np.ndarray:
        return self._kept.get(episode, lambda: self._read(episode))

    def _read(self, episode: int) -> np.ndarray:
        table = read_table(self.files[episode])
        if table.names != self._names:
            missing = sorted(set(self._names) ^ set(table.names)) or ["another order"]
            raise DataError(f"{str(self.files[episode])!r} has other columns than {str(self.files[0])!r}: {', '.join(missing)}; give all the same")
        return table.values


def check_num_rows(tables: SideTables, episode: int, num_frames: int, whose: str, hint: str = "") -> None:
    """``DataError`` unless a table has a row per frame, or one fewer if it has nothing but what belongs to transitions."""
    num_rows = tables.count(episode)
    fewest = num_frames if tables.options.proprioception or tables.options.labels else num_frames - 1
    if not fewest <= num_rows <= num_frames:
        allowed = f"{num_frames}" if fewest == num_frames else f"{fewest} or {num_frames}"
        raise DataError(f"{str(tables.files[episode])!r} has {num_rows} rows for the {num_frames} frames of {whose!r}, {allowed} are needed{hint}")
