"""Columns of numbers in other people's files: the names of what is in a row, and what kind of actions a column holds.

Axes: n row, k number in a row, a env action.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from lewm.data.formats.base import observed_action_spec, padded
from lewm.errors import ConfigError, DataError
from lewm.schema import ActionSpec

BLOCK_ROWS = 2**13
"""Read at once: for columns in chunks of one row, HDF5 needs kilobytes for every chunk that it reads in one go."""
MISSING_ACTIONS = ("refuse", "zero")


def as_matrix(values: np.ndarray) -> np.ndarray:
    """float32 [n, k] of values [n, ...]."""
    return np.ascontiguousarray(values.reshape(len(values), int(np.prod(values.shape[1:], dtype=np.int64))), np.float32)


def number_names(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the numbers in a row of a column [n, ...]: its own if there is one for each row, else ``name_0``, ``name_1``, ..."""
    return (name,) if len(shape) == 1 else tuple(f"{name}_{number}" for number in range(int(np.prod(shape[1:], dtype=np.int64))))


def check_num_choices(value: int | str) -> int:
    """The option ``num_choices``: 0, or at least 2; ``ConfigError`` for anything else."""
    if not str(value).isdigit() or int(value) == 1:
        raise ConfigError(f"num_choices must be 0 or a whole number of at least 2, got {value!r}")
    return int(value)


def check_missing_actions(value: str) -> str:
    """The option ``missing_actions``; ``ConfigError`` if it is none of its values."""
    if value not in MISSING_ACTIONS:
        raise ConfigError(f"missing_actions must be one of {', '.join(MISSING_ACTIONS)}, got {value!r}")
    return value


def action_spec_of(
    read: Callable[[int, int], np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    is_transition: np.ndarray,
    where: str,
    missing: str,
    num_choices: int = 0,
) -> ActionSpec:
    """The spec of a column [n, a] or [n], from one pass over it, block by block.

    ``read(first, last)`` gives some rows, ``is_transition`` (bool [n]) says which count. Floats are continuous, bounded by what was seen; one whole
    number per row is a choice, among as many as were seen or, for floats too, among ``num_choices``.
    """
    width = int(np.prod(shape[1:], dtype=np.int64))
    is_discrete = dtype.kind in "biu" or num_choices > 0
    if len(shape) > 2 or width < 1 or dtype.kind not in "biuf" or (is_discrete and width > 1):
        raise DataError(f"{where} must be [rows, dimensions] of floats, or one whole number per row, got {dtype} {list(shape)}")
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for first in range(0, shape[0], BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, shape[0])
        counted = np.flatnonzero(is_transition[first:last])
        values = read(first, last).reshape(last - first, width)[counted]
        if dtype.kind == "f":
            values = checked_rows(values, where, missing, counted + first)
        if num_choices and ((values < 0) | (values >= num_choices) | (values != np.rint(values))).any():
            raise DataError(f"{where}: actions are not all among 0 to {num_choices - 1}; mend the file, or num_choices")
        if len(values):
            low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
    if not is_discrete:
        return observed_action_spec(low.tolist(), high.tolist())
    if num_choices:
        return ActionSpec(kind="discrete", num_choices=num_choices)
    if low[0] < 0:
        raise DataError(f"{where}: discrete actions must be 0 or more, got {int(low[0])}; the choice at an episode's end does not count")
    return ActionSpec(kind="discrete", num_choices=max(2, int(high[0]) + 1))


def checked_rows(values: np.ndarray, where: str, missing: str, numbers: np.ndarray) -> np.ndarray:
    """Continuous actions as float32 [n, a]; NaN becomes 0 if ``missing`` is ``zero``, else ``DataError`` names the row, one of ``numbers``."""
    found = np.asarray(values, np.float32)
    if missing == "zero":
        found = np.where(np.isnan(found), np.float32(0), found)
    is_bad = ~np.isfinite(found).all(1)
    if is_bad.any():
        row = int(np.flatnonzero(is_bad)[0])
        raise DataError(
            f"{where}: the action in row {int(numbers[row]):,} is {found[row].tolist()}, inside an episode; "
            "mend the file, or pass --option missing_actions=zero for NaN"
        )
    return found


def actions_at(
    read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, num_env_steps: int, spec: ActionSpec, where: str, missing: str
) -> np.ndarray:
    """Actions of an episode at ``rows`` (0 .. N), with the padding at row N; ``read`` gives those of some transitions."""
    transitions = rows[rows < num_env_steps]
    values = read(transitions)
    if spec.kind == "discrete":
        found = values.reshape(len(transitions)).astype(np.int64)
    else:
        found = checked_rows(values.reshape(len(transitions), spec.dimension), where, missing, transitions)
    return padded(found, spec) if len(transitions) < len(rows) else found
