"""From a run to a result: load the checkpoint, build the agent, evaluate."""

import contextlib
import itertools
import json
import logging
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lewm.checkpoint import Checkpoint, load_checkpoint
from lewm.config import PlannerConfig
from lewm.data.episodes import EpisodeStore
from lewm.envs.base import make_batch
from lewm.errors import ConfigError, DataError
from lewm.evaluation.agents import agent_of, head_of
from lewm.evaluation.arrivals import watch_arrivals
from lewm.evaluation.atari_table import atari_table
from lewm.evaluation.dataset_protocols import protocol_options, protocol_planner
from lewm.evaluation.label_goals import compare_goals, kind_of_comparison, matching_store
from lewm.evaluation.prepared_pairs import PreparedPairs
from lewm.evaluation.probe_table import probe_table
from lewm.evaluation.protocol import HELDOUT
from lewm.evaluation.reconstruction import reconstruction_table
from lewm.evaluation.success import NUM_LATENCY_EPISODES, evaluate_success
from lewm.evaluation.surprise import surprise_table
from lewm.learned_policies.agent import LearnedAgent
from lewm.learned_policies.checkpoints import PolicyCheckpoint, is_policy, load_policy_checkpoint
from lewm.planning.direct import DirectPolicy
from lewm.planning.mpc import MPCPolicy
from lewm.registry import EVALUATIONS
from lewm.versions import versions

logger = logging.getLogger(__name__)

REPEAT_OPTIONS = ("action_repeat", "frame_skip")
"""Options of worlds that say how long an env step is."""
NEEDED_HEADS = {"reconstruction": "decoder"}
"""Evaluations that need a network on the latents, which they are given under its name."""


def evaluate(
    run: Path | str,
    *,
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    protocol: str = HELDOUT,
    distances: Sequence[int] = (25,),
    episodes: int = 100,
    seed: int = 0,
    data_policy: str | None = None,
    is_rest_start: bool = False,
    is_stitched: bool = False,
    strata: Sequence[str] | None = None,
    planner: PlannerConfig | None = None,
    data: Path | str | None = None,
    prepared: PreparedPairs | None = None,
    num_latency_episodes: int = NUM_LATENCY_EPISODES,
    watch_with: Path | str | None = None,
    device: str = "cpu",
    command: str = "",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """How often a run reaches goals that it never trained on: the result of ``lewm eval success``, JSON-ready.

    ``run`` holds a world model, which plans, or a learned policy, which has no ``planner``. ``episodes`` start/goal pairs per distance and stratum,
    made with the settings of ``make_pairs``. ``planner`` defaults to the run's own settings (protocol ``official``: to LeWorldModel's), ``env`` to
    the world of its data, whose options ``env_options`` and the protocol change. ``ConfigError`` for a world with other actions than the run's; an
    env step of another length is allowed where ``env_options`` say so: the result then records the trained one as ``planner.trained_action_repeat``.
    ``data`` (the training set) is needed where goals are compared by labels (``planner.goal``): a probe of them is fitted on it; and where
    actions are retrieved from it (``planner.proposals``). The pairs of every
    protocol but ``heldout`` are rows of it; there it defaults to the run's own training set, if that is still where it was. ``prepared`` are
    the pairs of these very settings with their floors, made before; single plans of ``num_latency_episodes`` are timed afterwards.
    With ``watch_with``, a dataset of the run's kind, the result also says in which pairs a plan imagined to arrive (``arrivals``); what
    that takes is counted as planning.
    """
    checkpoint = load_policy_checkpoint(run, device) if is_policy(run) else load_checkpoint(run, device)
    name, options = world_of(checkpoint, env, env_options)
    options |= protocol_options(protocol, name, env_options or {})
    repeat = check_actions(checkpoint, name, options, env_options or {})
    if data is None and protocol != HELDOUT:
        data = _own_training_set(checkpoint, Path(run))
    agent, acting = _agent_of(checkpoint, planner, protocol, name, options, data)
    if watch_with is not None and isinstance(checkpoint, Checkpoint):
        _watch(agent, checkpoint, watch_with)
    return evaluate_success(
        agent,
        env=name,
        env_options=options,
        distances=distances,
        num_pairs=episodes,
        seed=seed,
        protocol=protocol,
        data_policy=data_policy,
        is_rest_start=is_rest_start,
        is_stitched=is_stitched,
        strata=strata,
        pair_data=data,
        prepared=prepared,
        num_latency_episodes=num_latency_episodes,
        planner=acting | repeat,
        checkpoint_sha256=checkpoint.sha256,
        dataset_sha256=str(checkpoint.provenance.get("dataset_sha256", "")),
        training_episode_seeds=training_seeds(checkpoint),
        command=command,
        progress=progress,
    )


def _agent_of(
    checkpoint: Checkpoint | PolicyCheckpoint,
    planner: PlannerConfig | None,
    protocol: str,
    env: str,
    env_options: dict[str, Any],
    data: Path | str | None,
) -> tuple[MPCPolicy | LearnedAgent, dict[str, Any]]:
    """Who acts, and what the result says of it."""
    if isinstance(checkpoint, PolicyCheckpoint):
        _check_policy_settings(checkpoint, planner, protocol, data)
        return LearnedAgent(checkpoint.model), checkpoint.describe()
    planner = planner or protocol_planner(protocol, checkpoint.config.planner)
    is_data_for_goals = protocol == HELDOUT or kind_of_comparison(planner, env) == "labels"
    comparison = compare_goals(checkpoint, planner, env, env_options, data if is_data_for_goals else None)
    return agent_of(checkpoint, planner, comparison.readout, data), comparison.describe(planner)


def _watch(agent: MPCPolicy | LearnedAgent, checkpoint: Checkpoint, data: Path | str) -> None:
    """Have an agent that plans watched for arrivals, if the data can be read: the evaluation itself can do without."""
    if isinstance(agent, MPCPolicy) and not isinstance(agent, DirectPolicy):
        try:
            watch_arrivals(agent, checkpoint, matching_store(checkpoint, data))
        except DataError as error:
            logger.warning("plans are not watched for arrivals: %s", error)


def _check_policy_settings(checkpoint: PolicyCheckpoint, planner: PlannerConfig | None, protocol: str, data: Path | str | None) -> None:
    """``ConfigError`` for what only a search has."""
    about = f"{str(checkpoint.path)!r} holds a learned policy ({checkpoint.name})"
    if planner is not None:
        raise ConfigError(f"{about}, which does not plan: leave the planner's settings (--planner.KEY) out")
    if data is not None and protocol == HELDOUT:
        raise ConfigError(f"{about}, which needs no data to compare goals: leave --data out, or name the --protocol whose pairs are its rows")


def load_policy(
    run: Path | str, *, planner: PlannerConfig | None = None, data: Path | str | None = None, device: str = "cpu"
) -> MPCPolicy | LearnedAgent:
    """The agent of a run: it plans with the run's world model and, unless ``planner`` says otherwise, with the run's planner settings.

    A run that holds a learned policy acts as it learnt, and takes neither ``planner`` nor ``data``. ``data`` (the training set) is needed where goals
    are compared by labels, as in Atari, or looked up there; ``ConfigError`` says so.
    """
    if is_policy(run):
        policy = load_policy_checkpoint(run, device)
        _check_policy_settings(policy, planner, HELDOUT, data)
        return LearnedAgent(policy.model)
    checkpoint = load_checkpoint(run, device)
    planner = planner or checkpoint.config.planner
    comparison = compare_goals(checkpoint, planner, checkpoint.env.get("name"), dict(checkpoint.env.get("options", {})), data)
    return agent_of(checkpoint, planner, comparison.readout, data)


def evaluate_latents(
    name: str, run: Path | str, data: Path | str, *, device: str = "cpu", command: str = "", peer: Path | str | None = None, **options: Any
) -> dict[str, Any]:
    """``lewm eval probe``, ``collapse`` or ``atari-labels``: measurements on a dataset; ``options`` are the evaluation's own.

    ``is_training_dataset`` says whether the run was trained on that very dataset. ``peer``: another run, for evaluations that compare two.
    """
    checkpoint = load_checkpoint(run, device)
    store = matching_store(checkpoint, data)
    if name in NEEDED_HEADS:
        options[NEEDED_HEADS[name]] = head_of(checkpoint, NEEDED_HEADS[name])
    if peer is not None:
        other = load_checkpoint(peer, device)
        matching_store(other, data)
        options["peer"] = other.model
    result: dict[str, Any] = EVALUATIONS.load(name)(checkpoint.model, store, config=checkpoint.config, **options)
    sha256 = store.dataset_sha256
    if peer is not None:
        result["peer"] = _described(other, checkpoint, sha256)
    return result | {
        "checkpoint_sha256": checkpoint.sha256,
        "dataset_sha256": sha256,
        "env": store.env.get("name"),
        "action_repeat": store.action_spec.action_repeat,
        "is_training_dataset": checkpoint.provenance.get("dataset_sha256") == sha256,
        "versions": versions(),
        "command": command,
    }


def latent_table(result: dict[str, Any]) -> str:
    """The result of ``evaluate_latents`` as plain text."""
    tables = {
        "probe": probe_table,
        "collapse": _collapse_table,
        "surprise": surprise_table,
        "reconstruction": reconstruction_table,
        "atari-labels": atari_table,
    }
    table = tables.get(result.get("evaluation", ""))
    if table is None:
        return json.dumps(result, indent=2)
    env = result.get("env") or "recordings without a simulator"
    return f"{table(result)}\n{env}, action repeat {result['action_repeat']}" if "action_repeat" in result else table(result)


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
        "zero_action_sensitivity",
        "straightness",
        "time_share",
        "episode_share",
        "nuisance_share",
        "state_share",
        "neighbour_overlap",
    )
    lines += [f"{name:<24} {result[name]:.3f}" for name in names if result.get(name) is not None]
    for one in result["least_gaussian_directions"]:
        shape = f"std {one['std']:.3f}, skewness {one['skewness']:.2f}, excess kurtosis {one['excess_kurtosis']:.2f}"
        lines.append(f"least Gaussian: {one['kind']}: {shape}, distance {one['distance']:.4f} (chance: {1 / result['num_frames']:.4f})")
    return "\n".join(lines)


def _described(peer: Checkpoint, checkpoint: Checkpoint, dataset_sha256: str) -> dict[str, Any]:
    """What another run is, and whether it held out the same episodes of its training data."""
    splits = [(one.config.data.split_seed, one.config.data.validation_fraction) for one in (peer, checkpoint)]
    return {
        "checkpoint_sha256": peer.sha256,
        "objective": peer.config.objective.name,
        "is_training_dataset": peer.provenance.get("dataset_sha256") == dataset_sha256,
        "is_split_shared": splits[0] == splits[1],
    }


def world_of(checkpoint: Checkpoint | PolicyCheckpoint, env: str | None, env_options: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Name and options of the world that a run is evaluated in; ``ConfigError`` for a run without one."""
    trained = checkpoint.env
    name = env or trained.get("name")
    if not name:
        raise ConfigError("this run was trained on data without a simulator; name a world with --env")
    options = dict(trained.get("options", {})) if name == trained.get("name") else {}
    return name, options | (env_options or {})


def check_actions(checkpoint: Checkpoint | PolicyCheckpoint, name: str, options: dict[str, Any], explicit: dict[str, Any]) -> dict[str, int]:
    """What a result has to record where an env step is not as long as in training; ``ConfigError`` for actions that mean something else."""
    trained = checkpoint.model.action_spec
    if trained.kind == "none":
        return {}  # the agent says that it cannot plan
    with closing(make_batch(name, 1, **options)) as envs:
        found = envs.action_spec
    if replace(found, action_repeat=trained.action_repeat) != trained:
        raise ConfigError(
            f"the run was trained on {trained}, env {name!r} has {found} with these options: evaluate in a world with the run's actions, "
            "without options that change them"
        )
    if found.action_repeat == trained.action_repeat:
        return {}
    difference = f"the run was trained with action repeat {trained.action_repeat}, env {name!r} has {found.action_repeat}"
    if not set(REPEAT_OPTIONS) & set(explicit):
        raise ConfigError(f"{difference}: give --env-option action_repeat={trained.action_repeat} (Atari: frame_skip), or the one that you mean")
    logger.warning("%s: env steps of another length, as asked for", difference)
    return {"trained_action_repeat": trained.action_repeat}


def _own_training_set(checkpoint: Checkpoint | PolicyCheckpoint, run: Path) -> Path | None:
    """Where the data that the run was trained on lie, if they lie where its command or a demo put them: known by their hash."""
    sha256 = checkpoint.provenance.get("dataset_sha256")
    words: list[str] = []
    with contextlib.suppress(ValueError):  # a command that nobody can have typed
        words = shlex.split(str(checkpoint.provenance.get("command", "")))
    named = [value for word, value in itertools.pairwise(words) if word == "--data"]
    named += [word.removeprefix("--data=") for word in words if word.startswith("--data=")]
    for place in (*map(Path, named), run / "data"):
        with contextlib.suppress(DataError):
            if EpisodeStore(place).dataset_sha256 == sha256:
                return place
    return None


def training_seeds(checkpoint: Checkpoint | PolicyCheckpoint) -> np.ndarray | None:
    """Seeds of the training episodes, of the base that training started from and of heads as well, which evaluation episodes must not share."""
    seeds = checkpoint.provenance.get("episode_seeds")
    if seeds is None:
        return None
    others = [checkpoint.provenance.get("base", {}), *checkpoint.provenance.get("heads", {}).values()]
    return np.unique(np.concatenate([np.asarray(about.get("episode_seeds", []), dtype=np.int64) for about in ({"episode_seeds": seeds}, *others)]))
