"""A run on disk: ``config.toml``, ``metrics.jsonl``, ``checkpoints/``, ``results/``, ``report.html``."""

import json
import shutil
from pathlib import Path
from typing import Any

from lewm.errors import ConfigError


def prepare_run(out: Path, config_toml: str, *, resume: bool) -> None:
    """Make the directory of a run and write its configuration; one that exists is refused unless it is to be resumed."""
    if (out / "config.toml").exists() and not resume:
        raise ConfigError(f"{str(out)!r} already holds a run; continue it with --resume or choose another --out")
    if resume and not (out / "config.toml").exists():
        raise ConfigError(f"there is no run to resume at {str(out)!r}; leave --resume out to start one")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.toml").write_text(config_toml)
    except OSError as error:
        raise ConfigError(f"cannot write to {str(out)!r}: {error.strerror}; choose another --out") from error


class MetricsLog:
    """Appends one JSON line per entry to ``metrics.jsonl``; resuming first drops the lines of steps that will be run again."""

    def __init__(self, run: Path, first_step: int) -> None:
        self._path = run / "metrics.jsonl"
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines() if _step_of(line) < first_step]
            temporary = self._path.with_suffix(".jsonl.writing")
            temporary.write_text("".join(f"{line}\n" for line in kept))
            temporary.rename(self._path)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append a line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step} | values) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, oldest first; empty if there are none. A last line cut off by a crash is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [_parsed(line) for line in lines]
    return [entry for entry in entries if entry is not None]


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside its final name and rename it there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.writing")
        temporary.write_text(json.dumps(value, indent=1) + "\n")
        temporary.rename(path)
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror}; choose another place") from error


def remove_run(out: Path) -> None:
    """Delete a run directory made by lewm: refused for anything else."""
    if not (out / "config.toml").exists():
        raise ConfigError(f"{str(out)!r} does not look like a run (no config.toml); it was left alone")
    shutil.rmtree(out)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return entry


def _step_of(line: str) -> float:
    entry = _parsed(line)
    return float("inf") if entry is None else float(entry["step"])
