"""A Lance table of frames, as stable-worldmodel writes it: one row per observation, and no row is read that is not asked for.

Axes: n row, N env step, Y X image, P proprioception, a env action, s label, k numbers of a column.

Rows of an episode follow each other: ``episode_idx`` and ``step_idx`` number them. Frames are JPEG or PNG, other columns lists of k float32. The
action of a row leads to the next row, so an episode's last one is padding (NaN); a reward and ``terminated`` stand in the row that was reached.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lewm.data.formats.base import EpisodeReader, EpisodeSink, checked_actions, leave_out, observed_action_spec, padded
from lewm.data.formats.lance_layout import (
    ACTION,
    CHECK,
    EPISODE,
    REWARD,
    TERMINATED,
    chosen_roles,
    column_names,
    episode_starts,
    own_roles,
    row_checks,
    text_check,
)
from lewm.data.formats.lance_sink import LanceSink
from lewm.data.formats.lance_table import LanceTable, as_float32, companion, damaged, find_table, numbers, width
from lewm.data.formats.own_metadata import KEY, from_text, listed
from lewm.data.formats.pictures import decoded
from lewm.data.formats.store import ForeignStore, Format
from lewm.data.layout import DatasetMeta
from lewm.errors import ConfigError, DataError, LewmError
from lewm.schema import ActionSpec, ObservationSpec

logger = logging.getLogger(__name__)
MAX_TEXT = 4096
"""Characters of a text that still counts as a remark on an episode, and not as the description of a scene."""


class EpisodesTable:
    """The table beside the frames that has a row per episode, or nothing where there is none."""

    def __init__(self, frames: LanceTable, *, is_own: bool) -> None:
        self.path = companion(frames.path, "_episodes")
        self._is_own = is_own
        self._rows: dict[int, int] = {}
        self._table = LanceTable(self.path) if (self.path / "_versions").is_dir() else None
        self.lengths = np.zeros(0, np.int64)
        """int64 [listed episodes]: their env steps, if the table is ours."""
        if self._table is not None:
            listed_numbers = self._column(self._table, EPISODE)
            self._rows = {int(number): row for row, number in enumerate(listed_numbers)}
            if is_own:
                self.lengths = self._column(self._table, "num_env_steps")
        elif is_own:
            logger.warning("%s is missing, and with it what is known of single episodes", self.path)

    def _column(self, table: LanceTable, name: str) -> np.ndarray:
        if name not in table.schema.names or width(table.schema.field(name).type) != 1:
            raise damaged(self.path, f"it has no column {name!r} of numbers")
        parts = [numbers(batch.column(name), self.path, name)[:, 0] for batch in table.scan([name])]
        return np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int64)

    def provenance(self, number: int) -> dict[str, Any]:
        """Short texts and numbers of an episode; ours back as they were."""
        if self._table is None or number not in self._rows:
            return {}
        names = [field.name for field in self._table.schema if field.name != EPISODE and (width(field.type) == 1 or pa.types.is_string(field.type))]
        values = self._table.take(np.array([self._rows[number]]), names).to_pylist()[0] if names else {}
        if not self._is_own:
            return {name: value for name, value in values.items() if not (isinstance(value, str) and len(value) > MAX_TEXT)}
        try:
            if text_check(values["provenance"]) != values["check"]:
                raise ValueError("it does not have its checksum")
            return dict(json.loads(values["provenance"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(self.path, f"the provenance of episode {number}: {error}") from None


class LanceReader(EpisodeReader):
    """Episodes of one table."""

    def __init__(self, path: Path, *, num_choices: int, missing_actions: str, **options: tuple[str, ...] | None) -> None:
        self.path = path
        self._table = LanceTable(find_table(path))
        self._missing_actions = missing_actions
        text = (self._table.schema.metadata or {}).get(KEY.encode())
        own = None if text is None or any(option is not None for option in options.values()) else from_text(text, str(self._table.path))
        self._is_own = own is not None
        self._roles = chosen_roles(self._table, **options) if own is None else own_roles(self._table, own)
        self._all_starts, self._all_numbers = episode_starts(self._table)
        self._episodes = EpisodesTable(self._table, is_own=self._is_own)
        lengths = np.diff(self._all_starts) - 1
        if len(self._episodes.lengths) and not np.array_equal(lengths[: len(self._episodes.lengths)], self._episodes.lengths):
            raise damaged(self._table.path, f"its episodes are not the {len(self._episodes.lengths)} that {self._episodes.path.name} lists")
        kept = leave_out(path, lengths)
        self._starts, self.lengths, self._numbers = self._all_starts[kept], lengths[kept], self._all_numbers[kept]
        self.meta = self._foreign_meta(num_choices) if own is None else own
        self.terminated = self._read_terminated()

    def rows(self, column: str, episode: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a column, taken from the table by their numbers."""
        start, spec = int(self._starts[episode]), self.meta.action_spec
        where = f"{str(self._table.path)!r}, episode {int(self._numbers[episode])}"
        if column.startswith("frames."):
            size_px = (self.meta.observation_spec.height_px, self.meta.observation_spec.width_px)
            return self._frames(self._roles.frames[column.removeprefix("frames.")], start + rows, where, size_px)
        if column in ("labels", "proprioception"):
            return _finite(self._values(start + rows, self._roles.labels if column == "labels" else self._roles.proprioception), column, where)
        transitions = rows[rows < self.lengths[episode]]
        if column == "rewards":
            values = _finite(self._values(start + transitions + 1, [REWARD])[:, 0], column, where)
            return values if len(transitions) == len(rows) else padded(values)
        values = self._values(start + transitions, [ACTION])
        values = _choices(values, spec, where) if spec.kind == "discrete" else checked_actions(values, where, missing=self._missing_actions)
        return values if len(transitions) == len(rows) else padded(values, spec)

    def provenance(self, episode: int) -> dict[str, Any]:
        """What the table of episodes says of it; ours back as it was, others' with the name of the table."""
        number = int(self._numbers[episode])
        found = self._episodes.provenance(number)
        return found if self._is_own else {"source": self._table.path.name, "episode": number, **found}

    def fingerprint(self) -> str:
        """Of the files that make up the version of the table that was opened."""
        return self._table.fingerprint()

    def _foreign_meta(self, num_choices: int) -> DatasetMeta:
        path, roles = self._table.path, self._roles
        frames = self._frames(next(iter(roles.frames.values())), self._starts[:1], str(path), None)
        try:
            return DatasetMeta(
                observation_spec=ObservationSpec(
                    height_px=frames.shape[1],
                    width_px=frames.shape[2],
                    cameras=tuple(roles.frames),
                    proprioception=column_names(self._table, roles.proprioception),
                ),
                action_spec=self._foreign_actions(num_choices),
                label_names=column_names(self._table, roles.labels),
                has_rewards=roles.has_rewards,
                provenance={"format": "lance", "source": path.name},
            )
        except LewmError as error:
            raise DataError(f"{str(path)!r} cannot be read: {error}") from None

    def _foreign_actions(self, num_choices: int) -> ActionSpec:
        """Bounds as they were seen, for the table names none: every action is looked at once."""
        if not self._roles.has_actions:
            return ActionSpec(kind="none")
        if num_choices:
            if width(self._table.schema.field(ACTION).type) != 1:
                raise DataError("an action has several numbers, so it is no choice; leave out --option num_choices")
            return ActionSpec(kind="discrete", num_choices=num_choices)
        size = width(self._table.schema.field(ACTION).type)
        low, high, row = np.full(size or 0, np.inf), np.full(size or 0, -np.inf), 0
        for batch in self._table.scan([ACTION]):
            at = row + np.arange(batch.num_rows)
            leads_on = ~np.isin(at, self._all_starts[1:] - 1)
            row += batch.num_rows
            actions = as_float32(numbers(batch.column(ACTION), self._table.path, ACTION))[leads_on]
            if len(actions):
                actions = self._checked(actions, at[leads_on])
                low, high = np.minimum(low, actions.min(0)), np.maximum(high, actions.max(0))
        return observed_action_spec(low.tolist(), high.tolist())

    def _checked(self, actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Finite actions of some rows of the table; the first that is not is told by its episode."""
        bad = np.flatnonzero(~np.isfinite(actions).all(1))
        if not len(bad):
            return actions
        episode = int(np.searchsorted(self._all_starts, rows[bad[0]], "right")) - 1
        where = f"{str(self._table.path)!r}, episode {self._all_numbers[episode]}, counted from env step {rows[bad[0]] - self._all_starts[episode]}"
        checked_actions(actions[bad[:1]], where, missing=self._missing_actions)
        return checked_actions(actions, str(self._table.path), missing=self._missing_actions)

    def _read_terminated(self) -> np.ndarray:
        if TERMINATED not in self._table.schema.names or width(self._table.schema.field(TERMINATED).type) != 1:
            return np.zeros(len(self.lengths), bool)
        return np.asarray(self._values(self._starts + self.lengths, [TERMINATED])[:, 0] > 0)

    def _frames(self, column: str, rows: np.ndarray, where: str, size_px: tuple[int, int] | None) -> np.ndarray:
        """uint8 [n, Y, X, 3]."""
        if not len(rows):
            return np.zeros((0, *(size_px or (1, 1)), 3), np.uint8)
        contents = self._table.take(rows, [column]).column(column).to_pylist()
        if None in contents:
            raise damaged(self._table.path, f"row {int(rows[contents.index(None)])} of column {column!r} is empty")
        return np.stack([decoded(content, where, size_px=size_px) for content in contents])

    def _values(self, rows: np.ndarray, columns: Sequence[str]) -> np.ndarray:
        """float32 [n, k] of some columns side by side; a row of ours must have its checksum, for which all numbers are read."""
        schema = self._table.schema
        taken = [name for name in schema.names if width(schema.field(name).type)] if self._is_own else list(columns)
        found = self._table.take(rows, taken)
        parts = {name: as_float32(numbers(found.column(name), self._table.path, name)) for name in taken}
        if self._is_own and len(rows):
            checks = parts.pop(CHECK)[:, 0]
            wrong = np.flatnonzero(row_checks(list(parts.values())) != checks)
            if len(wrong):
                raise damaged(self._table.path, f"row {int(rows[wrong[0]])} does not have its checksum")
        return np.concatenate([parts[name] for name in columns], axis=1)


def _finite(values: np.ndarray, column: str, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        advice = "choose others with --option labels=NAMES" if column == "labels" else "mend the file"
        raise DataError(f"{where}: {column} must be finite, got {values[~np.isfinite(values)][0]}; {advice}")
    return values


def _choices(actions: np.ndarray, spec: ActionSpec, where: str) -> np.ndarray:
    """int64 [N]."""
    is_choice = np.isfinite(actions) & (actions >= 0) & (actions < spec.num_choices) & (np.rint(actions) == actions)
    if not is_choice.all():
        raise DataError(f"{where}: an action is {actions[~is_choice][0]}, not one of 0 to {spec.num_choices - 1}; mend the file or num_choices")
    return np.asarray(actions[:, 0].astype(np.int64))


class LanceFormat(Format):
    """A Lance table as stable-worldmodel writes it."""

    @staticmethod
    def open(
        path: Path,
        *,
        frames: str | None = None,
        proprioception: str | None = None,
        labels: str | None = None,
        num_choices: int | str = 0,
        missing_actions: str = "refuse",
    ) -> ForeignStore:
        """The table at ``path``, or the only one in it.

        ``frames``, ``proprioception`` and ``labels`` name columns, with commas between; ``num_choices`` reads actions as choices; ``missing_actions``
        is ``refuse`` or ``zero``.
        """
        try:
            choices = int(num_choices)
        except ValueError:
            raise ConfigError(f"num_choices must be a whole number, got {num_choices!r}") from None
        if choices < 0 or missing_actions not in ("refuse", "zero"):
            raise ConfigError(f"num_choices must be 0 or more and missing_actions refuse or zero, got {choices} and {missing_actions!r}")
        roles = {"frames": listed(frames), "proprioception": listed(proprioception), "labels": listed(labels)}
        return ForeignStore(LanceReader(path, num_choices=choices, missing_actions=missing_actions, **roles))

    @staticmethod
    def create(path: Path, meta: DatasetMeta, *, resume: bool) -> EpisodeSink:
        """A writer of PNG frames: slower than JPEG, and nothing is lost."""
        return LanceSink(path, meta, resume=resume)
