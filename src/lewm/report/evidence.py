"""What is known about a run: everything on disk that a report can show, each part optional."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lewm.errors import CheckpointError, ConfigError
from lewm.evaluation.protocol import HELDOUT
from lewm.run_directory import read_metrics

CONTROL = "control"
"""Folder of the control run inside a run."""
DEMO_FILE = "demo.json"
RESULT_FORMAT = 1
WITHOUT_CHECKPOINT = ("lab", "sweep", "comparison of methods", "success over training seeds")
"""Results that are of several runs: they belong to no checkpoint."""


@dataclass(frozen=True, kw_only=True)
class SuccessRow:
    """One distance and stratum of a result of ``lewm eval success``."""

    distance: int
    stratum: str
    is_headline: bool
    """Whether this is the stratum that the world's headline is about."""
    fields: dict[str, Any]
    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The files of a run, read; what is missing is empty or None."""

    run: Path
    losses: list[dict[str, Any]]
    """Lines of ``metrics.jsonl`` with losses."""
    looks: list[dict[str, Any]]
    """What the collapse monitor saw, oldest first."""
    settings: dict[str, Any]
    """``config.toml``."""
    description: dict[str, Any] | None
    """``config.json`` of the newest checkpoint."""
    checkpoint_sha256: str | None
    results: dict[str, list[dict[str, Any]]]
    """Results of this checkpoint by evaluation, in the order of their file names; each with its file under ``"file"``."""
    control: "Evidence | None"
    demo: dict[str, Any] = field(default_factory=dict)
    """What ``lewm demo`` wrote down: seconds per stage and commands."""
    notes: tuple[str, ...] = ()
    """What was found but could not be used, and why."""

    @property
    def env(self) -> str | None:
        """The world that the data came from."""
        name = None if self.description is None else self.description["env"].get("name")
        return None if name is None else str(name)

    def latest(self, evaluation: str) -> dict[str, Any] | None:
        """One result of that evaluation, if there is any."""
        found = self.results.get(evaluation, [])
        return found[-1] if found else None

    def success_rows(self) -> list[SuccessRow]:
        """Every distance and stratum that was measured, by distance; where one was measured twice, the larger n counts."""
        best: dict[tuple[int, str], SuccessRow] = {}
        for result in self.results.get("success", []):
            for distance, entry in result["by_distance"].items():
                for stratum, fields in entry["strata"].items():
                    row = SuccessRow(distance=int(distance), stratum=stratum, is_headline=stratum == entry["stratum"], fields=fields, result=result)
                    known = best.get((row.distance, stratum))
                    if known is None or known.fields["n"] < fields["n"]:
                        best[row.distance, stratum] = row
        return sorted(best.values(), key=lambda row: (row.distance, not row.is_headline))

    def headline(self) -> SuccessRow | None:
        """The headline stratum at the shortest distance."""
        return next((row for row in self.success_rows() if row.is_headline), None)


def read_evidence(run: Path) -> Evidence:
    """Everything in the run's directory; ``ConfigError`` if it holds no run."""
    if not any((run / name).exists() for name in ("config.toml", "metrics.jsonl", "checkpoints")):
        raise ConfigError(f"there is no run at {str(run)!r} (no config.toml, metrics.jsonl or checkpoints); `lewm demo` or `lewm train` makes one")
    return _read(run, _read_control(run))


def outcomes_on_shared_pairs(first: Evidence, second: Evidence, distance: int, stratum: str) -> tuple[np.ndarray, np.ndarray]:
    """Who solved which, bool [n] twice, on the start/goal pairs that both runs were given."""
    outcomes = [{pair: solved for result in side.results.get("success", []) for pair, solved in _outcomes(result)} for side in (first, second)]
    shared = [key for key in outcomes[0] if key in outcomes[1] and key[:2] == (distance, stratum)]
    return np.array([outcomes[0][key] for key in shared], bool), np.array([outcomes[1][key] for key in shared], bool)


def _outcomes(result: dict[str, Any]) -> Iterator[tuple[tuple[int, str, str, str], bool]]:
    pairs = {pair["id"]: pair for pair in result["manifest"]["pairs"]}
    for episode in result["episodes"]:
        pair = pairs[episode["pair"]]
        yield (episode["distance"], episode["stratum"], pair["start_state"], pair["goal_state"]), bool(episode["solved"])


def _read_control(run: Path) -> Evidence | None:
    control = run / CONTROL
    return _read(control, None) if (control / "metrics.jsonl").exists() else None


def _read(run: Path, control: Evidence | None) -> Evidence:
    lines, notes = read_metrics(run), []
    description = sha256 = None
    try:
        description, sha256 = _read_checkpoint(run)
    except CheckpointError as error:
        notes.append(str(error))
    results, result_notes = _read_results(run, sha256)
    config = run / "config.toml"
    demo, _ = _read_json(run / DEMO_FILE)
    return Evidence(
        run=run,
        losses=[line for line in lines if "loss" in line],
        looks=[{"step": line["step"]} | line["monitor"] for line in lines if "monitor" in line],
        settings=_read_toml(config),
        description=description,
        checkpoint_sha256=sha256,
        results=results,
        control=control,
        demo=demo or {},
        notes=(*notes, *result_notes),
    )


def _read_checkpoint(run: Path) -> tuple[dict[str, Any] | None, str | None]:
    from lewm.checkpoint import checkpoint_sha256, list_checkpoints, read_description

    saved = list_checkpoints(run)
    return (read_description(saved[-1]), checkpoint_sha256(saved[-1])) if saved else (None, None)


def _read_results(run: Path, sha256: str | None) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    results: dict[str, list[dict[str, Any]]] = {}
    notes = []
    for path in sorted((run / "results").glob("*.json")):
        result, problem = _read_json(path)
        if result is not None and (not isinstance(result.get("evaluation"), str) or result.get("format") != RESULT_FORMAT):
            problem = f"it is no evaluation result of format {RESULT_FORMAT}"
        elif result is not None and result["evaluation"] not in WITHOUT_CHECKPOINT and result.get("checkpoint_sha256") != sha256:
            problem = "it measures another checkpoint than the newest one; run the evaluation again"
        elif result is not None and (protocol := result.get("protocol", {}).get("name", HELDOUT)) != HELDOUT:
            problem = f"the pairs of protocol {protocol!r} are rows of a dataset, and this page is about goals that were never trained on"
        if problem is not None or result is None:
            notes.append(f"results/{path.name} is not shown: {problem}")
        else:
            results.setdefault(result["evaluation"], []).append(result | {"file": f"results/{path.name}"})
    return results, notes


def _read_json(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The object in a file, or None and what is wrong with it."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None, "it does not exist"
    except (OSError, ValueError) as error:
        return None, f"it cannot be read as JSON ({error})"
    return (value, None) if isinstance(value, dict) else (None, "it holds no JSON object")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text()) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not valid TOML: {error}") from None
