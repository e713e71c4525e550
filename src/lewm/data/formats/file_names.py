"""The order of numbered files."""

import re
from collections.abc import Iterable
from pathlib import Path


def in_natural_order(files: Iterable[Path]) -> list[Path]:
    """Files by name, numbers in it by their value: ``take2`` comes before ``take10``."""
    return sorted(files, key=lambda file: (natural_key(file.name), file.name))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """What to sort a name by."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def last_number(name: str) -> int | None:
    """The number that a file's name ends in, before its suffix; None if it ends in none."""
    found = re.search(r"([0-9]+)$", Path(name).stem)
    return int(found[1]) if found else None
