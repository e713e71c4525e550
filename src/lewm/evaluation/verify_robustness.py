"""``lewm verify`` for results of ``lewm eval robustness``: every condition's world is made again and its actions are replayed in it.

What corruptions showed the agent, and the probe, need the model and are taken on trust; what the agent did under them is replayed.
"""

import json
from dataclasses import asdict
from typing import Any

from lewm.errors import LewmError, VerificationError
from lewm.evaluation.conditions import UNPERTURBED, Condition, corruption_names, pairs_under, perturbation_names
from lewm.evaluation.protocol import Manifest
from lewm.evaluation.results import content_sha256
from lewm.evaluation.robustness import FORMAT, UNVERIFIED, Trial, UnseenTrial, assemble_robustness, unseen_layouts
from lewm.evaluation.verify import CHECKED, check_header, compare_values, naming_simulators, refuse, replayed, verified_manifest, without_hash


def verify_robustness(result: dict[str, Any]) -> dict[str, Any]:
    """Recompute a robustness result; what was checked and what cannot be, JSON-ready. ``VerificationError`` names what does not follow."""
    check_header(result, "robustness", FORMAT, UNVERIFIED)
    if "no_success" in result:
        raise VerificationError("this result holds no episodes, only a probe, and a probe cannot be checked without the model")
    manifest, _ = verified_manifest(result, None)
    with naming_simulators(result):
        trials = [_replayed_trial(result.get("unperturbed"), manifest, UNPERTURBED, "unperturbed")]
        conditions = result.get("conditions")
        if not isinstance(conditions, list):
            raise VerificationError("conditions must be a list")
        for number, fields in enumerate(conditions):
            trials.append(_replayed_trial(fields, manifest, _condition(fields, manifest, number), f"conditions.{number}"))
        unseen = None if result.get("unseen") is None else _replayed_unseen(result, manifest)
        rebuilt = assemble_robustness(manifest, trials, unseen, {name: result[name] for name in UNVERIFIED})
        compare_values("", without_hash(result), without_hash(json.loads(json.dumps(rebuilt))))
    if result.get("content_sha256") != (recomputed := content_sha256(result)):
        refuse("content_sha256", result.get("content_sha256"), recomputed)
    num_episodes = sum(len(trial.outcomes) for trial in trials) + (0 if unseen is None else len(unseen.outcomes))
    return {
        "verification": "robustness",
        "format": 1,
        "is_verified": True,
        "num_episodes": num_episodes,
        "num_conditions": len(trials) - 1,
        "manifest_sha256": manifest.sha256,
        "checked": [*CHECKED, "perturbed and unseen worlds follow from the pairs, and differences are between the same pairs"],
        "unverified": [*UNVERIFIED, "which frames the agent was shown under a corruption"],
        "summary": f"{num_episodes} episodes of {manifest.env} under {len(trials)} conditions replayed; every rate, floor and interval follows",
    }


def _condition(fields: Any, manifest: Manifest, number: int) -> Condition:
    """The condition that an entry claims to be; ``VerificationError`` unless it is one that can be asked for."""
    path = f"conditions.{number}"
    if not isinstance(fields, dict):
        raise VerificationError(f"{path} must be an object")
    kind, name, severity, goals = (fields.get(key) for key in ("kind", "name", "severity", "goals"))
    if kind not in ("perturbation", "corruption") or goals not in ("same", "clean") or type(name) is not str:
        raise VerificationError(
            f"{path} must have a kind (perturbation, corruption), a name and goals (same, clean), got {kind!r}, {name!r}, {goals!r}"
        )
    if type(severity) is not float or not 0 < severity <= 1:
        raise VerificationError(f"{path}.severity must be a number in (0, 1], got {severity!r}")
    try:
        known = perturbation_names(manifest.env, [name]) if kind == "perturbation" else corruption_names([name])
    except LewmError as error:
        raise VerificationError(f"{path}.name: {error}") from error
    if known != [name]:
        raise VerificationError(f"{path}.name must be that of a {kind}, got {name!r}")
    return Condition(kind=kind, name=name, severity=severity, goals=goals)


def _replayed_trial(fields: Any, manifest: Manifest, condition: Condition, path: str) -> Trial:
    if not isinstance(fields, dict):
        raise VerificationError(f"{path} must be an object")
    try:
        changed, num_left_out = pairs_under(manifest, condition)
    except LewmError as error:
        raise VerificationError(f"{path}: its world cannot be made again: {error}") from error
    return Trial(condition=condition, manifest=changed, num_left_out=num_left_out, outcomes=replayed(fields, changed, path))


def _replayed_unseen(result: dict[str, Any], manifest: Manifest) -> UnseenTrial:
    """The unseen layouts, which must be those that the options of the manifest leave out."""
    fields = result["unseen"]
    if not isinstance(fields, dict):
        raise VerificationError("unseen must be an object or null")
    try:
        layouts = unseen_layouts(manifest.env, manifest.env_options)
    except LewmError as error:
        raise VerificationError(f"unseen: {error}") from error
    found = {name: fields.get(name) for name in asdict(layouts) if name != "options"}
    compare_values("unseen", found, {name: value for name, value in json.loads(json.dumps(asdict(layouts))).items() if name != "options"})
    claim = {"manifest": fields.get("manifest"), "protocol": {"manifest_sha256": fields.get("manifest_sha256")}}
    claim |= {name: result.get(name) for name in ("env", "versions")}
    unseen, _ = verified_manifest(claim, None)
    compare_values("unseen.manifest.env_options", unseen.env_options, json.loads(json.dumps(layouts.options)))
    return UnseenTrial(layouts=layouts, manifest=unseen, outcomes=replayed(fields, unseen, "unseen"))
