"""Start/goal pairs from the rows of a native dataset: which ones, and the exact states at them.

Axes: N env step, E episode, s label, a env action. A row is an observation. A dataset holds no states, but the seed and the actions of every episode,
so that the states come back by playing them again; labels that differ from the recorded ones say that this failed.

Protocol ``official``: rows drawn uniformly among all that have another row of their episode D env steps later, by the same draw as in the official
code; a start may be solved already, and several pairs may be of one episode. The protocols ``clear-*``: of each episode, taken in random order, at
most one pair, never solved at its start and of the kind that the world's rules ask for.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.episodes import EpisodeStore
from lewm.data.policies import RUN_POLICY
from lewm.envs.base import GoalEnv, GoalEnvBatch, canonical_name, make_batch
from lewm.errors import ConfigError, DataError, LewmError
from lewm.evaluation.dataset_protocols import ALL, OFFICIAL, protocol_options, world_rules
from lewm.evaluation.outcomes import no_op_actions, start_batch
from lewm.evaluation.protocol import HELDOUT, PROTOCOLS, Manifest, Pair, make_manifest
from lewm.evaluation.sources import MAX_EPISODES_PER_STATE_BATCH
from lewm.registry import ENVS, did_you_mean

SEED_NAMESPACE = "dataset"
LABEL_TOLERANCE = 1e-5
"""Largest difference, relative where labels are large, between a label that was recorded and the one that playing the actions again leads to."""

Row = tuple[int, int]
"""(episode id, env step)."""


def make_pairs(
    env: str, env_options: dict[str, Any], *, protocol: str = HELDOUT, data: Path | str | None = None, distances: Sequence[int], **settings: Any
) -> Manifest:
    """The pairs of any protocol: ``make_manifest`` for ``heldout``, whose settings these are, ``make_dataset_manifest`` for the others.

    ``ConfigError`` for settings that a protocol does not have, or a dataset that it needs and was not given.
    """
    if protocol == HELDOUT or protocol not in PROTOCOLS:
        return make_manifest(env, env_options, protocol=protocol, distances=distances, **settings)
    num_pairs, seed = settings.pop("num_pairs"), settings.pop("seed")
    others = [name for name, value in settings.items() if value]
    if others:
        raise ConfigError(f"{others[0]} is a setting of protocol {HELDOUT!r}; {protocol!r} takes pairs as they are in the dataset")
    if data is None:
        raise ConfigError(f"protocol {protocol!r} takes its pairs from the rows of a dataset, usually the training set: give --data DIR")
    return make_dataset_manifest(EpisodeStore(data), env, env_options, protocol=protocol, distances=distances, num_pairs=num_pairs, seed=seed)


def make_dataset_manifest(
    store: EpisodeStore, env: str, env_options: dict[str, Any], *, protocol: str, distances: Sequence[int], num_pairs: int, seed: int
) -> Manifest:
    """The pairs of a protocol from the rows of a dataset, tried in the world ``env`` with ``env_options`` and what the protocol fixes.

    ``DataError`` for a dataset of another world or without what is needed to play it again, ``LewmError`` if it does not give enough pairs.
    """
    _check_request(protocol, distances, num_pairs)
    rules = world_rules(protocol, env)
    options = json.loads(json.dumps(env_options | protocol_options(protocol, env, {})))  # as a file would hold them: lists, not tuples
    with closing(make_batch(env, 1, **options)) as envs:
        _check_store(store, env, envs)
        chosen = [
            (distance, row)
            for distance in distances
            for row in (
                _official_rows(store, distance, num_pairs, seed)
                if protocol == OFFICIAL
                else _clear_rows(store, envs, rules.stratum, distance, num_pairs, seed, protocol)
            )
        ]
        action_repeat = envs.action_spec.action_repeat
    pairs = _with_states(store, env, options, _numbered(store, chosen, rules.stratum), is_presolving_allowed=protocol == OFFICIAL)
    return Manifest(
        env=env,
        env_version=ENVS.load(env).VERSION,
        env_options=options,
        protocol=protocol,
        protocol_version=PROTOCOLS[protocol],
        data_policy=str(store.meta.policy.get("name", "")),
        episode_env_steps=int(store.index["length"].max()),
        seed_namespace=SEED_NAMESPACE,
        seed=seed,
        distances=tuple(distances),
        strata=(rules.stratum,),
        num_pairs=num_pairs,
        pairs=pairs,
        action_repeat=action_repeat,
        dataset=_describe(store),
    )


def replayed_states(store: EpisodeStore, wanted: dict[int, set[int]]) -> dict[Row, bytes]:
    """The states at some env steps of some episodes (id -> env steps), by playing the recorded actions again from each seed's reset.

    ``DataError`` where the labels on the way are not the recorded ones: another simulator, or an episode that its seed did not begin.
    """
    states: dict[Row, bytes] = {}
    ids = sorted(wanted)
    for first in range(0, len(ids), MAX_EPISODES_PER_STATE_BATCH):
        states |= _replay(store, {number: wanted[number] for number in ids[first : first + MAX_EPISODES_PER_STATE_BATCH]})
    return states


def _replay(store: EpisodeStore, wanted: dict[int, set[int]]) -> dict[Row, bytes]:
    states: dict[Row, bytes] = {}
    ids, lasts = list(wanted), [max(steps) for steps in wanted.values()]
    actions = [_column(store, "actions", number) for number in ids]
    labels = [_column(store, "labels", number) for number in ids]
    with closing(make_batch(store.env["name"], len(ids), **store.env["options"])) as envs:
        envs.reset([int(store.index["seed"][number]) for number in ids])
        for step in range(max(lasts) + 1):
            _check_labels(store, envs.labels(), [(number, step) for number in ids], labels, lasts)
            rows = [row for row, number in enumerate(ids) if step in wanted[number]]
            if rows:
                found = envs.get_states()
                states |= {(ids[row], step): found[row] for row in rows}
            if step < max(lasts):
                chosen = no_op_actions(envs.action_spec, len(ids))
                for row, last in enumerate(lasts):
                    if step < last:  # afterwards nobody looks at the episode any more
                        chosen[row] = actions[row][step]
                envs.step(chosen)
    return states


def _check_labels(store: EpisodeStore, found: np.ndarray, places: Sequence[Row], recorded: Sequence[np.ndarray], lasts: Sequence[int]) -> None:
    for row, (number, step) in enumerate(places):
        if step <= lasts[row] and not np.allclose(found[row], recorded[row][step], rtol=LABEL_TOLERANCE, atol=LABEL_TOLERANCE, equal_nan=True):
            column = int(np.nanargmax(np.abs(found[row] - recorded[row][step])))
            raise DataError(
                f"episode {number} of dataset {str(store.path)!r}, played again from its seed, has {store.label_names[column]} = "
                f"{found[row][column]:g} at env step {step}, not {recorded[row][step][column]:g} as recorded: the simulator is another one, or the "
                "data were not collected by lewm; collect them anew with `lewm collect`"
            )


def _check_request(protocol: str, distances: Sequence[int], num_pairs: int) -> None:
    if protocol not in PROTOCOLS or protocol == HELDOUT:
        raise ConfigError(f"unknown protocol {protocol!r}.{did_you_mean(protocol, set(PROTOCOLS) - {HELDOUT})}")
    if not distances or len(set(distances)) != len(distances) or min(distances) < 1:
        raise ConfigError(f"distances must be one or more different numbers of env steps, at least 1 each, got {list(distances)}")
    if num_pairs < 1:
        raise ConfigError(f"an evaluation needs at least 1 pair per distance, got {num_pairs}")


def _check_store(store: EpisodeStore, env: str, envs: GoalEnvBatch) -> None:
    """Refuse a dataset that cannot be played again, or whose episodes are not of the world of the evaluation."""
    recorded = store.env.get("name")
    where = f"dataset {str(store.path)!r}"
    if not recorded or store.action_spec.kind == "none" or not store.label_names:
        raise DataError(f"{where} has no simulator, actions and labels, so that its states cannot be had; use one that `lewm collect` made")
    env_class: type[GoalEnv] = ENVS.load(recorded)
    if store.env.get("version") != env_class.VERSION:
        raise DataError(f"{where} is of version {store.env.get('version')} of {recorded!r}, this is version {env_class.VERSION}: collect it anew")
    if canonical_name(recorded) != canonical_name(env):
        raise DataError(f"{where} is of env {recorded!r}, the evaluation is in {env!r}; give data of the same world")
    if store.action_spec != envs.action_spec:
        raise DataError(f"{where} has {store.action_spec}, env {env!r} has {envs.action_spec} with these options; give data with the same actions")


def _official_rows(store: EpisodeStore, distance: int, num_pairs: int, seed: int) -> list[Row]:
    """As in the official code: a draw without replacement among all rows that have a goal, then sorted."""
    num_starts = np.maximum(store.index["length"] - distance + 1, 0)
    ends = np.cumsum(num_starts)
    if ends[-1] < num_pairs:
        raise _too_few(store, distance, int(ends[-1]), num_pairs)
    drawn = np.sort(np.random.default_rng(seed).choice(int(ends[-1]), size=num_pairs, replace=False))
    episodes = np.searchsorted(ends, drawn, side="right")
    return [(int(episode), int(row - ends[episode] + num_starts[episode])) for episode, row in zip(episodes, drawn, strict=True)]


def _clear_rows(store: EpisodeStore, envs: GoalEnvBatch, stratum: str, distance: int, num_pairs: int, seed: int, protocol: str) -> list[Row]:
    """One usable row of each episode, in an order that the seed decides."""
    generator = np.random.default_rng(seed)
    strata: tuple[str, ...] = ENVS.load(store.env["name"]).STRATA
    rows: list[Row] = []
    for number in generator.permutation(len(store)).tolist():
        if len(rows) == num_pairs:
            break
        share = generator.random()  # drawn whether or not the episode has a usable pair, so that no episode changes the pair of another
        labels = _column(store, "labels", number)
        if len(labels) <= distance:
            continue
        kinds = np.asarray(envs.strata(labels[:-distance], labels[distance:]))
        usable = np.flatnonzero(kinds >= 0 if stratum == ALL else kinds == strata.index(stratum))
        if len(usable):
            rows.append((number, int(usable[int(share * len(usable))])))
    if len(rows) < num_pairs:
        raise _too_few(store, distance, len(rows), num_pairs, f" of protocol {protocol!r}, one per episode")
    return rows


def _too_few(store: EpisodeStore, distance: int, found: int, wanted: int, kind: str = "") -> LewmError:
    return LewmError(
        f"dataset {str(store.path)!r} gives {found} pairs at D = {distance}{kind}, {wanted} were asked for; ask for fewer, a shorter distance, "
        "or collect more or longer episodes"
    )


def _numbered(store: EpisodeStore, chosen: Sequence[tuple[int, Row]], stratum: str) -> list[Pair]:
    """Pairs without their states."""
    counts: dict[int, int] = {}
    pairs = []
    for distance, (number, step) in chosen:
        counts[distance] = counts.get(distance, 0) + 1
        pairs.append(
            Pair(
                id=f"{distance}/{stratum}/{counts[distance] - 1}",
                distance_env_steps=distance,
                stratum=stratum,
                episode_index=number,
                episode_seed=int(store.index["seed"][number]),
                start_env_step=step,
                start_state=b"",
                goal_state=b"",
            )
        )
    return pairs


def _with_states(store: EpisodeStore, env: str, options: dict[str, Any], pairs: Sequence[Pair], *, is_presolving_allowed: bool) -> tuple[Pair, ...]:
    wanted: dict[int, set[int]] = {}
    for pair in pairs:
        wanted.setdefault(pair.episode_index, set()).update({pair.start_env_step, pair.start_env_step + pair.distance_env_steps})
    states = replayed_states(store, wanted)
    found = [
        replace(
            pair,
            start_state=states[pair.episode_index, pair.start_env_step],
            goal_state=states[pair.episode_index, pair.start_env_step + pair.distance_env_steps],
        )
        for pair in pairs
    ]
    return tuple(with_presolved(env, options, found)) if is_presolving_allowed else tuple(found)


def with_presolved(env: str, options: dict[str, Any], pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, each knowing whether its start satisfies the predicate already."""
    with closing(start_batch(env, options, [pair.start_state for pair in pairs], [pair.goal_state for pair in pairs])) as envs:
        return [replace(pair, is_solved_at_start=bool(solved)) for pair, solved in zip(pairs, envs.is_solved(), strict=True)]


def _describe(store: EpisodeStore) -> dict[str, Any]:
    """Which dataset the pairs are from, and all that its episodes follow from if a scripted policy made them."""
    policy = dict(store.meta.policy)
    is_scripted = policy.get("name") not in (None, RUN_POLICY)
    described = {
        "sha256": store.dataset_sha256,
        "num_episodes": len(store),
        "env_options": store.env["options"],
        "policy_options": policy.get("options", {}) if is_scripted else {},
        "max_env_steps": store.meta.collection.get("max_env_steps"),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _column(store: EpisodeStore, name: str, number: int) -> np.ndarray:
    """A column's rows of one episode: labels [N+1, s], actions [N, a]."""
    row = store.index[number]
    first, num_rows = int(row["offset"]), int(row["length"]) + (name == "labels")
    return store.columns(name, [int(row["shard"])])[0][first : first + num_rows]
