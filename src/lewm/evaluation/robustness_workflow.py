"""From a run to a result of ``lewm eval robustness``: load the checkpoint, build the agent, try it under every condition."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from lewm.checkpoint import Checkpoint, load_checkpoint
from lewm.config import PlannerConfig
from lewm.envs.base import make_batch
from lewm.errors import ConfigError
from lewm.evaluation.agents import agent_of
from lewm.evaluation.conditions import check_severities, corruption_names, perturbation_names
from lewm.evaluation.label_goals import compare_goals, kind_of_comparison, matching_store
from lewm.evaluation.robustness import SEVERITIES, evaluate_robustness, unseen_layouts, without_simulator
from lewm.evaluation.robustness_probe import probe_corruptions
from lewm.evaluation.workflow import check_actions, training_seeds, world_of
from lewm.versions import versions


def try_run(
    run: Path | str,
    *,
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    planner: PlannerConfig | None = None,
    data: Path | str | None = None,
    perturbations: Sequence[str] | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[float] = SEVERITIES,
    is_unseen: bool = False,
    device: str = "cpu",
    command: str = "",
    progress: Callable[[str], None] | None = None,
    **pairs: Any,
) -> dict[str, Any]:
    """What perturbed worlds, corrupted frames and unseen layouts do to a run: the result of ``lewm eval robustness``, JSON-ready.

    Success is measured on the pairs of ``robustness.evaluate_robustness``, whose other arguments are ``pairs``, and is left out for a run that was
    trained without a simulator; latents on the dataset ``data``, and left out without one. ``ConfigError`` if that leaves nothing, and for a
    world whose frames are not of the size that the run sees.
    """
    checkpoint = load_checkpoint(run, device)
    planner = planner or checkpoint.config.planner
    has_world = env is not None or bool(checkpoint.env.get("name"))
    name, options = world_of(checkpoint, env, env_options) if has_world else (None, {})
    repeat = _check_request(checkpoint, name, options, env_options or {}, perturbations, severities, is_unseen)
    names = corruption_names(corruptions)
    unverified: dict[str, Any] = {
        "checkpoint_sha256": checkpoint.sha256,
        "dataset_sha256": str(checkpoint.provenance.get("dataset_sha256", "")),
        "command": command,
        "probe": None if data is None else _probe_corruptions(checkpoint, data, names, severities, progress),
    }
    if name is None:
        if data is None:
            raise ConfigError("this run was trained on data without a simulator: give --data DIR for what corruptions do to its latents")
        return without_simulator("the run was trained on data without a simulator", unverified)
    is_by_labels = kind_of_comparison(planner, name) == "labels"
    comparison = compare_goals(checkpoint, planner, name, options, data if is_by_labels else None)
    seeds = training_seeds(checkpoint)
    return evaluate_robustness(
        agent_of(checkpoint, planner, comparison.readout, data),
        env=name,
        env_options=options,
        perturbations=perturbations,
        corruptions=corruptions,
        severities=severities,
        is_unseen=is_unseen,
        training_episode_seeds=seeds,
        unverified=unverified
        | {"planner": comparison.describe(planner) | repeat, "num_training_episodes": None if seeds is None else len(seeds), "versions": versions()},
        progress=progress,
        **pairs,
    )


def _check_request(
    checkpoint: Checkpoint,
    name: str | None,
    options: dict[str, Any],
    explicit: dict[str, Any],
    perturbations: Sequence[str] | None,
    severities: Sequence[float],
    is_unseen: bool,
) -> dict[str, int]:
    """What a result has to record where an env step is not as long as in training; refuses what cannot be tried, before anything is encoded."""
    check_severities(severities)
    perturbation_names(name, perturbations)
    if is_unseen:
        _check_unseen(checkpoint, name, options)
    if name is None:
        return {}
    repeat = check_actions(checkpoint, name, options, explicit)
    _check_frames(checkpoint, name, options)
    return repeat


def _check_unseen(checkpoint: Checkpoint, name: str | None, options: dict[str, Any]) -> None:
    """``ConfigError`` unless it is known which layouts the run has seen, and the world has those."""
    if name is None or name != checkpoint.env.get("name"):
        raise ConfigError("which layouts the run has seen is known only in the world that it was trained in: leave --unseen or --env out")
    if checkpoint.provenance.get("base"):
        raise ConfigError("this run started from another run's weights, and which layouts those have seen is not recorded: leave --unseen out")
    found, trained = unseen_layouts(name, options), unseen_layouts(name, dict(checkpoint.env.get("options", {})))
    if found.seen != trained.seen:
        raise ConfigError(
            f"the run was trained with {trained.name} in {list(trained.seen)}, these options have {list(found.seen)}: with --unseen leave out the "
            "--env-option that changes it"
        )


def _check_frames(checkpoint: Checkpoint, name: str, options: dict[str, Any]) -> None:
    """``ConfigError`` for a world whose frames are not those that the model was trained on."""
    seen = replace(checkpoint.model.observation_spec, stack_offsets_env_steps=(0,))
    with closing(make_batch(name, 1, **options)) as envs:
        found = envs.observation_spec
    if found.frame_shape != seen.frame_shape:
        raise ConfigError(
            f"the run was trained on frames of {list(seen.frame_shape)} (views, height, width, RGB), env {name!r} with these options has "
            f"{list(found.frame_shape)}: leave out the options that change them"
        )


def _probe_corruptions(
    checkpoint: Checkpoint, data: Path | str, names: Sequence[str], severities: Sequence[float], progress: Callable[[str], None] | None
) -> dict[str, Any]:
    store = matching_store(checkpoint, data)
    if progress is not None:
        progress(f"encoding corrupted frames of {data}")
    sha256 = store.dataset_sha256
    measured = probe_corruptions(checkpoint.model, store, config=checkpoint.config, corruptions=names, severities=severities)
    return measured | {"dataset_sha256": sha256, "is_training_dataset": checkpoint.provenance.get("dataset_sha256") == sha256}
