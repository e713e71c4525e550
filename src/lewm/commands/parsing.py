"""What the verbs share: reading arguments, printing results."""

import functools
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lewm.errors import ConfigError
from lewm.run_directory import check_writable, write_json

ArgumentsT = TypeVar("ArgumentsT")


def parse(arguments_type: type[ArgumentsT], verb: str, words: Sequence[str], default: ArgumentsT | None = None) -> ArgumentsT:
    """Arguments as a dataclass; the parser prints help (exit 0) or refuses (exit 2, with a suggestion) by itself."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    read = functools.partial(tyro.cli, arguments_type, prog=f"lewm {verb}", args=list(words), description=arguments_type.__doc__)
    parsed: ArgumentsT = read() if default is None else read(default=default)
    return parsed


def console() -> Console:
    """Where results go."""
    return Console(highlight=False)


def show(text: str) -> None:
    """A result as text, never wrapped."""
    console().print(text, markup=False, soft_wrap=True)


def stderr_console() -> Console:
    """Where progress goes."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line of progress."""
    stderr_console().print(text, markup=False, soft_wrap=True)


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as JSON if a file was asked for."""
    if path is not None:
        write_json(path, result)
        say(f"wrote {path}")


def refresh_card(directory: Path) -> None:
    """Write the card of a run or dataset, or say that a person's card was left as it is."""
    from lewm.cards import CARD_FILE, write_card

    if not write_card(directory):
        say(f"{directory / CARD_FILE} was not written by lewm, or was changed since: left as it is")


def check_result_file(path: Path | None) -> None:
    """Refuse a result file that could not be written, before the work whose result it is."""
    if path is not None:
        check_writable(path)


def command_line(verb: str, words: Sequence[str]) -> str:
    """The command as the user typed it, for provenance."""
    return shlex.join(["lewm", verb, *words])


class ProgressBar:
    """A bar with count, elapsed and remaining time, on stderr; it appears with the first update, so that a refusal stands alone."""

    def __init__(self, title: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=stderr_console())
        self._title = title
        self._task: TaskID | None = None

    def update(self, done: int, total: int, note: str = "") -> None:
        """Move the bar; what is all done closes it."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=total, note=note)
        self._bar.update(self._task, completed=done, total=total, note=note)
        if done >= total:
            self.close()

    def message(self, text: str) -> None:
        """Say something above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True, style="bold red")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._task is not None:
            self._bar.stop()
            self._task = None


def parse_options(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """``KEY=VALUE`` words as a dictionary; a value is JSON if it can be read as such, text otherwise. ``size_px=native`` is None, as in presets."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{flag} takes KEY=VALUE, got {pair!r}; for example {flag} size_px=64")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        key = key.replace("-", "_")
        if key in options:
            raise ConfigError(f"{flag} {key} was given twice, the second time as {pair!r}; leave one of them out")
        if (key, value) == ("size_px", "native"):
            value = None
        options[key] = tuple(value) if isinstance(value, list) else value
    return options


def parse_distances(text: str) -> tuple[int, ...]:
    """``25,50`` as numbers of env steps."""
    try:
        distances = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--distances takes whole numbers of env steps with commas between, such as 25,50,100; got {text!r}") from None
    if not distances or min(distances) < 1:
        raise ConfigError(f"--distances must be at least 1 env step each, got {text!r}")
    return distances
