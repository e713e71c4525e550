"""``lewm eval why``: from a run to an account of which part of it makes plans fail, and of whether it knows.

Axes: C coalition, n pair, s label.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm.checkpoint import Checkpoint, load_checkpoint
from lewm.config import PlannerConfig
from lewm.envs.base import make_batch
from lewm.errors import ConfigError, DataError
from lewm.evaluation.intervals import wilson
from lewm.evaluation.label_goals import GoalComparison, compare_goals, kind_of_comparison, matching_store
from lewm.evaluation.outcomes import Outcome, run_policy, run_scripted
from lewm.evaluation.protocol import HELDOUT, Manifest, Pair, check_disjoint, make_manifest
from lewm.evaluation.results import pair_batch
from lewm.evaluation.why.breaking import break_part
from lewm.evaluation.why.coalitions import COALITIONS, PARTS, Coalition, check_planner, oracle_search
from lewm.evaluation.why.oracles import Parts, SwappedAgent, SwappedPolicy, World
from lewm.evaluation.why.paths import goal_columns, true_distance
from lewm.evaluation.why.shapley import attribution
from lewm.evaluation.why.simulation import Simulator
from lewm.evaluation.why.translation import fit_translator
from lewm.evaluation.why.trust import arrival_threshold, hallucination, trust
from lewm.evaluation.why.watching import WatchedPolicy
from lewm.evaluation.workflow import check_actions, training_seeds, world_of
from lewm.planning.base import BlockSpace
from lewm.planning.terms import DISTANCES
from lewm.versions import versions

FORMAT = 1
DISTANCE_ENV_STEPS = 50

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Question:
    """The pairs that are asked about."""

    manifest: Manifest
    pairs: tuple[Pair, ...]
    """On which the agent as it is was tried."""
    swapped: tuple[int, ...]
    """Which of them are tried again with parts swapped."""


def explain(
    run: Path | str,
    *,
    data: Path | str,
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    planner: PlannerConfig | None = None,
    distance_env_steps: int | None = None,
    num_episodes: int = 50,
    num_pairs: int = 20,
    seed: int = 0,
    strata: Sequence[str] | None = None,
    data_policy: str | None = None,
    is_rest_start: bool = False,
    is_stitched: bool = False,
    pairs_of: Path | str | None = None,
    broken: str | None = None,
    device: str = "cpu",
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Which part of a run is to blame for the pairs that it fails, and whether it knows when it will fail: JSON-ready.

    The agent as it is tries ``num_episodes`` start/goal pairs per stratum, made as those of ``lewm eval success`` are, or the pairs of the result file
    ``pairs_of``. The first ``num_pairs`` per stratum are tried again with every coalition of parts swapped for oracles. ``data`` is the training set:
    it fits the maps between latents and labels. ``broken`` breaks a part first, to see whether it is found. ``ConfigError`` for a run without a
    simulator and for planner settings that cannot be swapped, ``DataError`` for data without labels.
    """
    begun_s, say = time.monotonic(), progress or (lambda _text: None)
    checkpoint = load_checkpoint(run, device)
    name, options, manifest = _asked_world(checkpoint, env, env_options, pairs_of)
    planner = planner or checkpoint.config.planner
    check_planner(planner, checkpoint.head_networks)
    repeat = check_actions(checkpoint, name, options, env_options or {})
    comparison = compare_goals(checkpoint, planner, name, options, data if kind_of_comparison(planner, name) == "labels" else None)
    parts = Parts(model=checkpoint.model.eval(), planner=planner, metric=DISTANCES[planner.distance], readout=comparison.readout)
    parts = parts if broken is None else break_part(parts, broken)
    if manifest is None:
        say(f"making {num_episodes} pairs per stratum")
        manifest = make_manifest(
            name,
            options,
            distances=[DISTANCE_ENV_STEPS if distance_env_steps is None else distance_env_steps],
            num_pairs=num_episodes,
            seed=seed,
            data_policy=data_policy,
            is_rest_start=is_rest_start,
            is_stitched=is_stitched,
            strata=strata,
        )
    trained_on = training_seeds(checkpoint)
    if trained_on is not None and manifest.dataset is None:
        check_disjoint(manifest, trained_on)
    question = _question(manifest, distance_env_steps, num_pairs)
    world, about = _world(checkpoint, parts, name, options, data, say)
    with closing(world.simulator):
        result = _answer(parts, world, question, say)
    return {
        "evaluation": "why",
        "format": FORMAT,
        "env": name,
        "protocol": {"name": manifest.protocol, "version": manifest.protocol_version, "manifest_sha256": manifest.sha256},
        "checkpoint_sha256": checkpoint.sha256,
        "dataset_sha256": str(checkpoint.provenance.get("dataset_sha256", "")),
        "broken": broken,
        **_settings(comparison, parts, repeat),
        "definitions": about,
        **result,
        "manifest": manifest.to_dict(),
        "seconds": round(time.monotonic() - begun_s, 1),
        "versions": versions(),
        "command": command,
    }


def _asked_world(
    checkpoint: Checkpoint, env: str | None, env_options: dict[str, Any] | None, pairs_of: Path | str | None
) -> tuple[str, dict[str, Any], Manifest | None]:
    """Name and options of the world, and the pairs of a result file if one was named."""
    if pairs_of is None:
        return *world_of(checkpoint, env, env_options), None
    if env is not None or env_options:
        raise ConfigError("--pairs-of names a result with a world of its own: leave --env and --env-option out")
    try:
        manifest = Manifest.from_dict(json.loads(Path(pairs_of).read_text())["manifest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(pairs_of)!r} is no result of `lewm eval success` with a manifest ({error}): give the file that --json wrote") from None
    if manifest.protocol != HELDOUT:
        raise ConfigError(f"{str(pairs_of)!r} has pairs of protocol {manifest.protocol!r}, which are rows of a dataset: give a result of {HELDOUT!r}")
    return manifest.env, dict(manifest.env_options), manifest


def _question(manifest: Manifest, distance_env_steps: int | None, num_pairs: int) -> Question:
    distance = manifest.distances[0] if distance_env_steps is None else distance_env_steps
    if distance not in manifest.distances:
        raise ConfigError(f"the result has pairs at D = {', '.join(map(str, manifest.distances))}, not {distance}: leave --distance out or choose one")
    if num_pairs < 1:
        raise ConfigError(f"--pairs must be at least 1 pair per stratum, got {num_pairs}")
    pairs = manifest.at(distance)
    swapped = [number for stratum in manifest.strata for number in [row for row, pair in enumerate(pairs) if pair.stratum == stratum][:num_pairs]]
    return Question(manifest=manifest, pairs=tuple(pairs), swapped=tuple(swapped))


def _world(
    checkpoint: Checkpoint, parts: Parts, name: str, options: dict[str, Any], data: Path | str, say: Progress
) -> tuple[World, dict[str, Any]]:
    """What the oracles need, fitted on the training episodes of ``data``; and what they mean in this world."""
    say(f"fitting the maps between latents and labels on {data}")
    store = matching_store(checkpoint, data)
    translator = fit_translator(checkpoint, parts.model, store, num_transitions=parts.planner.horizon_model_steps)
    envs = make_batch(name, 1, **options)
    if tuple(envs.label_names) != translator.label_names:
        envs.close()
        raise DataError(f"env {name!r} has the labels {', '.join(envs.label_names) or 'none'}, dataset {str(data)!r} {', '.join(store.label_names)}")
    distance = true_distance(envs, translator.label_std)
    columns = goal_columns(envs.label_names, envs.goal_label_names)
    mean, std = parts.model.action_statistics()
    space = BlockSpace(action_spec=parts.model.action_spec, action_block=parts.model.action_block, mean=mean, std=std)
    world = World(
        simulator=Simulator(name, options, space), translator=translator, true_distance=distance, goal_columns=tuple(columns)
    )
    about = {
        "cost_oracle": distance.kind,
        "goal_labels": [envs.label_names[column] for column in columns],
        "latent_variance_explained_by_labels": round(translator.embedding.explained, 4),
        "probe_dataset_sha256": store.dataset_sha256,
    }
    return world, about


def _answer(parts: Parts, world: World, question: Question, say: Progress) -> dict[str, Any]:
    """Everything that is measured."""
    watched = WatchedPolicy(parts)
    begun_s = time.monotonic()
    outcomes = _run_agent(watched, question, say)
    seconds = time.monotonic() - begun_s
    is_solved = np.array([outcome.solved for outcome in outcomes])
    promises = [watched.promises[question.manifest.policy_seed(pair)] for pair in question.pairs]
    values = np.zeros((len(COALITIONS), len(question.swapped)), bool)
    values[0] = is_solved[list(question.swapped)]
    is_explained = bool(not values[0].all())
    if is_explained:
        say(f"the agent as it is: {int(is_solved.sum())} of {len(is_solved)} pairs solved in {seconds:.0f} s")
        values[1:] = _run_coalitions(parts, world, question, say)
    return {
        "distance_env_steps": question.pairs[0].distance_env_steps,
        "budget_env_steps": question.pairs[0].budget_env_steps,
        "n": len(is_solved),
        "success": wilson(int(is_solved.sum()), len(is_solved)),
        "num_swapped_pairs": len(question.swapped),
        "attribution": attribution(values, PARTS) if is_explained else _nothing_to_explain(len(question.swapped)),
        "values": {coalition.name: wilson(int(row.sum()), len(row)) for coalition, row in zip(COALITIONS, values, strict=True)} if is_explained else {},
        "hallucination": hallucination(promises, is_solved, arrival_threshold(parts, world.translator)),
        **trust(promises, is_solved),
        "episodes": [
            {"pair": pair.id, "solved": outcome.solved, "first_hit": outcome.first_hit, "plans": [asdict(plan) for plan in plans]}
            for pair, outcome, plans in zip(question.pairs, outcomes, promises, strict=True)
        ],
        "swapped": [
            {"pair": question.pairs[number].id, "solved_by": [one.name for one, solved in zip(COALITIONS, column, strict=True) if solved]}
            for number, column in zip(question.swapped, values.T, strict=True)
        ]
        if is_explained
        else [],
    }


def _run_agent(policy: WatchedPolicy, question: Question, say: Progress) -> list[Outcome]:
    manifest, pairs = question.manifest, question.pairs
    say(f"trying {len(pairs)} pairs as the agent is")
    starts, goals = [pair.start_state for pair in pairs], [pair.goal_state for pair in pairs]
    seeds = [manifest.policy_seed(pair) for pair in pairs]
    return run_policy(policy, manifest.env, manifest.env_options, starts, goals, seeds, pairs[0].budget_env_steps)


def _run_coalitions(parts: Parts, world: World, question: Question, say: Progress) -> np.ndarray:
    """bool [C-1, n]: which pairs each coalition but the empty one solves."""
    pairs = [question.pairs[number] for number in question.swapped]
    say(_estimated_time(parts, world, question, pairs))
    rows = []
    for coalition in COALITIONS[1:]:
        begun_s = time.monotonic()
        solved = solve_with(parts, world, coalition, question.manifest, pairs)
        rows.append(solved)
        say(f"{coalition.name}: {int(solved.sum())} of {len(pairs)} solved, {time.monotonic() - begun_s:.0f} s")
    return np.stack(rows)


def solve_with(
    parts: Parts, world: World, coalition: Coalition, manifest: Manifest, pairs: Sequence[Pair], *, budget_env_steps: int | None = None
) -> np.ndarray:
    """bool [n]: which pairs the agent solves with a coalition of parts swapped."""
    with closing(make_batch(manifest.env, len(pairs), **manifest.env_options)) as envs:
        envs.set_states([pair.goal_state for pair in pairs])
        goal_labels = envs.labels()
    agent = SwappedAgent(SwappedPolicy(parts, world, coalition), goal_labels)
    with closing(pair_batch(manifest, pairs)) as envs:
        outcomes = run_scripted(envs, agent, [manifest.policy_seed(pair) for pair in pairs], budget_env_steps or pairs[0].budget_env_steps)
    return np.array([outcome.solved for outcome in outcomes])


def _estimated_time(parts: Parts, world: World, question: Question, pairs: Sequence[Pair]) -> str:
    """At most how long the swaps take, from one plan of each coalition without the search's oracle."""
    planner = parts.planner
    tries = planner.num_candidates * planner.num_iterations
    ratio = max(1.0, oracle_search(planner).num_candidates * oracle_search(planner).num_iterations / tries)
    total_s = 0.0
    for coalition in COALITIONS:
        if not coalition.has("search"):
            begun_s = time.monotonic()
            solve_with(parts, world, coalition, question.manifest, pairs[:1], budget_env_steps=1)
            total_s += (time.monotonic() - begun_s) * ((coalition.number > 0) + ratio)
    num_plans = -(-pairs[0].budget_env_steps // (planner.replan_every_model_steps * parts.model.action_block)) * len(pairs)
    minutes = total_s * num_plans / 60
    return f"swapping parts of {len(pairs)} pairs takes at most {minutes:.1f} minutes, less where pairs are solved early (--pairs makes it shorter)"


def _nothing_to_explain(num_pairs: int) -> dict[str, Any]:
    sentence = f"nothing to explain: all {num_pairs} pairs were solved (a larger --distance or more --pairs may hold failures)"
    return {"gap": None, "parts": {}, "verdict": "nothing to explain", "part": None, "sentence": sentence}


def _settings(comparison: GoalComparison, parts: Parts, repeat: dict[str, int]) -> dict[str, Any]:
    """The planner's settings, as they were used, and those of the search's oracle."""
    return {"planner": comparison.describe(parts.planner) | repeat, "oracle_search": asdict(oracle_search(parts.planner))}
