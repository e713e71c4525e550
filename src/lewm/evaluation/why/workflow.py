"""``lewm eval why``: from a run to an account of which part of it makes plans fail, and of whether it knows."""

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lewm.checkpoint import Checkpoint, load_checkpoint
from lewm.config import Config, PlannerConfig
from lewm.data.formats.store import Store
from lewm.envs.base import make_batch
from lewm.errors import ConfigError, DataError
from lewm.evaluation.label_goals import compare_goals, kind_of_comparison, matching_store
from lewm.evaluation.protocol import HELDOUT, Manifest, check_disjoint, make_manifest
from lewm.evaluation.why.breaking import break_part
from lewm.evaluation.why.coalitions import check_planner, oracle_search
from lewm.evaluation.why.diagnosis import Progress, Question, diagnose
from lewm.evaluation.why.oracles import Parts, World
from lewm.evaluation.why.paths import goal_columns, true_distance
from lewm.evaluation.why.simulation import Simulator
from lewm.evaluation.why.translation import fit_translator
from lewm.evaluation.workflow import check_actions, training_seeds, world_of
from lewm.planning.base import BlockSpace
from lewm.planning.terms import DISTANCES
from lewm.versions import versions

FORMAT = 1
DISTANCE_ENV_STEPS = 50
NUM_EPISODES = 50


def explain(
    run: Path | str,
    *,
    data: Path | str,
    env: str | None = None,
    env_options: dict[str, Any] | None = None,
    planner: PlannerConfig | None = None,
    distance_env_steps: int | None = None,
    num_episodes: int | None = None,
    num_pairs: int = 20,
    pairs_of: Path | str | None = None,
    broken: str | None = None,
    device: str = "cpu",
    command: str = "",
    progress: Progress | None = None,
    **pairs: Any,
) -> dict[str, Any]:
    """Which part of a run is to blame for the pairs that it fails, and whether it knows when it will fail: JSON-ready.

    The agent as it is tries ``num_episodes`` start/goal pairs per stratum: the first of the result file ``pairs_of`` (default: all of them) or new
    ones (default: 50), made with ``pairs``, the arguments of ``_make_pairs``. The first ``num_pairs`` per stratum are tried again with every
    coalition of parts swapped for oracles. ``data`` is the training set: the maps between latents and labels are fitted on it. ``broken`` breaks a
    part first, to see whether it is found. ``ConfigError`` for a run without a simulator and for planner settings that cannot be swapped,
    ``DataError`` for data without labels.
    """
    begun_s, say = time.monotonic(), progress or (lambda _text: None)
    if num_pairs < 1:
        raise ConfigError(f"--pairs must be at least 1 pair per stratum, got {num_pairs}")
    checkpoint = load_checkpoint(run, device)
    known = None if pairs_of is None else _pairs_of(pairs_of, env, env_options)
    name, options = world_of(checkpoint, env, env_options) if known is None else (known.env, dict(known.env_options))
    asked: dict[str, Any] = {"num_swapped": num_pairs, "distance_env_steps": distance_env_steps}
    question = None if known is None else Question.of(known, num_tried=num_episodes, **asked)
    planner = planner or checkpoint.config.planner
    check_planner(planner, checkpoint.head_networks)
    repeat = check_actions(checkpoint, name, options, env_options or {})
    store = matching_store(checkpoint, data)
    comparison = compare_goals(checkpoint, planner, name, options, data if kind_of_comparison(planner, name) == "labels" else None)
    whole = Parts(model=checkpoint.model.eval(), planner=planner, metric=DISTANCES[planner.distance], readout=comparison.readout)
    parts = whole if broken is None else break_part(whole, broken)
    say(f"fitting the maps between latents and labels on {data}")
    world, about = make_world(parts, name, options, store, checkpoint.config)
    with closing(world):
        if question is None:
            question = Question.of(
                _make_pairs(name, options, say, num_episodes=num_episodes, distance_env_steps=distance_env_steps, **pairs), **asked
            )
        manifest = question.manifest
        _check_seeds(checkpoint, manifest)
        found = diagnose(parts, world, question, say)
    return {
        "evaluation": "why",
        "format": FORMAT,
        "env": name,
        "protocol": {"name": manifest.protocol, "version": manifest.protocol_version, "manifest_sha256": manifest.sha256},
        "checkpoint_sha256": checkpoint.sha256,
        "dataset_sha256": str(checkpoint.provenance.get("dataset_sha256", "")),
        "planner": comparison.describe(parts.planner) | repeat,
        "oracle_search": asdict(oracle_search(parts.planner)),
        "broken": broken,
        "definitions": about,
        **found,
        "manifest": manifest.to_dict(),
        "seconds": round(time.monotonic() - begun_s, 1),
        "versions": versions(),
        "command": command,
    }


def make_world(parts: Parts, env: str, env_options: dict[str, Any], store: Store, config: Config) -> tuple[World, dict[str, Any]]:
    """What the oracles need, fitted on the training episodes of a dataset (``config`` says which), and what they mean in this world.

    The caller closes the world. ``DataError`` for data with other labels than the world's.
    """
    translator = fit_translator(parts.model, store, config)
    envs = make_batch(env, 1, **env_options)
    names, columns = tuple(envs.label_names), goal_columns(envs.label_names, envs.goal_label_names)
    if names != translator.label_names:
        envs.close()
        raise DataError(
            f"env {env!r} has the labels {', '.join(names) or 'none'}, dataset {str(store.path)!r} has {', '.join(translator.label_names)}: "
            "give data of the same world"
        )
    mean, std = parts.model.action_statistics()
    space = BlockSpace(action_spec=parts.model.action_spec, action_block=parts.model.action_block, mean=mean, std=std)
    simulator, distance = Simulator(env, env_options, space), true_distance(envs, translator.label_std)
    about = {
        "cost_oracle": distance.kind,
        "goal_labels": [names[column] for column in columns],
        "latent_variance_explained_by_labels": round(translator.present.embedding.explained, 4),
        "explained_in": "held-out training episodes",
        "probe_dataset_sha256": store.dataset_sha256,
    }
    world = World(envs=envs, simulator=simulator, translator=translator, true_distance=distance, goal_columns=tuple(columns))
    return world, about


def _make_pairs(
    env: str,
    env_options: dict[str, Any],
    say: Progress,
    *,
    distance_env_steps: int | None = None,
    num_episodes: int | None = None,
    seed: int = 0,
    strata: Sequence[str] | None = None,
    data_policy: str | None = None,
    is_rest_start: bool = False,
    is_stitched: bool = False,
) -> Manifest:
    """``num_episodes`` new pairs per stratum, as ``lewm eval success`` makes them."""
    num_pairs = NUM_EPISODES if num_episodes is None else num_episodes
    say(f"making {num_pairs} pairs per stratum")
    return make_manifest(
        env,
        env_options,
        distances=[DISTANCE_ENV_STEPS if distance_env_steps is None else distance_env_steps],
        num_pairs=num_pairs,
        seed=seed,
        strata=strata,
        data_policy=data_policy,
        is_rest_start=is_rest_start,
        is_stitched=is_stitched,
    )


def _pairs_of(path: Path | str, env: str | None, env_options: dict[str, Any] | None) -> Manifest:
    """The pairs of a result file."""
    if env is not None or env_options:
        raise ConfigError("--pairs-of names a result with a world of its own: leave --env and --env-option out")
    try:
        manifest = Manifest.from_dict(json.loads(Path(path).read_text())["manifest"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{str(path)!r} is no result with pairs ({error!r}): give a file that `lewm eval success --json` wrote") from None
    if manifest.protocol != HELDOUT:
        raise ConfigError(f"{str(path)!r} has pairs of protocol {manifest.protocol!r}, which are rows of a dataset: give a result of {HELDOUT!r}")
    return manifest


def _check_seeds(checkpoint: Checkpoint, manifest: Manifest) -> None:
    seeds = training_seeds(checkpoint)
    if seeds is not None:
        check_disjoint(manifest, seeds)
