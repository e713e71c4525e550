"""The result of ``lewm eval success`` as JSON: every number that follows from a manifest and executed actions, put together in one place.

Axes: n episode, N env step, a action. ``lewm verify`` rebuilds a result with the same functions, so a field that is added here is verified too.
Imports no torch.
"""

import base64
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.envs.base import GoalEnvBatch, ScriptedPolicy
from lewm.errors import LewmError, VerificationError
from lewm.evaluation.intervals import Estimate, paired_difference, wilson
from lewm.evaluation.outcomes import CEILING, FLOORS, Outcome, has_ceiling, run_scripted, scripted_policy, start_batch
from lewm.evaluation.protocol import DEFAULTS, Manifest, Pair, canonical_sha256
from lewm.registry import ENVS
from lewm.schema import ActionSpec

FORMAT = 1
UNVERIFIED = ("checkpoint_sha256", "dataset_sha256", "num_training_episodes", "planner", "plan_ms", "versions", "command")
"""Fields that do not follow from the episodes: taken on trust."""
PREDICATE_OPTIONS = ("success", "tolerance_scale", "is_wrapped", "goal_labels", "goal_tolerance", "success_radius_px", "collision")
"""Options of worlds that decide what counts as success: a table names those that were given."""
HEADLINE = ("n", "success", "random", "strongest_floor", "paired_difference")
"""Fields of the first distance's headline stratum that are repeated at the top."""


@dataclass(frozen=True, kw_only=True)
class References:
    """First hits of the scripted policies on the same pairs: name -> pair id -> env steps, or None where the goal was not reached."""

    floors: Mapping[str, Mapping[str, int | None]]
    ceiling: Mapping[str, int | None] | None
    """None for a world without a noiseless expert."""


def run_references(manifest: Manifest) -> References:
    """Run floors and ceiling on the pairs of a manifest: a pure function of it."""
    floors = {name: _first_hits(manifest, policy) for name, policy in FLOORS.items()}
    return References(floors=floors, ceiling=_first_hits(manifest, CEILING) if has_ceiling(manifest.env) else None)


def run_scripted_on(manifest: Manifest, policy: ScriptedPolicy) -> dict[str, Outcome]:
    """What a scripted policy does on the pairs of a manifest: outcomes by pair id."""
    outcomes: dict[str, Outcome] = {}
    for distance in manifest.distances:
        pairs = manifest.at(distance)
        seeds = [manifest.policy_seed(pair) for pair in pairs]
        with contextlib.closing(pair_batch(manifest, pairs)) as envs:
            found = run_scripted(envs, policy, seeds, pairs[0].budget_env_steps)
        outcomes |= {pair.id: outcome for pair, outcome in zip(pairs, found, strict=True)}
    return outcomes


def pair_batch(manifest: Manifest, pairs: Sequence[Pair]) -> GoalEnvBatch:
    """An environment batch in the starts of these pairs, headed for their goals; the caller closes it."""
    return start_batch(manifest.env, manifest.env_options, [pair.start_state for pair in pairs], [pair.goal_state for pair in pairs])


def assemble(manifest: Manifest, outcomes: Mapping[str, Outcome], references: References, unverified: Mapping[str, Any]) -> dict[str, Any]:
    """The complete result; ``outcomes`` by pair id, ``unverified`` the fields that cannot be re-derived."""
    result = {
        "evaluation": "success",
        "format": FORMAT,
        "env": manifest.env,
        "protocol": {"name": manifest.protocol, "version": manifest.protocol_version, "manifest_sha256": manifest.sha256},
        **{name: unverified[name] for name in UNVERIFIED},
        "unverified": list(UNVERIFIED),
        **measured(manifest, outcomes, references),
        "manifest": manifest.to_dict(),
    }
    return result | {"content_sha256": content_sha256(result)}


def measured(manifest: Manifest, outcomes: Mapping[str, Outcome], references: References) -> dict[str, Any]:
    """The part of a result that follows from outcomes by pair id: every distance and stratum, the headline, and the episodes."""
    by_distance = {str(distance): _distance(manifest, distance, outcomes, references) for distance in manifest.distances}
    first = by_distance[str(manifest.distances[0])]
    return {
        "by_distance": by_distance,
        **{name: first[name] for name in HEADLINE},
        "episodes": [_episode(pair, outcomes[pair.id], references) for pair in manifest.pairs],
    }


def unusual_settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a result's ``"manifest"`` that its numbers must not be read without; those that are as usual are left out."""
    found = {name: manifest[name] for name, default in DEFAULTS.items() if manifest.get(name, default) != default}
    predicate = {name: value for name, value in manifest.get("env_options", {}).items() if name in PREDICATE_OPTIONS}
    if predicate:
        found["env_options"] = predicate
    policy = manifest.get("data_policy")
    if policy is not None and policy != _own_data_policy(manifest.get("env")):
        found["data_policy"] = policy
    return found


def settings_words(settings: Mapping[str, Any]) -> str:
    """What a table has to say about pairs beside their protocol, from a result's ``"manifest"`` or its ``unusual_settings``; may be empty."""
    unusual = unusual_settings(settings)
    words = ["rest start"] if "is_rest_start" in unusual else []
    words += ["stitched pairs"] if "is_stitched" in unusual else []
    words += [f"action repeat {unusual['action_repeat']}"] if "action_repeat" in unusual else []
    options = unusual.get("env_options", {})
    words += [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
    words += [f"pairs of policy {unusual['data_policy']}"] if "data_policy" in unusual else []
    words += [f"pairs from dataset {str(unusual['dataset']['sha256'])[:12]}"] if "dataset" in unusual else []
    return "".join(f", {word}" for word in words)


def content_sha256(result: Mapping[str, Any]) -> str:
    """Hash of everything in a result but the hash itself."""
    return canonical_sha256({name: value for name, value in result.items() if name != "content_sha256"})


def encode_actions(actions: np.ndarray) -> str:
    """Raw little-endian bytes (float32 [N, a], or int64 [N]) in base64: exact and small."""
    return base64.b64encode(np.ascontiguousarray(actions, dtype=_little_endian(actions.dtype.kind == "i")).tobytes()).decode()


def decode_actions(text: Any, spec: ActionSpec, path: str) -> np.ndarray:
    """The inverse of ``encode_actions``; ``VerificationError`` naming ``path`` if the text is not actions of this world."""
    is_discrete = spec.kind == "discrete"
    row = 1 if is_discrete else spec.dimension
    dtype = _little_endian(is_discrete)
    try:
        raw = base64.b64decode(text, validate=True)
        actions = np.frombuffer(raw, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise VerificationError(f"{path} is not base64 of {dtype.name} actions: {error}") from None
    if len(actions) % row or not np.isfinite(actions).all():
        raise VerificationError(f"{path} must hold finite actions of {row} numbers each, got {len(actions)} numbers")
    return actions.astype(dtype.newbyteorder("=")).reshape((-1,) if is_discrete else (-1, row))


def _own_data_policy(env: str | None) -> str | None:
    """The world's data policy; None for a world that is not known here."""
    try:
        return None if env is None else str(ENVS.load(env).DATA_POLICY)
    except LewmError:
        return None


def _little_endian(is_discrete: bool) -> np.dtype[Any]:
    return np.dtype("<i8" if is_discrete else "<f4")


def _first_hits(manifest: Manifest, policy: str) -> dict[str, int | None]:
    return {pair: outcome.first_hit for pair, outcome in run_scripted_on(manifest, scripted_policy(manifest.env, policy)).items()}


def _distance(manifest: Manifest, distance: int, outcomes: Mapping[str, Outcome], references: References) -> dict[str, Any]:
    """The fields of one distance: those of the headline stratum, and every stratum under ``strata``."""
    pairs = manifest.at(distance)
    strata = {stratum: _statistics([pair for pair in pairs if pair.stratum == stratum], outcomes, references) for stratum in manifest.strata}
    return {**strata[manifest.strata[0]], "stratum": manifest.strata[0], "strata": strata}


def _statistics(pairs: Sequence[Pair], outcomes: Mapping[str, Outcome], references: References) -> dict[str, Any]:
    solved = np.array([outcomes[pair.id].solved for pair in pairs])
    floors = {name: _solved(pairs, hits) for name, hits in references.floors.items()}
    strongest = max(floors, key=lambda name: int(floors[name].sum()))
    ceiling = None if references.ceiling is None else _estimate(_solved(pairs, references.ceiling))
    return {
        "n": len(pairs),
        **_solved_at_start(pairs),
        "budget_env_steps": pairs[0].budget_env_steps,
        "success": _estimate(solved),
        **{name: _estimate(floor) for name, floor in floors.items()},
        "expert": ceiling,
        "strongest_floor": {"name": strongest, **_estimate(floors[strongest])},
        "paired_difference": paired_difference(solved, floors[strongest]),
        "steps_to_success": _steps_to_success([hit for pair in pairs if (hit := outcomes[pair.id].first_hit) is not None]),
    }


def _solved_at_start(pairs: Sequence[Pair]) -> dict[str, int]:
    """How many starts a policy that does nothing has solved already, in protocols that allow it."""
    known = [pair.is_solved_at_start for pair in pairs if pair.is_solved_at_start is not None]
    return {"num_solved_at_start": sum(known)} if known else {}


def _estimate(solved: np.ndarray) -> Estimate:
    return wilson(int(solved.sum()), len(solved))


def _solved(pairs: Sequence[Pair], first_hits: Mapping[str, int | None]) -> np.ndarray:
    return np.array([first_hits[pair.id] is not None for pair in pairs])


def _steps_to_success(first_hits: list[int]) -> dict[str, float | None]:
    """Env steps of the solved episodes; null where none was solved."""
    if not first_hits:
        return {"median": None, "p90": None}
    median, p90 = np.quantile(np.array(first_hits, dtype=np.float64), [0.5, 0.9])
    return {"median": float(median), "p90": float(p90)}


def _episode(pair: Pair, outcome: Outcome, references: References) -> dict[str, Any]:
    """One episode: what the policy did, and when the scripted policies first reached the same goal."""
    return {
        "pair": pair.id,
        "distance": pair.distance_env_steps,
        "stratum": pair.stratum,
        "solved": outcome.solved,
        "first_hit": outcome.first_hit,
        "num_env_steps": len(outcome.actions),
        "actions": encode_actions(outcome.actions),
        "floors_first_hit": {name: hits[pair.id] for name, hits in references.floors.items()},
        "expert_first_hit": None if references.ceiling is None else references.ceiling[pair.id],
    }
