"""One cell of the lab: train, look at the latents, read the state off them, plan; everything in one JSON file.

A cell is a function of (objective, settings, world, seed, size) alone, but for rounding also on another device, and is done when its file is there.
"""

import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lewm.errors import EnvError, PlanningError, TrainingError
from lewm.lab.grid import Cell, Settings, config_of, lab_world
from lewm.run_directory import read_metrics, write_json
from lewm.setting_checks import Device
from lewm.versions import hardware

FORMAT = 1
CELL_FILE = "cell.json"
OFF_IN_THE_LAB = {"inverse_weight", "rollout_weight", "straightening_weight"}
"""Weights of helpers that no objective has there."""


@dataclass(frozen=True, kw_only=True)
class CellSize:
    """How much of everything a cell does."""

    step_share: float = 1.0
    """Of the world's training steps."""
    num_pairs: int = 24
    """Start/goal pairs per stratum."""
    num_clips: int = 1024
    """Clips that the verdict looks at."""


def run_cell(cell: Cell, settings: Settings, size: CellSize, data: Path, pairs: Path, out: Path, device: Device = "cpu") -> None:
    """Run a cell into the directory ``out`` on the dataset ``data`` and the world's prepared pairs; what goes wrong in it is its result.

    A training that was finished before is not done again: the record's device, hardware and times are then those that it had.
    """
    start_s = time.monotonic()
    record: dict[str, Any] = {"format": FORMAT, "cell": asdict(cell), "settings": settings, "size": asdict(size)}
    record |= {"device": device, "hardware": hardware(device)}
    try:
        record |= _measured(cell, settings, size, data, pairs, out, device)
    except (TrainingError, PlanningError, EnvError) as error:  # what the objective or the world does; a full disk is no result, and is tried again
        record["error"] = str(error)
    write_json(out / CELL_FILE, record | {"seconds": round(time.monotonic() - start_s, 1)})


def read_cell(directory: Path) -> dict[str, Any] | None:
    """A finished cell; None if it is not finished."""
    path = directory / CELL_FILE
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def _measured(cell: Cell, settings: Settings, size: CellSize, data: Path, pairs: Path, out: Path, device: Device) -> dict[str, Any]:
    from lewm.checkpoint import checkpoint_path, find_checkpoint, list_checkpoints, read_description
    from lewm.data.episodes import EpisodeStore
    from lewm.evaluation.collapse import NUISANCE_PREFIX, judge, warning_score
    from lewm.evaluation.label_goals import kind_of_comparison
    from lewm.evaluation.prepared_pairs import PreparedPairs
    from lewm.evaluation.workflow import evaluate, evaluate_latents
    from lewm.registry import OBJECTIVES
    from lewm.training import train

    config = config_of(cell, settings, step_share=size.step_share, device=device)
    is_trained_before = checkpoint_path(out, config.train.num_steps) in list_checkpoints(out)
    train(config, data=data, out=out, resume=(out / "config.toml").exists(), command="lewm lab")
    trained = read_description(find_checkpoint(out))
    entries = read_metrics(out)
    looks = [entry["monitor"] for entry in entries if "monitor" in entry]
    seconds = max(entry.get("seconds", 0.0) for entry in entries)
    collapse = evaluate_latents("collapse", out, data, num_clips=size.num_clips, device=device)
    probe = evaluate_latents("probe", out, data, with_comparisons=False, device=device)
    distance = lab_world(cell.world).distance_env_steps
    success = evaluate(
        out,
        distances=(distance,),
        episodes=size.num_pairs,
        seed=cell.pair_seed,
        data=data if kind_of_comparison(config.planner, EpisodeStore(data).env["name"]) == "labels" else None,
        prepared=PreparedPairs.load(pairs),
        num_latency_episodes=0,  # what a plan costs is not asked here, where cells share a machine
        device=device,
        command="lewm lab",
    )
    write_json(out / "results" / f"success-{distance}.json", success)
    fields = success["by_distance"][str(distance)]
    is_state = [name for name in probe["labels"] if name not in probe["velocity_labels"] and not name.startswith(NUISANCE_PREFIX)]
    return {
        "verdict": collapse["verdict"],
        "reasons": collapse["reasons"],
        "std_mean": collapse["std_mean"],
        "effective_rank": collapse["effective_rank"],
        "latent_dimension": collapse["latent_dimension"],
        "action_sensitivity": collapse.get("action_sensitivity"),
        "nuisance_share": collapse.get("nuisance_share"),
        "early": {"step": looks[0]["step"], "verdict": judge(looks[0]).name, "score": warning_score(looks[0])},
        "final_score": warning_score(collapse),
        "probe_r2": _mean_r2(probe["labels"], is_state),
        "imagined_r2": _mean_r2(probe["imagined"][-1]["labels"], is_state),
        "success": fields["success"],
        "strongest_floor": fields["strongest_floor"],
        "paired_difference": fields["paired_difference"],
        "outcomes": [episode["solved"] for episode in success["episodes"] if episode["stratum"] == fields["stratum"]],
        "stratum": fields["stratum"],
        "manifest_sha256": success["protocol"]["manifest_sha256"],
        "device": trained["config"]["train"]["device"],
        "hardware": trained["provenance"]["hardware"],
        "train_seconds": seconds,
        "step_ms": 1e3 * seconds / config.train.num_steps,
        "num_steps": config.train.num_steps,
        "peak_memory_mb": None if is_trained_before else peak_memory_mb(device),
        "num_tunable_weights": len(set(OBJECTIVES.load(cell.objective).tunable_weights) - OFF_IN_THE_LAB),
    }


def peak_memory_mb(device: str) -> float:
    """The most memory that this process had: of the GPU what its tensors took, else all of its own."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _mean_r2(scores: dict[str, Any], names: list[str]) -> float | None:
    """Over the named labels that vary."""
    values = [scores[name]["r2"] for name in names if scores[name] != "constant"]
    return sum(values) / len(values) if values else None
