"""How the options of worlds are read, and what they are checked for; each refusal says what is allowed."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from lewm.errors import EnvError
from lewm.registry import did_you_mean

OptionsT = TypeVar("OptionsT")


def parse_options(kind: type[OptionsT], env: str, options: Mapping[str, Any]) -> OptionsT:
    """The options as one value of the dataclass ``kind``, which checks them; lists become tuples.

    Raises:
        EnvError: an unknown name (with a suggestion), or a value that ``kind`` refuses.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise EnvError(f"env {env!r} has no option {name!r}.{did_you_mean(name, known)}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return kind(**values)


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A value as a tuple of numbers: itself, or the only one."""
    return tuple(value) if isinstance(value, tuple | list | np.ndarray) else (value,)


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """``EnvError`` unless ``value`` is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise EnvError(f"{name} must be a whole number in [{low}, {high}], got {value!r}")


def check_truth(name: str, value: Any) -> None:
    """Refuse an option that is neither True nor False."""
    if not isinstance(value, bool):
        raise EnvError(f"{name} must be True or False, got {value!r}")


def check_values(name: str, values: tuple[Any, ...], low: tuple[float, ...], high: tuple[float, ...]) -> None:
    """``EnvError`` unless ``values`` are one finite number in its range, or several whole ones in theirs."""
    allowed = f"in [{low[0]:g}, {high[0]:g}]" if len(low) == 1 else f"{len(low)} whole numbers, each in [{low[0]:g}, {high[0]:g}]"
    are_numbers = len(values) == len(low) and all(
        isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
    if not are_numbers or not all(a <= value <= b and (len(low) == 1 or value == int(value)) for value, a, b in zip(values, low, high, strict=True)):
        raise EnvError(f"{name} must be {allowed}, got {values[0] if len(values) == 1 else values!r}")
