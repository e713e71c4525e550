"""Random edits of a result: what a cheat would try."""

import random
from collections.abc import Iterator
from typing import Any


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values that hold no others."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path
    else:
        for name, inner in items:
            yield from leaves(inner, (*path, name))


def changed(value: Any, dice: random.Random) -> Any:
    """A value of the same type that is another one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + dice.choice([-2, -1, 1, 2, 10])
    if isinstance(value, float):
        return value + dice.choice([-1, 1]) * 10 ** dice.uniform(-7, 0)
    if isinstance(value, str):
        position = dice.randrange(len(value)) if value else 0
        return value[:position] + dice.choice([c for c in "AbC0xyz/" if value[position : position + 1] != c]) + value[position + 1 :]
    return dice.choice([0, 1, 0.5, "x"])


def edit(result: dict[str, Any], path: tuple[Any, ...], dice: random.Random) -> None:
    owner = result
    for name in path[:-1]:
        owner = owner[name]
    owner[path[-1]] = changed(owner[path[-1]], dice)
