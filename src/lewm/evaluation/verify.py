"""``lewm verify``: check a result file without the model, without torch and without trusting whoever wrote it.

The pairs are made again from the manifest's seed, the executed actions are replayed in the simulator, the floors and the ceiling are run again, and
every number that follows is recomputed and compared. What this cannot see: whether the recorded actions came from the named checkpoint, and
the fields listed under ``unverified``. Those, and edits of actions that change no outcome, are guarded only by ``content_sha256``, which catches an
accident or a careless edit but not an author who writes a new hash.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lewm.errors import LewmError, VerificationError
from lewm.evaluation.outcomes import Outcome, replay
from lewm.evaluation.protocol import PROTOCOLS, Manifest, make_manifest
from lewm.evaluation.results import FORMAT, UNVERIFIED, assemble, content_sha256, decode_actions, pair_batch, run_references
from lewm.evaluation.verify_dataset import check_dataset_pairs
from lewm.versions import other_simulators

RELATIVE_TOLERANCE = 1e-9
"""For recomputed floats: another machine may round the last bit of an interval differently."""
CHECKED = (
    "the pairs follow from their seeds",
    "the manifest has the hash that it claims",
    "the executed actions lead to the outcomes",
    "floors and expert do as well as claimed on the same pairs",
    "rates, intervals, paired differences, steps to success, counts and headline follow from the outcomes",
    "the file has not been edited since it was written (content_sha256)",
)
_SETTINGS: dict[str, type] = {
    "env": str,
    "env_version": int,
    "env_options": dict,
    "protocol": str,
    "protocol_version": int,
    "data_policy": str,
    "seed": int,
    "num_pairs": int,
    "distances": list,
    "strata": list,
    "pairs": list,
}


def verify_result(source: Path | str | dict[str, Any], data: Path | str | None = None) -> dict[str, Any]:
    """Recompute a result of ``lewm eval success`` or ``robustness``; what was checked and what cannot be, JSON-ready.

    ``data`` is the dataset of a result whose pairs come from one: without it, which rows they are is taken on trust, and said to be.
    ``VerificationError`` naming the first field that does not follow, with the value in the file and the recomputed one.
    """
    result = json.loads(json.dumps(source)) if isinstance(source, dict) else _read(Path(source))
    if result.get("evaluation") == "robustness":
        from lewm.evaluation.verify_robustness import verify_robustness  # which uses what is below

        if data is not None:
            raise VerificationError("the pairs of a robustness result follow from seeds alone, not from a dataset: leave --data out")
        return verify_robustness(result)
    check_header(result, "success", FORMAT, UNVERIFIED)
    manifest, on_trust = verified_manifest(result, data)
    with naming_simulators(result):
        outcomes = replayed(result, manifest)
        rebuilt = assemble(manifest, outcomes, run_references(manifest), {name: result[name] for name in UNVERIFIED})
        compare_values("", without_hash(result), without_hash(json.loads(json.dumps(rebuilt))))
    if result.get("content_sha256") != (recomputed := content_sha256(result)):
        raise VerificationError(
            f"content_sha256 is {result.get('content_sha256')!r} in the file and {recomputed!r} recomputed: "
            f"an action that changes no outcome, or one of {', '.join(UNVERIFIED)}, was edited"
        )
    num_episodes = len(outcomes)
    return {
        "verification": "success",
        "format": 1,
        "is_verified": True,
        "num_episodes": num_episodes,
        "manifest_sha256": manifest.sha256,
        "checked": [*([] if on_trust else CHECKED[:1]), *CHECKED[1:]],
        "unverified": [*UNVERIFIED, *on_trust],
        "summary": f"{num_episodes} episodes of {manifest.env} replayed; every outcome, floor, rate and interval follows from them",
    }


def check_header(result: dict[str, Any], evaluation: str, format: int, unverified: Sequence[str]) -> None:
    """Refuse another kind of result or format, or one that lacks a field that is taken on trust."""
    for name, expected in (("evaluation", evaluation), ("format", format)):
        if not _is_same(result.get(name), expected):
            refuse(name, result.get(name), expected)
    missing = [name for name in unverified if name not in result]
    if missing:
        raise VerificationError(f"{missing[0]} is missing from the result")


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except OSError as error:
        raise VerificationError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except ValueError as error:
        raise VerificationError(f"{str(path)!r} is not a valid result: {error}") from None
    if not isinstance(result, dict):
        raise VerificationError(f"{str(path)!r} must hold a JSON object, such as `lewm eval success --json FILE` writes")
    return result


def verified_manifest(result: dict[str, Any], data: Path | str | None) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest in the result, once its hash is right and its pairs have been made again from its seed; and what of it is taken on trust."""
    values, protocol = result.get("manifest"), result.get("protocol")
    if not isinstance(values, dict) or not isinstance(protocol, dict):
        raise VerificationError("manifest and protocol must both be JSON objects in a result")
    manifest = _read_manifest(values)
    if protocol.get("manifest_sha256") != manifest.sha256:
        refuse("protocol.manifest_sha256", protocol.get("manifest_sha256"), manifest.sha256)
    num_expected = manifest.num_pairs * len(manifest.distances) * len(manifest.strata)
    if len(manifest.pairs) != num_expected:  # before making them: a made-up count must not keep us busy for ever
        refuse("manifest.pairs", f"{len(manifest.pairs)} pairs", f"{num_expected} pairs")
    if manifest.protocol in PROTOCOLS and manifest.protocol_version != PROTOCOLS[manifest.protocol]:
        refuse("manifest.protocol_version", manifest.protocol_version, PROTOCOLS[manifest.protocol])
    if manifest.dataset is not None:
        with naming_simulators(result):
            again, on_trust = check_dataset_pairs(manifest, data)
            compare_values("manifest", values, again.to_dict())
        return manifest, on_trust
    if data is not None:
        raise VerificationError(f"the pairs of protocol {manifest.protocol!r} follow from seeds alone, not from a dataset: leave --data out")
    names = ("distances", "num_pairs", "seed", "protocol", "data_policy", "is_rest_start", "is_stitched", "strata")
    request: dict[str, Any] = {name: getattr(manifest, name) for name in names}
    try:
        again = make_manifest(manifest.env, manifest.env_options, **request)
    except LewmError as error:
        raise VerificationError(f"manifest: its pairs cannot be made again: {error}") from error
    with naming_simulators(result):
        compare_values("manifest", values, again.to_dict())
    return manifest, ()


def _read_manifest(values: dict[str, Any]) -> Manifest:
    """The manifest as it stands in the file, its settings being of the right type."""
    for name, kind in _SETTINGS.items():
        if type(values.get(name)) is not kind:
            raise VerificationError(f"manifest.{name} must be of type {kind.__name__}, got {_short(values.get(name))}")
    for name in ("is_rest_start", "is_stitched"):
        if type(values.get(name, False)) is not bool:
            raise VerificationError(f"manifest.{name} must be true or left out, got {_short(values[name])}")
    if not isinstance(values.get("dataset", {}), dict):
        raise VerificationError(f"manifest.dataset must be an object or left out, got {_short(values['dataset'])}")
    if not all(type(stratum) is str for stratum in values["strata"]):
        raise VerificationError(f"manifest.strata must be names, got {_short(values['strata'])}")
    if not all(type(distance) is int for distance in values["distances"]):
        raise VerificationError(f"manifest.distances must be whole numbers, got {_short(values['distances'])}")
    try:
        return Manifest.from_dict(values)
    except LewmError as error:
        raise VerificationError(f"manifest: {error}") from error


def replayed(result: dict[str, Any], manifest: Manifest, path: str = "") -> dict[str, Outcome]:
    """Outcomes by pair id, from the simulator; ``path`` is where in the file the ``episodes`` of ``result`` are."""
    episodes, prefix = result.get("episodes"), f"{path}.episodes" if path else "episodes"
    if not isinstance(episodes, list) or len(episodes) != len(manifest.pairs):
        raise VerificationError(f"{prefix} must be a list with one entry for each of the {len(manifest.pairs)} pairs")
    position = {pair.id: index for index, pair in enumerate(manifest.pairs)}
    outcomes: dict[str, Outcome] = {}
    for distance in manifest.distances:
        pairs, first = manifest.at(distance), position[manifest.at(distance)[0].id]
        with closing(pair_batch(manifest, pairs)) as envs:
            actions = []
            for pair in pairs:
                entry = episodes[position[pair.id]]
                place = f"{prefix}.{position[pair.id]}"
                if not isinstance(entry, dict) or entry.get("pair") != pair.id:
                    refuse(f"{place}.pair", entry.get("pair") if isinstance(entry, dict) else entry, pair.id)
                actions.append(decode_actions(entry.get("actions"), envs.action_spec, f"{place}.actions"))
            try:
                found = replay(envs, actions, pairs[0].budget_env_steps)
            except LewmError as error:
                raise VerificationError(f"{prefix}: replaying the actions at D = {distance} from episode {first} on: {error}") from error
        outcomes |= {pair.id: outcome for pair, outcome in zip(pairs, found, strict=True)}
    return outcomes


@contextmanager
def naming_simulators(result: dict[str, Any]) -> Iterator[None]:
    """Another version of the simulator may be why states differ: a refusal says so, and refuses all the same."""
    try:
        yield
    except VerificationError as error:
        recorded, env = result["versions"], result.get("env")
        differences = other_simulators(env, recorded) if isinstance(env, str) and isinstance(recorded, dict) else ""
        if not differences:
            raise
        raise VerificationError(f"{error}; the simulator is another one, which may be why: {differences}") from error


def compare_values(path: str, found: Any, expected: Any) -> None:
    """Refuse the first difference between two JSON values, by its path."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted(set(found) | set(expected)):
            inner = f"{path}.{name}" if path else name
            if name not in found:
                raise VerificationError(f"{inner} is missing from the result; recomputed: {_short(expected[name])}")
            if name not in expected:
                raise VerificationError(f"{inner} is {_short(found[name])} in the file; no such field follows from the episodes")
            compare_values(inner, found[name], expected[name])
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            compare_values(f"{path}.{index}", one, other)
    elif not _is_same(found, expected):
        refuse(path, found, expected)


def _is_same(found: Any, expected: Any) -> bool:
    if type(found) is not type(expected):  # 1, 1.0 and true are different in a file
        return False
    return (
        math.isclose(found, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE) if isinstance(found, float) else bool(found == expected)
    )


def refuse(path: str, found: Any, expected: Any) -> NoReturn:
    """``VerificationError`` with both values."""
    raise VerificationError(f"{path} is {_short(found)} in the file and {_short(expected)} recomputed")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:60]}... ({len(text)} characters)"


def without_hash(result: dict[str, Any]) -> dict[str, Any]:
    """Everything in a result but its hash."""
    return {name: value for name, value in result.items() if name != "content_sha256"}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that a result may hold")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different: with duplicates, a reader could see another value than the one that was checked."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object names the same field twice")
    return values
