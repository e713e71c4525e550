"""What the options of several worlds are checked for; each refusal says what is allowed."""

import math
from typing import Any

import numpy as np

from lewm.errors import EnvError


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A value as a tuple of numbers: itself, or the only one."""
    return tuple(value) if isinstance(value, tuple | list | np.ndarray) else (value,)


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """``EnvError`` unless ``value`` is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise EnvError(f"{name} must be a whole number in [{low}, {high}], got {value!r}")


def check_values(name: str, values: tuple[Any, ...], low: tuple[float, ...], high: tuple[float, ...]) -> None:
    """``EnvError`` unless ``values`` are one finite number in its range, or several whole ones in theirs."""
    allowed = f"in [{low[0]:g}, {high[0]:g}]" if len(low) == 1 else f"{len(low)} whole numbers, each in [{low[0]:g}, {high[0]:g}]"
    are_numbers = len(values) == len(low) and all(
        isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
    if not are_numbers or not all(a <= value <= b and (len(low) == 1 or value == int(value)) for value, a, b in zip(values, low, high, strict=True)):
        raise EnvError(f"{name} must be {allowed}, got {values[0] if len(values) == 1 else values!r}")
