"""How wide the region of settings is in which an objective works: the weight of its regulariser over two decades, times three batch sizes.

An objective with several such weights has them all multiplied by the same factor, so that each has the same number of settings.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.config import Config
from lewm.config_files import load_preset
from lewm.errors import ConfigError
from lewm.lab.grid import TUNED_WORLD, WORLDS, Cell, Settings
from lewm.lab.summary import HEALTHY
from lewm.registry import OBJECTIVES, did_you_mean

FORMAT = 1
SWEPT = ("lewm", "vicreg", "pldm")
WEIGHTS: dict[str, tuple[str, ...]] = {
    "lewm": ("weight",),
    "vicreg": ("variance_weight", "covariance_weight"),
    "pldm": ("variance_weight", "covariance_weight", "time_variance_weight", "time_covariance_weight", "smoothness_weight", "recovery_weight"),
}
"""The weights that are swept: those of everything beside the prediction."""
FACTORS = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)
"""Of an objective's own weights: two decades."""
BATCH_FACTORS = (0.5, 1.0, 2.0)
NEAR_BEST = 0.1
"""Success within this of the best counts as reaching it."""


def sweep_settings(objective: str) -> list[Settings]:
    """Every setting of an objective's sweep, batch size by batch size; ``ConfigError`` for one that has no sweep."""
    if objective not in WEIGHTS:
        raise ConfigError(f"there is no sweep for objective {objective!r}.{did_you_mean(objective, WEIGHTS)}")
    base = load_preset(WORLDS[TUNED_WORLD].preset)
    own = {name: _own_weight(base, objective, name) for name in WEIGHTS[objective]}
    return [
        {name: factor * value for name, value in own.items()} | {"batch_size": float(round(share * base.train.batch_size))}
        for share in BATCH_FACTORS
        for factor in FACTORS
    ]


def sweep_cells(objectives: Sequence[str], num_seeds: int) -> list[Cell]:
    """The sweep's cells, seed by seed and setting by setting, so that one that is stopped has the same settings of each objective."""
    if num_seeds < 1:
        raise ConfigError(f"num_seeds must be at least 1, got {num_seeds}")
    counts = {objective: len(sweep_settings(objective)) for objective in objectives}
    return [
        Cell(objective, TUNED_WORLD, seed, trial, is_sweep=True)
        for seed in range(num_seeds)
        for trial in range(max(counts.values(), default=0))
        for objective in objectives
    ]


def summarise_sweep(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sweep's result, JSON-ready: per objective its settings, the share that ends healthy and the share that nearly reaches the best success.

    The best is that of the objective itself (``share_near_own_best``) and that of all objectives (``share_near_best``). A setting is healthy if all
    its seeds are; its success is their mean. Cells that failed are neither healthy nor near the best.
    """
    by_objective: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for record in records:
        by_objective.setdefault(record["cell"]["objective"], {}).setdefault(record["cell"]["trial"], []).append(record)
    settings = {name: [_setting(trial, group) for trial, group in sorted(trials.items())] for name, trials in by_objective.items()}
    best = {name: max((entry["success"] for entry in entries if entry["success"] is not None), default=0.0) for name, entries in settings.items()}
    overall = max(best.values(), default=0.0)
    objectives = {
        name: {
            "num_settings": len(entries),
            "num_planned": len(sweep_settings(name)),
            "share_healthy": _share([entry["is_healthy"] for entry in entries]),
            "best_success": best[name],
            "share_near_own_best": _share([_is_near(entry, best[name]) for entry in entries]),
            "share_near_best": _share([_is_near(entry, overall) for entry in entries]),
            "settings": entries,
        }
        for name, entries in settings.items()
    }
    floors = [record["strongest_floor"]["rate"] for record in records if "error" not in record]
    floor = max(floors) if floors else None
    return {
        "evaluation": "sweep",
        "format": FORMAT,
        "world": TUNED_WORLD,
        "strongest_floor": floor,
        "num_cells": len(records),
        "objectives": objectives,
    }


def sweep_table(result: dict[str, Any]) -> str:
    """Per objective one line on the region, then a grid of success and verdict: a row per batch size, a column per factor of the weight."""
    lines = []
    for name, found in result["objectives"].items():
        lines.append(
            f"{name}: {found['num_settings']} of {found['num_planned']} settings run; healthy {found['share_healthy']:.2f} of them; "
            f"success within {NEAR_BEST} of its own best ({found['best_success']:.2f}) {found['share_near_own_best']:.2f}, "
            f"of the best of all {found['share_near_best']:.2f}"
        )
        entries = {(entry["batch_size"], round(entry["factor"], 6)): entry for entry in found["settings"]}
        lines.append("  " + "weight x".ljust(12) + "".join(f"{factor:<30.3g}" for factor in FACTORS).rstrip())
        for batch_size in sorted({entry["batch_size"] for entry in found["settings"]}):
            cells = [_cell_words(entries.get((batch_size, round(factor, 6)))) for factor in FACTORS]
            lines.append("  " + f"batch {batch_size}".ljust(12) + "".join(cell.ljust(30) for cell in cells).rstrip())
    if result["strongest_floor"] is not None:
        lines.append(f"{result['world']}, strongest floor {result['strongest_floor']:.2f}; a weight is a multiple of the objective's own")
    return "\n".join(lines)


def _own_weight(base: Config, objective: str, name: str) -> float:
    return base.objective.weight if name == "weight" else float(OBJECTIVES.load(objective).settings[name])


def _setting(trial: int, group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole = [record for record in group if "error" not in record]
    return {
        "factor": FACTORS[trial % len(FACTORS)],
        "batch_size": int(group[0]["settings"]["batch_size"]),
        "settings": group[0]["settings"],
        "verdicts": [record["verdict"] for record in whole],
        "is_healthy": len(whole) == len(group) and all(record["verdict"] == HEALTHY for record in whole),
        "success": float(np.mean([record["success"]["rate"] for record in whole])) if whole else None,
        "errors": [record["error"] for record in group if "error" in record],
    }


def _is_near(entry: dict[str, Any], best: float) -> bool:
    return entry["success"] is not None and entry["success"] >= best - NEAR_BEST - 1e-9


def _share(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else 0.0


def _cell_words(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    if entry["success"] is None:
        return "failed"
    return f"{entry['success']:.2f} {', '.join(dict.fromkeys(entry['verdicts']))}"
