"""Checking the pairs of a result that come from a dataset: all of it with the dataset at hand, and what follows from seeds without it.

A scripted policy's episodes follow from their seeds, so the states of every pair can be had without it. Which episodes and rows it has, cannot.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from lewm.data.episodes import EpisodeStore
from lewm.data.policies import RUN_POLICY
from lewm.envs.base import GoalEnv, make_batch
from lewm.errors import LewmError, VerificationError
from lewm.evaluation.dataset_pairs import SEED_NAMESPACE, make_dataset_manifest, with_presolved
from lewm.evaluation.dataset_protocols import ALL, OFFICIAL, protocol_options, world_rules
from lewm.evaluation.protocol import HELDOUT, PROTOCOLS, Manifest, Pair
from lewm.evaluation.sources import EpisodeSource, states_at
from lewm.registry import ENVS, POLICIES

ROWS_ON_TRUST = "manifest.pairs: that the seed draws these rows from dataset {sha256} (give --data DIR)"
MOST_ENV_STEPS = 100_000
"""Longer episodes are not played again: a made-up number must not keep anybody busy for ever."""
STATES_ON_TRUST = "manifest.pairs: that their states are of the dataset's episodes, which no scripted policy recorded"


_OWN_FIELDS = ("id", "distance_env_steps", "stratum", "episode_index", "episode_seed", "start_env_step", "start_state", "goal_state")
"""What a pair from a dataset has; the others are of stitched pairs, or follow."""


def check_dataset_pairs(manifest: Manifest, data: Path | str | None) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest as it should be, and what of it was taken on trust; ``VerificationError`` for what no protocol allows."""
    if manifest.protocol == HELDOUT or manifest.protocol not in PROTOCOLS:
        raise VerificationError(f"manifest.dataset belongs to no result of protocol {manifest.protocol!r}")
    if data is not None:
        return _made_again(manifest, data), ()
    try:
        return _without_dataset(manifest)
    except VerificationError:
        raise
    except (LewmError, KeyError, TypeError, ValueError) as error:
        raise VerificationError(f"manifest: its pairs cannot be made again: {error}") from error


def _made_again(manifest: Manifest, data: Path | str) -> Manifest:
    assert manifest.dataset is not None
    store = EpisodeStore(data)
    if store.dataset_sha256 != manifest.dataset.get("sha256"):
        raise VerificationError(
            f"the pairs are from dataset {str(manifest.dataset.get('sha256'))[:12]}, and {str(data)!r} is {store.dataset_sha256[:12]}: give that one"
        )
    settings: dict[str, Any] = {name: getattr(manifest, name) for name in ("protocol", "distances", "num_pairs", "seed")}
    try:
        return make_dataset_manifest(store, manifest.env, manifest.env_options, **settings)
    except LewmError as error:
        raise VerificationError(f"manifest: its pairs cannot be made again: {error}") from error


def _without_dataset(manifest: Manifest) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with all that follows from the protocol's rules and from seeds."""
    dataset, rules = manifest.dataset, world_rules(manifest.protocol, manifest.env)
    assert dataset is not None
    env_class: type[GoalEnv] = ENVS.load(manifest.env)
    with closing(make_batch(manifest.env, 1, **manifest.env_options)) as envs:
        action_repeat = envs.action_spec.action_repeat
    _check_rules(manifest)
    pairs, on_trust = _with_states(manifest, dataset)
    own = [Pair(**{name: getattr(pair, name) for name in _OWN_FIELDS}) for pair in pairs]
    places = [(distance, number) for distance in manifest.distances for number in range(manifest.num_pairs)]
    if manifest.protocol == OFFICIAL:
        own = with_presolved(manifest.env, manifest.env_options, own)
    else:
        _check_kinds(manifest, own, rules.stratum)
    again = replace(
        manifest,
        env_version=env_class.VERSION,
        env_options=manifest.env_options | protocol_options(manifest.protocol, manifest.env, {}),
        seed_namespace=SEED_NAMESPACE,
        strata=(rules.stratum,),
        action_repeat=action_repeat,
        is_rest_start=False,
        is_stitched=False,
        pairs=tuple(
            replace(pair, id=f"{distance}/{rules.stratum}/{number}", distance_env_steps=distance, stratum=rules.stratum)
            for pair, (distance, number) in zip(own, places, strict=True)
        ),
    )
    return again, (ROWS_ON_TRUST.format(sha256=str(dataset["sha256"])[:12]), *on_trust)


def _with_states(manifest: Manifest, dataset: dict[str, Any]) -> tuple[list[Pair], tuple[str, ...]]:
    """The pairs with states from their seeds, where a scripted policy acted."""
    env_class: type[GoalEnv] = ENVS.load(manifest.env)
    if manifest.data_policy not in {*POLICIES, *env_class.POLICIES} - {RUN_POLICY} or not isinstance(dataset.get("max_env_steps"), int):
        return list(manifest.pairs), (STATES_ON_TRUST,)
    source = EpisodeSource(
        env=manifest.env,
        env_options=dataset["env_options"],
        data_policy=manifest.data_policy,
        max_env_steps=dataset["max_env_steps"],
        policy_options=dataset["policy_options"],
    )
    if source.max_env_steps > MOST_ENV_STEPS:
        raise VerificationError(f"manifest.dataset.max_env_steps is {source.max_env_steps}; episodes of at most {MOST_ENV_STEPS} are played again")
    wanted: dict[int, set[int]] = {}
    for seed, step in (end for pair in manifest.pairs for end in pair.ends):
        if not 0 <= step <= source.max_env_steps:
            raise VerificationError(f"manifest.pairs: env step {step} is outside episodes of {source.max_env_steps} env steps")
        wanted.setdefault(seed, set()).add(step)
    states = states_at(source, wanted)
    return [replace(pair, start_state=states[pair.ends[0]], goal_state=states[pair.ends[1]]) for pair in manifest.pairs], ()


def _check_rules(manifest: Manifest) -> None:
    """Refuse rows that the protocol would not have taken together."""
    for distance in manifest.distances:
        at = manifest.at(distance)
        rows = [(pair.episode_index, pair.start_env_step) for pair in at]
        if manifest.protocol == OFFICIAL and rows != sorted(set(rows)):
            raise VerificationError(f"manifest.pairs: the rows at D = {distance} are not different ones in their order")
        repeated = [number for number, count in Counter(number for number, _ in rows).items() if count > 1]
        if manifest.protocol != OFFICIAL and repeated:
            raise VerificationError(f"manifest.pairs: episode {repeated[0]} gives more than one pair at D = {distance}")


def _check_kinds(manifest: Manifest, pairs: Sequence[Pair], stratum: str) -> None:
    """Refuse pairs that are solved at their start or of another kind than the world's rules ask for."""
    names: tuple[str, ...] = ENVS.load(manifest.env).STRATA
    with closing(make_batch(manifest.env, len(pairs), **manifest.env_options)) as envs:
        envs.set_states([pair.start_state for pair in pairs])
        starts = envs.labels()
        envs.set_states([pair.goal_state for pair in pairs])
        kinds = envs.strata(starts, envs.labels())
    for pair, kind in zip(pairs, kinds.tolist(), strict=True):
        if kind < 0 or stratum not in (ALL, names[kind]):
            raise VerificationError(f"manifest.pairs: {pair.id} is solved at its start or not of the kind {stratum!r}")
