"""A run on disk: ``config.toml``, ``metrics.jsonl``, ``checkpoints/``, ``results/``, ``report.html``."""

import json
import os
from pathlib import Path
from typing import Any

from lewm.data.durable import reported_as_data_error, write_atomically
from lewm.errors import ConfigError


def check_run(out: Path, *, resume: bool) -> None:
    """``ConfigError`` for a run that exists and is not to be resumed, or is to be and does not exist."""
    is_run = os.path.exists(out / "config.toml")  # unlike Path.exists, not an error where reading is forbidden
    if is_run and not resume:
        raise ConfigError(f"{str(out)!r} already holds a run; continue it with --resume or choose another --out")
    if resume and not is_run:
        raise ConfigError(f"there is no run to resume at {str(out)!r}; leave --resume out to start one")


def prepare_run(out: Path, config_toml: str, *, resume: bool) -> None:
    """Make the directory of a run and write its configuration, after ``check_run``."""
    check_run(out, resume=resume)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {str(out)!r}: {error.strerror}; choose another --out") from error
    write_atomically(out / "config.toml", config_toml.encode())


class MetricsLog:
    """Appends one JSON line per entry to ``metrics.jsonl``; resuming first drops the lines of steps that will be run again."""

    def __init__(self, run: Path, first_step: int) -> None:
        self._path = run / "metrics.jsonl"
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines() if _step_of(line) < first_step]
            write_atomically(self._path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append a line."""
        with reported_as_data_error(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step} | values) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, oldest first; empty if there are none. A last line cut off by a crash is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [_parsed(line) for line in lines]
    return [entry for entry in entries if entry is not None]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old content or the new; ``DataError`` if the disk refuses."""
    check_writable(path)
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def check_writable(path: Path) -> None:
    """``ConfigError`` if a file cannot be written at ``path``: better known before the work than after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror}; choose another place") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"cannot write {str(path)!r}: it is a directory, or its directory is read-only; choose another place")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return entry


def _step_of(line: str) -> float:
    entry = _parsed(line)
    return float("inf") if entry is None else float(entry["step"])
