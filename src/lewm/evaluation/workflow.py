"""From a run to a result: load the checkpoint, build the agent, evaluate."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm.checkpoint import Checkpoint, load_checkpoint
from lewm.config import PlannerConfig
from lewm.data.episodes import EpisodeStore
from lewm.errors import ConfigError, DataError
from lewm.evaluation.success import evaluate_success
from lewm.planning.mpc import MPCPolicy
from lewm.registry import EVALUATIONS
from lewm.versions import versions


def evaluate(
    run: Path | str,
    *,
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    protocol: str = "heldout",
    distances: Sequence[int] = (25,),
    episodes: int = 100,
    seed: int = 0,
    planner: PlannerConfig | None = None,
    device: str = "cpu",
    command: str = "",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """How often a run reaches goals that it never trained on: the result of ``lewm eval success``, JSON-ready.

    ``episodes`` start/goal pairs per distance and stratum; ``planner`` defaults to the run's own settings, ``env`` to the world of its data.
    """
    checkpoint = load_checkpoint(run, device)
    planner = planner or checkpoint.config.planner
    name, options = _world(checkpoint, env, env_options)
    return evaluate_success(
        MPCPolicy(checkpoint.model, planner),
        env=name,
        env_options=options,
        distances=distances,
        num_pairs=episodes,
        seed=seed,
        protocol=protocol,
        planner=dataclasses.asdict(planner),
        checkpoint_sha256=checkpoint.sha256,
        dataset_sha256=str(checkpoint.provenance.get("dataset_sha256", "")),
        training_episode_seeds=_training_seeds(checkpoint),
        command=command,
        progress=progress,
    )


def load_policy(run: Path | str, *, planner: PlannerConfig | None = None, device: str = "cpu") -> MPCPolicy:
    """The agent of a run: it plans with the run's world model and, unless ``planner`` says otherwise, with the run's planner settings."""
    checkpoint = load_checkpoint(run, device)
    return MPCPolicy(checkpoint.model, planner or checkpoint.config.planner)


def evaluate_latents(name: str, run: Path | str, data: Path | str, *, device: str = "cpu", command: str = "") -> dict[str, Any]:
    """``lewm eval probe`` or ``lewm eval collapse``: measurements on the held-out episodes of a dataset."""
    checkpoint = load_checkpoint(run, device)
    store = EpisodeStore(Path(data))
    expected = dataclasses.replace(checkpoint.model.observation_spec, stack_offsets_env_steps=(0,))
    if store.observation_spec != expected:
        raise DataError(f"the run was trained on {expected}, the dataset holds {store.observation_spec}; evaluate on data of the same kind")
    result: dict[str, Any] = EVALUATIONS.load(name)(checkpoint.model, store, config=checkpoint.config)
    return result | {"checkpoint_sha256": checkpoint.sha256, "dataset_sha256": store.dataset_sha256, "versions": versions(), "command": command}


def latent_table(result: dict[str, Any]) -> str:
    """The result of ``evaluate_latents`` as plain text."""
    tables = {"probe": _probe_table, "collapse": _collapse_table}
    table = tables.get(result.get("evaluation", ""))
    return json.dumps(result, indent=2) if table is None else table(result)


def _probe_table(result: dict[str, Any]) -> str:
    rows = [("", *result["labels"], "position error, median")]
    rows.append(_probe_row("latents of held-out frames", result))
    rows += [_probe_row(f"imagined {entry['model_steps']} model steps ahead", entry) for entry in result["imagined"]]
    rows += [_probe_row(f"floor: {name}", floor) for name, floor in result["floors"].items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["linear probe, R^2 (RMSE) per label", *lines])


def _probe_row(title: str, scores: dict[str, Any]) -> tuple[str, ...]:
    cells = [score if isinstance(score, str) else f"{score['r2']:.4f} ({score['rmse']:.2f})" for score in scores["labels"].values()]
    error = scores["position_error"]
    return (title, *cells, "-" if error is None else f"{error['median_px']:.1f} px")


def _collapse_table(result: dict[str, Any]) -> str:
    lines = [f"verdict: {result['verdict']}", *(f"  because {reason}" for reason in result["reasons"])]
    names = (
        "std_mean",
        "dead_fraction",
        "effective_rank",
        "participation_ratio",
        "sigreg",
        "sigreg_gaussian",
        "sigreg_collapsed",
        "action_sensitivity",
    )
    lines += [f"{name:<20} {result[name]:.3f}" for name in names if name in result]
    return "\n".join(lines)


def _world(checkpoint: Checkpoint, env: str | None, env_options: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
    trained = checkpoint.env
    name = env or trained.get("name")
    if not name:
        raise ConfigError("this run was trained on data without a simulator; name a world with --env")
    options = dict(trained.get("options", {})) if name == trained.get("name") else {}
    return name, options | (env_options or {})


def _training_seeds(checkpoint: Checkpoint) -> np.ndarray | None:
    """Seeds of the training episodes, which evaluation episodes must not share."""
    seeds = checkpoint.provenance.get("episode_seeds")
    return None if seeds is None else np.asarray(seeds, dtype=np.int64)
