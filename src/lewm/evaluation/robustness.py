"""``lewm eval robustness``: the same pairs in a world that looks or is built differently, through a damaged camera, and with unseen layouts.

Every number that follows from executed actions is put together by ``assemble_robustness``, which ``lewm verify`` calls as well. Imports no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lewm.envs.base import GoalEnv, UnseenLayouts
from lewm.errors import ConfigError
from lewm.evaluation.conditions import UNPERTURBED, Condition, make_conditions, pairs_under
from lewm.evaluation.corrupted_policy import CorruptedPolicy
from lewm.evaluation.intervals import paired_difference
from lewm.evaluation.outcomes import Outcome
from lewm.evaluation.protocol import Manifest, check_disjoint, make_manifest
from lewm.evaluation.results import HEADLINE, References, content_sha256, measured, run_references
from lewm.evaluation.success import Progress, run_episodes
from lewm.registry import ENVS
from lewm.versions import versions

if TYPE_CHECKING:  # importing it would import torch, which a verification does not need
    from lewm.planning.base import Policy

FORMAT = 1
UNVERIFIED = ("checkpoint_sha256", "dataset_sha256", "num_training_episodes", "planner", "versions", "command", "probe")
"""Fields that do not follow from the episodes: taken on trust."""
SEVERITIES = (0.25, 0.5, 1.0)
DIFFERENCE = "difference_to_unperturbed"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a policy did under one condition."""

    condition: Condition
    manifest: Manifest
    num_left_out: int
    """Pairs that are not legal under the condition."""
    outcomes: dict[str, Outcome]
    """By pair id."""


@dataclass(frozen=True, kw_only=True)
class UnseenTrial:
    """What a policy did in layouts that it was not trained on."""

    layouts: UnseenLayouts
    manifest: Manifest
    outcomes: dict[str, Outcome]


def evaluate_robustness(
    policy: "Policy",
    *,
    env: str,
    env_options: dict[str, Any],
    distances: Sequence[int] = (25,),
    num_pairs: int = 50,
    seed: int = 0,
    strata: Sequence[str] | None = None,
    perturbations: Sequence[str] | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[float] = SEVERITIES,
    goals: Sequence[str] = ("same", "clean"),
    is_unseen: bool = False,
    training_episode_seeds: np.ndarray | None = None,
    unverified: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Try a policy on the same held-out pairs under every condition, with floors in the same world; JSON-ready.

    ``strata`` default to the world's headline alone, ``perturbations`` and ``corruptions`` to all there are. With ``is_unseen`` also on pairs of
    layouts that the world with ``env_options`` never has. ``ConfigError`` for unknown names, severities outside (0, 1] or a world without unseen
    layouts; ``DataError`` for pairs from training episodes.
    """
    conditions = make_conditions(env, perturbations, corruptions, severities, goals)
    layouts = unseen_layouts(env, env_options) if is_unseen else None
    env_class: type[GoalEnv] = ENVS.load(env)
    wanted = (env_class.STRATA[:1] or None) if strata is None else strata
    request: dict[str, Any] = {"distances": distances, "num_pairs": num_pairs, "seed": seed, "strata": wanted}
    manifests = [make_manifest(env, options, **request) for options in (env_options, *([] if layouts is None else [layouts.options]))]
    for manifest in manifests if training_episode_seeds is not None else ():
        check_disjoint(manifest, training_episode_seeds)  # type: ignore[arg-type]  # not None here
    for condition in conditions:
        pairs_under(manifests[0], condition)  # refuses what cannot be tried, before hours of trying
    trials = [
        _try(policy, manifests[0], condition, _counted(progress, number, conditions)) for number, condition in enumerate((UNPERTURBED, *conditions))
    ]
    unseen = None
    if layouts is not None:
        _say(progress, f"unseen {layouts.name}")
        unseen = UnseenTrial(layouts=layouts, manifest=manifests[1], outcomes=run_episodes(policy, manifests[1])[0])
    defaults: dict[str, Any] = dict.fromkeys(UNVERIFIED) | {"planner": {}, "command": "", "versions": versions()}
    return assemble_robustness(manifests[0], trials, unseen, defaults | (unverified or {}))


def unseen_layouts(env: str, env_options: dict[str, Any]) -> UnseenLayouts:
    """Layouts that a world with these options never has; ``ConfigError`` if there are none."""
    env_class: type[GoalEnv] = ENVS.load(env)
    found = env_class.unseen_layouts(env_options)
    if found is None:
        raise ConfigError(
            f"env {env!r} with the run's options has no layouts that training left out; in two-room, train on data of "
            "`lewm collect --preset two-room-doors-laptop` (options vary and door_bands_px)"
        )
    return found


def without_simulator(reason: str, unverified: dict[str, Any]) -> dict[str, Any]:
    """The result where nothing can be run: a probe alone, and why."""
    defaults: dict[str, Any] = dict.fromkeys(UNVERIFIED) | {"planner": {}, "command": "", "versions": versions()}
    result = {"evaluation": "robustness", "format": FORMAT, "env": None, "no_success": reason}
    result |= {**defaults, **unverified, "unverified": list(UNVERIFIED)}
    return result | {"content_sha256": content_sha256(result)}


def assemble_robustness(manifest: Manifest, trials: Sequence[Trial], unseen: UnseenTrial | None, unverified: dict[str, Any]) -> dict[str, Any]:
    """The complete result; the first trial is the unperturbed one. Floors and ceiling are run here, each in the world of its condition."""
    references = run_references(manifest)
    solved = {pair: outcome.solved for pair, outcome in trials[0].outcomes.items()}
    result = {
        "evaluation": "robustness",
        "format": FORMAT,
        "env": manifest.env,
        "protocol": {"name": manifest.protocol, "version": manifest.protocol_version, "manifest_sha256": manifest.sha256},
        **{name: unverified[name] for name in UNVERIFIED},
        "unverified": list(UNVERIFIED),
        "unperturbed": measured(manifest, trials[0].outcomes, references),
        "conditions": [_trial(trial, references, solved) for trial in trials[1:]],
        "unseen": None if unseen is None else _unseen(unseen),
        "manifest": manifest.to_dict(),
    }
    return result | {"content_sha256": content_sha256(result)}


def corrupted(policy: "Policy", condition: Condition) -> "Policy":
    """The policy as it sees under a condition: itself unless frames are corrupted."""
    if condition.kind != "corruption":
        return policy
    return CorruptedPolicy(policy, condition.name, condition.severity, are_goals_corrupted=condition.goals == "same")


def _try(policy: "Policy", manifest: Manifest, condition: Condition, progress: Callable[[str], None] | None) -> Trial:
    _say(progress, str(condition))
    changed, num_left_out = pairs_under(manifest, condition)
    outcomes, _ = run_episodes(corrupted(policy, condition), changed)
    return Trial(condition=condition, manifest=changed, num_left_out=num_left_out, outcomes=outcomes)


def _trial(trial: Trial, references: References, solved_before: dict[str, bool]) -> dict[str, Any]:
    """The fields of one condition; corruptions leave the world as it is, and its floors with it."""
    own_references = run_references(trial.manifest) if trial.condition.kind == "perturbation" else references
    fields = measured(trial.manifest, trial.outcomes, own_references)
    for distance, entry in fields["by_distance"].items():
        for stratum, statistics in entry["strata"].items():
            pairs = [pair.id for pair in trial.manifest.at(int(distance)) if pair.stratum == stratum]
            solved, before = (np.array([found[pair] for pair in pairs]) for found in (_solved(trial.outcomes), solved_before))
            statistics[DIFFERENCE] = paired_difference(solved, before)
        entry[DIFFERENCE] = entry["strata"][entry["stratum"]][DIFFERENCE]
    first = next(iter(fields["by_distance"].values()))
    return {
        **trial.condition.to_dict(),
        "manifest_sha256": trial.manifest.sha256,
        "num_left_out": trial.num_left_out,
        **{name: first[name] for name in (*HEADLINE, DIFFERENCE)},
        "by_distance": fields["by_distance"],
        "episodes": fields["episodes"],
    }


def _unseen(trial: UnseenTrial) -> dict[str, Any]:
    layouts = {name: value for name, value in asdict(trial.layouts).items() if name != "options"}
    return {
        **layouts,
        "manifest_sha256": trial.manifest.sha256,
        **measured(trial.manifest, trial.outcomes, run_references(trial.manifest)),
        "manifest": trial.manifest.to_dict(),
    }


def _solved(outcomes: dict[str, Outcome]) -> dict[str, bool]:
    return {pair: outcome.solved for pair, outcome in outcomes.items()}


def _counted(progress: Progress | None, number: int, conditions: Sequence[Condition]) -> Progress | None:
    return None if progress is None else lambda text: progress(f"{number + 1} of {len(conditions) + 1}: {text}")


def _say(progress: Progress | None, text: str) -> None:
    if progress is not None:
        progress(text)
