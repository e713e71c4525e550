"""What a comparison found: a row per method over its runs, with intervals, differences to the baseline and what a decision costs.

Axes: n pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm.errors import ConfigError
from lewm.evaluation.across_seeds import outcomes_of, rate_of
from lewm.evaluation.arrivals import MEANING, claims_of, hallucination_rate
from lewm.evaluation.intervals import hierarchical_difference, paired_difference_over_seeds
from lewm.evaluation.outcomes import FLOORS
from lewm.evaluation.prepared_pairs import PreparedPairs
from lewm.planner_lab.cells import SIMULATOR, Cell, error_of, finished
from lewm.planner_lab.latency import read_latency
from lewm.planner_lab.methods import BASELINE, CEILING, CEILINGS, EXPERT, FLOOR, KINDS, METHODS, POLICY, num_futures
from lewm.planner_lab.plan import PLAN_FILE, ComparisonPlan, Ground, check_place
from lewm.planner_lab.published import published
from lewm.planner_lab.running import list_cells, load_pairs
from lewm.setting_checks import Device
from lewm.versions import versions

FORMAT = 2
Outcomes = dict[str, dict[int, dict[str, np.ndarray]]]
"""Method -> distance -> run -> which pairs were solved, or in which a plan imagined to arrive, bool [n]."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a comparison has so far."""

    outcomes: Outcomes
    claims: Outcomes
    """In which a plan imagined to arrive, of the cells that know it."""
    cells: tuple[Cell, ...]
    left_out: dict[str, str]
    errors: dict[str, str]
    not_measured: tuple[str, ...]
    manifests: dict[int, str]
    hardware: tuple[str, ...]
    """On which the cells ran, as far as they say so."""


def find(plan: ComparisonPlan, ground: Ground, out: Path) -> Found:
    """Read the cells that are finished, and the scripted policies that came with the pairs."""
    listing, pairs = list_cells(plan, ground, out), load_pairs(plan, out)
    stratum = ground.strata[0]
    outcomes: Outcomes = {}
    for distance, prepared in pairs.items():
        for name, hits in _references(prepared).items():
            ids = [pair.id for pair in prepared.manifest.at(distance) if pair.stratum == stratum]
            outcomes.setdefault(name, {})[distance] = {SIMULATOR: np.array([hits[pair] is not None for pair in ids])}
    claims: Outcomes = {}
    errors: dict[str, str] = {}
    missing, machines = [], set()
    for cell in listing.cells:
        prepared_pairs = pairs.get(cell.distance)
        result = None if prepared_pairs is None else finished(cell, out, prepared_pairs.first(cell.num_pairs).manifest.sha256)
        if result is None:
            missing.append(cell.key)
            if (error := error_of(cell, out)) is not None:
                errors[cell.key] = error
            continue
        machines |= {name} if (name := result["plan_ms"].get("hardware")) else set()
        outcomes.setdefault(cell.method, {}).setdefault(cell.distance, {})[cell.run_name] = outcomes_of(result, cell.distance, stratum)
        if (claimed := claims_of(result, cell.distance, stratum)) is not None:
            claims.setdefault(cell.method, {}).setdefault(cell.distance, {})[cell.run_name] = claimed
    return Found(
        outcomes=outcomes,
        claims=claims,
        cells=listing.cells,
        left_out=listing.left_out,
        errors=errors,
        not_measured=tuple(missing),
        manifests={distance: prepared.manifest.sha256 for distance, prepared in pairs.items()},
        hardware=tuple(sorted(machines)),
    )


def summarise(plan: ComparisonPlan, out: Path, *, command: str = "") -> dict[str, Any]:
    """The result, JSON-ready: ``rows`` of methods in the order of their kinds, and what is missing with the reason.

    ``ConfigError`` if the directory holds no comparison, or another one.
    """
    if not (out / PLAN_FILE).is_file():
        raise ConfigError(f"{str(out)!r} holds no comparison of planners yet; leave --only-table out to begin one")
    ground = Ground.of(plan)
    check_place(plan, ground, out)
    found, latency = find(plan, ground, out), read_latency(out, plan.device)
    rows = [_row(name, found, ground, latency) for name in [*FLOORS, *METHODS, *plan.policies, *CEILINGS, EXPERT] if name in found.outcomes]
    return {
        "evaluation": "comparison of planners",
        "format": FORMAT,
        "env": ground.env,
        "env_options": ground.env_options,
        "stratum": ground.strata[0],
        **plan.kind_of_pairs,
        "runs": {run.name: run.sha256 for run in ground.runs},
        "dataset_sha256": ground.dataset_sha256,
        "num_pairs": plan.num_pairs,
        "seed": plan.seed,
        "distances": sorted(plan.distances),
        "manifests": {str(distance): sha256 for distance, sha256 in found.manifests.items()},
        "baseline": BASELINE,
        "hallucination": MEANING,
        "rows": sorted(rows, key=lambda row: KINDS.index(row["kind"])),
        "left_out": found.left_out,
        "errors": found.errors,
        "not_measured": list(found.not_measured),
        "latency_conditions": _conditions(latency, plan.device),
        "versions": versions(),
        "hardware": list(found.hardware),
        "command": command,
    }


def difference_to(found: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """How much more often a method solves than the baseline: on the runs that both have, on the pairs that both were tried on; None without any.

    A method without runs stands beside each run of the baseline. One with other runs (a learned policy) is not paired by run, and has no p.
    """
    if not found or not baseline:
        return None
    n = min(len(each) for each in (*found.values(), *baseline.values()))
    if set(found) == {SIMULATOR}:
        found = dict.fromkeys(baseline, found[SIMULATOR])
    shared = [run for run in baseline if run in found]
    if not shared:
        estimate = hierarchical_difference([each[:n] for each in found.values()], [each[:n] for each in baseline.values()])
        return {**estimate, "p": None, "n": n, "num_seeds": len(found)}
    first, second = (np.stack([each[run][:n] for run in shared]) for each in (found, baseline))
    return {**paired_difference_over_seeds(first, second), "n": n, "num_seeds": len(shared)}


def _references(prepared: PreparedPairs) -> dict[str, Mapping[str, int | None]]:
    ceiling = prepared.references.ceiling
    return dict(prepared.references.floors) | ({} if ceiling is None else {EXPERT: ceiling})


def _row(name: str, found: Found, ground: Ground, latency: Mapping[str, Any]) -> dict[str, Any]:
    by_distance = found.outcomes[name]
    settings = next((cell.planner for cell in found.cells if cell.method == name and cell.planner is not None), None)
    measured = {key: value for key, value in latency.get(name, {}).items() if key != "identity"}
    return {
        "method": name,
        "kind": _kind(name),
        "summary": METHODS[name].summary if name in METHODS else CEILINGS.get(name, ""),
        "futures_per_plan": None if settings is None else num_futures(settings),
        "by_distance": {
            str(distance): {
                "success": rate_of(list(runs.values())),
                "n": len(next(iter(runs.values()))),
                "num_seeds": len(runs),
                "rate_per_seed": {run: float(each.mean()) for run, each in runs.items()},
                "hallucination": _hallucination(found.claims.get(name, {}).get(distance, {}), runs),
                "difference": None if name in (BASELINE, *FLOORS) else difference_to(runs, found.outcomes.get(BASELINE, {}).get(distance, {})),
            }
            for distance, runs in sorted(by_distance.items())
        },
        "latency": measured or None,
        "published": published(ground.env, name),
    }


def _hallucination(claims: Mapping[str, np.ndarray], solved: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Over the runs whose plans were watched; None without any."""
    return hallucination_rate(list(claims.values()), [solved[run] for run in claims]) if claims else None


def _kind(name: str) -> str:
    if name in METHODS:
        return METHODS[name].kind
    return FLOOR if name in FLOORS else CEILING if name in CEILINGS or name == EXPERT else POLICY


def _conditions(latency: Mapping[str, Mapping[str, Any]], device: Device) -> dict[str, Any] | None:
    """On what the decisions were timed, and how busy it was."""
    timed = [each for each in latency.values() if "load_average" in each]
    if not timed:
        return None
    loads = [each["load_average"] for each in timed]
    return {"device": device, "hardware": sorted({each["hardware"] for each in timed}), "load_average": {"low": min(loads), "high": max(loads)}}
