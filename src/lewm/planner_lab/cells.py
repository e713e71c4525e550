"""One cell of the comparison: one method with one run at one distance, in one ordinary result file of ``lewm eval success``.

A cell is done when its file holds a result of the pairs, checkpoint and settings that are asked for; anything else is run again.
"""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lewm.config import PlannerConfig
from lewm.devices import free_memory
from lewm.errors import DataError, LewmError
from lewm.evaluation.across_seeds import read_success
from lewm.evaluation.prepared_pairs import PreparedPairs
from lewm.run_directory import write_json
from lewm.setting_checks import Device

COMMAND = "lewm planners"
SIMULATOR = "simulator"
"""Stands for the run of a scripted policy."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is run, and where its result goes."""

    method: str
    run_name: str
    distance: int
    num_pairs: int
    run: Path | None = None
    """Checkpoint that acts; None for a scripted policy, which the method names."""
    sha256: str | None = None
    planner: PlannerConfig | None = None
    """None for a run that knows itself how it acts."""

    @property
    def key(self) -> str:
        """Names the cell's file."""
        return f"{self.method}--{self.run_name}--D{self.distance}"


@dataclass(frozen=True, kw_only=True)
class CellPlace:
    """What a process has to know beside the cell."""

    env: str
    env_options: dict[str, Any]
    pair_settings: dict[str, Any]
    """Of ``make_pairs``: seed, strata and kind."""
    data: Path
    pairs: Path
    """Prepared pairs of the cell's distance, at least as many as it needs."""
    out: Path
    device: Device = "cpu"


def run_cell(cell: Cell, place: CellPlace) -> None:
    """Evaluate and write the result; what goes wrong is written beside it and said in the table. Leaves no GPU memory behind."""
    result_file, error_file = result_path(place.out, cell), error_path(place.out, cell)
    try:
        result = _evaluated(cell, place, PreparedPairs.load(place.pairs).first(cell.num_pairs))
    except (LewmError, torch.OutOfMemoryError) as error:
        write_json(error_file, {"cell": cell.key, "error": str(error)})
        return
    finally:
        free_memory(place.device)
    write_json(result_file, result)
    error_file.unlink(missing_ok=True)


def finished(cell: Cell, out: Path, manifest_sha256: str) -> dict[str, Any] | None:
    """The cell's result, if it is there and is one of these pairs and of the cell's checkpoint and settings."""
    try:
        result = read_success(result_path(out, cell))
    except DataError:
        return None
    is_same = result["protocol"]["manifest_sha256"] == manifest_sha256 and result["checkpoint_sha256"] == cell.sha256
    # A result records the comparison with the goal that was really used.
    is_same = is_same and (cell.planner is None or has_settings(result["planner"], cell.planner, but=("goal",)))
    return result if is_same else None


def error_of(cell: Cell, out: Path) -> str | None:
    """What went wrong when the cell was run last."""
    path = error_path(out, cell)
    return str(json.loads(path.read_text())["error"]) if path.is_file() else None


def result_path(out: Path, cell: Cell) -> Path:
    """Where a cell's result is."""
    return out / "cells" / f"{cell.key}.json"


def error_path(out: Path, cell: Cell) -> Path:
    """Where it is said what went wrong."""
    return out / "cells" / f"{cell.key}.error.json"


def has_settings(recorded: dict[str, Any], planner: PlannerConfig, *, but: Collection[str] = ()) -> bool:
    """Whether a file's planner is this one, but for some settings; one that the file does not know yet must be at its default."""
    wanted = json.loads(json.dumps(dataclasses.asdict(planner)))
    defaults = json.loads(json.dumps(dataclasses.asdict(PlannerConfig())))
    return all(recorded.get(name, defaults[name]) == value for name, value in wanted.items() if name not in but)


def data_for(planner: PlannerConfig, env: str, data: Path) -> Path | None:
    """The training set, for settings that need it."""
    from lewm.evaluation.label_goals import kind_of_comparison
    from lewm.planning.proposing import uses_training_data

    return data if uses_training_data(planner) or kind_of_comparison(planner, env) == "labels" else None


def _evaluated(cell: Cell, place: CellPlace, prepared: PreparedPairs) -> dict[str, Any]:
    pairs: dict[str, Any] = {"distances": (cell.distance,), "prepared": prepared} | place.pair_settings
    if cell.run is None:
        from lewm.evaluation.success import evaluate_scripted

        scripted: dict[str, Any] = evaluate_scripted(
            cell.method, env=place.env, env_options=place.env_options, num_pairs=cell.num_pairs, command=COMMAND, **pairs
        )
        return scripted
    from lewm.evaluation.workflow import evaluate

    return evaluate(
        cell.run,
        env=place.env,
        env_options=place.env_options,
        episodes=cell.num_pairs,
        planner=cell.planner,
        data=None if cell.planner is None else data_for(cell.planner, place.env, place.data),
        num_latency_episodes=0,  # cells share a machine; decisions are timed afterwards
        watch_with=place.data,
        device=place.device,
        command=COMMAND,
        **pairs,
    )
