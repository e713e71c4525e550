"""What a decision costs: whole episodes one at a time, one method after another, in one process with one thread.

Every kind of device has a file of its own: times of different devices are never in one table.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm.devices import free_memory
from lewm.errors import LewmError
from lewm.evaluation.outcomes import PlanTimes, run_policy
from lewm.evaluation.prepared_pairs import PreparedPairs
from lewm.planner_lab.cells import Cell, CellPlace, data_for, has_settings
from lewm.setting_checks import Device
from lewm.versions import hardware

MOST_ENV_STEPS = 50
"""Of an episode that is timed: two plans of a planner that executes 25 env steps of each."""


def measure(cell: Cell, place: CellPlace, num_episodes: int) -> dict[str, Any]:
    """Milliseconds per decision and per env step of the cell's agent on its first pairs, JSON-ready; ``error`` where it cannot act.

    A decision is a call that looks at a frame; looking itself (rendering) is not counted. Its actions are on the CPU, so that it includes the wait
    for a GPU. One episode before the others warms up. Leaves no GPU memory behind.
    """
    about = {"identity": identity(cell, num_episodes, place.device), "hardware": hardware(place.device)}
    try:
        return about | _measured(cell, place, num_episodes)
    except (LewmError, torch.OutOfMemoryError) as error:
        return about | {"error": str(error)}
    finally:
        free_memory(place.device)


def identity(cell: Cell, num_episodes: int, device: Device = "cpu") -> dict[str, Any]:
    """What a measurement is of, as a file holds it: one of anything else is made again."""
    planner = None if cell.planner is None else dataclasses.asdict(cell.planner)
    about = {"method": cell.method, "checkpoint_sha256": cell.sha256, "planner": planner, "num_episodes": num_episodes, "distance": cell.distance}
    found: dict[str, Any] = json.loads(json.dumps(about if device == "cpu" else about | {"device": device}))
    return found


def is_measured(measured: dict[str, Any], cell: Cell, num_episodes: int, device: Device) -> bool:
    """Whether what was measured of a method (empty: nothing) is of this cell: a setting of the planner that it does not know is at its default.

    What went wrong is tried again.
    """
    if "identity" not in measured or "error" in measured:
        return False
    wanted, recorded = identity(cell, num_episodes, device), measured["identity"]
    if recorded | {"planner": None} != wanted | {"planner": None}:
        return False
    if cell.planner is None or recorded["planner"] is None:
        return cell.planner is None and recorded["planner"] is None
    return has_settings(recorded["planner"], cell.planner)


def latency_path(out: Path, device: Device) -> Path:
    """Where it is kept what decisions cost on a device."""
    return out / ("latency.json" if device == "cpu" else f"latency-{device}.json")


def read_latency(out: Path, device: Device = "cpu") -> dict[str, dict[str, Any]]:
    """What was measured on a device, by method."""
    path = latency_path(out, device)
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _measured(cell: Cell, place: CellPlace, num_episodes: int) -> dict[str, Any]:
    from lewm.evaluation.workflow import load_policy

    assert cell.run is not None
    data = None if cell.planner is None else data_for(cell.planner, place.env, place.data)
    policy = load_policy(cell.run, planner=cell.planner, data=data, device=place.device)
    manifest = PreparedPairs.load(place.pairs).first(cell.num_pairs).manifest
    times, num_env_steps = PlanTimes(), 0
    load_before = os.getloadavg()[0]
    for number, pair in enumerate([manifest.pairs[0], *manifest.pairs[:num_episodes]]):
        found = PlanTimes()
        outcome = run_policy(
            policy,
            manifest.env,
            manifest.env_options,
            [pair.start_state],
            [pair.goal_state],
            [manifest.policy_seed(pair)],
            min(MOST_ENV_STEPS, pair.budget_env_steps),
            times=found,
        )[0]
        if number > 0:
            times.seconds += found.seconds
            times.num_episodes += found.num_episodes
            num_env_steps += len(outcome.actions)
    p50, p95 = np.quantile(times.per_plan_ms(), [0.5, 0.95])
    return {
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "ms_per_env_step": round(1e3 * sum(times.seconds) / num_env_steps, 3),
        "num_decisions": len(times.seconds),
        "num_env_steps": num_env_steps,
        "load_average": round(load_before, 2),
    }
