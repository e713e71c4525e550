"""Which start/goal pairs an evaluation uses: frozen in a manifest that anybody can make again from its seed.

Axes: N env step, E episode, s label.

Protocol ``heldout``: episodes that no training set contains (their seeds live in a namespace of their own), up to 300 env steps long, recorded with
the world's data policy; one pair per episode and distance D, start at env step t and goal at t + D, within the episode and never solved at the start.
Stitched pairs take the goal from another episode instead, and D is how many env steps the shortest way takes at most. The other protocols take their
pairs from a dataset: ``dataset_pairs.py``.
Which pair an episode gives depends on (seed, episode index, D) and the strata asked for, so asking for fewer pairs gives a prefix of the same list.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.policies import RUN_POLICY
from lewm.envs.base import GoalEnv, make_batch
from lewm.errors import ConfigError, DataError, LewmError
from lewm.evaluation.sources import EpisodeSource, states_at, strata_of_pairs
from lewm.evaluation.stitching import check_ways, stitches
from lewm.registry import ENVS, POLICIES, did_you_mean
from lewm.run_directory import write_json
from lewm.seeds import episode_seed

FORMAT = 1
HELDOUT = "heldout"
PROTOCOLS = {HELDOUT: 1, "official": 1, "clear-moderate": 1, "clear-strict": 1}
"""Versions of the protocols: raised whenever the same seed would give other pairs."""
SEED_NAMESPACE = "evaluation"
EPISODE_ENV_STEPS = 300
MAX_EPISODES_PER_BATCH = 256
MIN_EPISODES = 100
MAX_EPISODES_PER_PAIR = 40
MAX_EPISODES_WITHOUT_PAIR = 1024
"""After that many without a single pair of some kind, the others are not waited for."""
DEFAULTS = {"is_rest_start": False, "is_stitched": False, "action_repeat": 1, "dataset": None}
"""Fields that a manifest's file leaves out at these values: the hashes of manifests are older than the fields."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A start and a goal from the same recorded episode or, stitched, from two."""

    id: str
    """``<distance>/<stratum>/<number>``: unique within a manifest."""
    distance_env_steps: int
    """D: env steps between the two in the recorded episode; stitched: the most that the shortest way takes."""
    stratum: str
    episode_index: int
    episode_seed: int
    start_env_step: int
    start_state: bytes
    goal_state: bytes
    goal_episode_seed: int | None = None
    """Stitched: the seed of the goal's episode. A manifest's file leaves this and what follows out where they are None."""
    goal_env_step: int | None = None
    shortest_env_steps: float | None = None
    """Stitched: env steps of the shortest way at full speed."""
    is_solved_at_start: bool | None = None
    """Whether nothing needs to be done, in protocols that allow it."""

    @property
    def ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(seed of the episode, env step) of the start and of the goal."""
        goal_seed = self.episode_seed if self.goal_episode_seed is None else self.goal_episode_seed
        goal_step = self.start_env_step + self.distance_env_steps if self.goal_env_step is None else self.goal_env_step
        return (self.episode_seed, self.start_env_step), (goal_seed, goal_step)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready; states as base64."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return values | {name: base64.b64encode(values[name]).decode() for name in ("start_state", "goal_state")}

    @property
    def budget_env_steps(self) -> int:
        """How long a policy may take: twice as long as the recorded episode did, or as the shortest way takes at most."""
        return 2 * self.distance_env_steps


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that determines the pairs of an evaluation, and the pairs."""

    env: str
    env_version: int
    env_options: dict[str, Any]
    protocol: str
    protocol_version: int
    data_policy: str
    episode_env_steps: int
    seed_namespace: str
    """Where the episode seeds come from; training sets use another namespace."""
    seed: int
    distances: tuple[int, ...]
    strata: tuple[str, ...]
    """Kinds of pair, the headline first."""
    num_pairs: int
    """Per distance and stratum."""
    pairs: tuple[Pair, ...]
    is_rest_start: bool = False
    """Whether every start and goal has its velocities set to zero."""
    is_stitched: bool = False
    """Whether start and goal of every pair come from different episodes."""
    action_repeat: int = 1
    """Control steps of the simulator per env step."""
    dataset: dict[str, Any] | None = None
    """What the pairs are rows of, where they are not of episodes of their own: hash, and all that its episodes follow from."""

    @property
    def source(self) -> EpisodeSource:
        """Where the episodes come from."""
        return EpisodeSource(env=self.env, env_options=self.env_options, data_policy=self.data_policy, max_env_steps=self.episode_env_steps)

    def at(self, distance: int) -> list[Pair]:
        """The pairs of one distance."""
        return [pair for pair in self.pairs if pair.distance_env_steps == distance]

    def policy_seed(self, pair: Pair) -> int:
        """The seed of whichever policy tries this pair."""
        place = "" if self.dataset is None else f" {pair.start_env_step}"  # of a dataset's episode there may be several pairs
        return episode_seed(f"{self.seed_namespace} policy {pair.distance_env_steps}{place}", self.seed, pair.episode_index)

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON."""
        return canonical_sha256(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready; states as base64."""
        values = asdict(self) | {"format": FORMAT, "distances": list(self.distances), "strata": list(self.strata)}
        values = {name: value for name, value in values.items() if name not in DEFAULTS or value != DEFAULTS[name]}
        return values | {"pairs": [pair.to_dict() for pair in self.pairs]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Manifest":
        """The inverse of ``to_dict``; ``DataError`` for another format or a damaged one."""
        if values.get("format") != FORMAT:
            raise DataError(f"this manifest has format {values.get('format')!r}; this version of lewm reads format {FORMAT}")
        try:
            pairs = tuple(
                Pair(**(pair | {name: base64.b64decode(pair[name], validate=True) for name in ("start_state", "goal_state")}))
                for pair in values["pairs"]
            )
            rest = {name: value for name, value in values.items() if name not in {"format", "pairs", "distances", "strata"}}
            return cls(**rest, distances=tuple(values["distances"]), strata=tuple(values["strata"]), pairs=pairs)
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(f"this manifest is damaged: {error}") from error

    def save(self, path: Path | str) -> None:
        """Write the manifest as JSON, beside its final name first."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: Path | str) -> "Manifest":
        """Read a manifest that ``save`` wrote."""
        try:
            values = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise DataError(f"there is no manifest {str(path)!r}") from None
        except ValueError as error:
            raise DataError(f"manifest {str(path)!r} is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise DataError(f"manifest {str(path)!r} must hold a JSON object")
        return cls.from_dict(values)


def canonical_sha256(value: Any) -> str:
    """SHA-256 of a JSON value, however its file is laid out: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def make_manifest(
    env: str,
    env_options: dict[str, Any],
    *,
    distances: Sequence[int],
    num_pairs: int,
    seed: int,
    protocol: str = HELDOUT,
    data_policy: str | None = None,
    is_rest_start: bool = False,
    is_stitched: bool = False,
    strata: Sequence[str] | None = None,
) -> Manifest:
    """The pairs of a protocol: ``num_pairs`` per distance and stratum.

    ``data_policy`` records the episodes (default: the world's own), ``is_rest_start`` sets the velocities of starts and goals to zero,
    ``is_stitched`` takes the two from different episodes, ``strata`` are the kinds of pair that are wanted, the headline first (default: all).
    ``ConfigError`` for an unknown protocol, policy or stratum, an impossible distance or a world that cannot be stitched, ``EnvError`` for a rest
    start in a world that knows none, ``LewmError`` if the world does not give enough pairs.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {protocol!r}.{did_you_mean(protocol, PROTOCOLS)}")
    if protocol != HELDOUT:
        raise ConfigError(f"protocol {protocol!r} takes its pairs from a dataset: lewm.evaluation.dataset_pairs.make_dataset_manifest makes them")
    _check_request(distances, num_pairs)
    env_class: type[GoalEnv] = ENVS.load(env)
    empty = Manifest(
        env=env,
        env_version=env_class.VERSION,
        env_options=json.loads(json.dumps(env_options)),  # as a file would hold them: lists, not tuples
        protocol=protocol,
        protocol_version=PROTOCOLS[protocol],
        data_policy=_check_data_policy(env, data_policy),
        episode_env_steps=EPISODE_ENV_STEPS,
        seed_namespace=SEED_NAMESPACE,
        seed=seed,
        distances=tuple(distances),
        strata=_check_strata(env, strata),
        num_pairs=num_pairs,
        pairs=(),
        is_rest_start=is_rest_start,
        is_stitched=is_stitched,
        action_repeat=_look_at_world(env, env_options, is_rest_start, is_stitched),
    )
    return replace(empty, pairs=_with_states(empty, _choose_pairs(empty)))


def check_disjoint(manifest: Manifest, training_episode_seeds: np.ndarray) -> None:
    """``DataError`` if an episode of the manifest may have been trained on."""
    seeds = [seed for pair in manifest.pairs for seed, _ in pair.ends]
    shared = np.intersect1d(np.array(seeds, dtype=np.int64), np.asarray(training_episode_seeds))
    if len(shared):
        raise DataError(
            f"{len(shared)} evaluation episodes have the seed of a training episode (such as {shared[0]}): success on them would not be held out; "
            "collect the training data with `lewm collect`, which keeps out of the namespace 'evaluation'"
        )


def _check_request(distances: Sequence[int], num_pairs: int) -> None:
    if not distances or len(set(distances)) != len(distances):
        raise ConfigError(f"distances must be one or more different numbers of env steps, got {list(distances)}")
    if any(not 1 <= distance < EPISODE_ENV_STEPS for distance in distances):
        raise ConfigError(f"distances must be in [1, {EPISODE_ENV_STEPS - 1}] env steps, got {list(distances)}")
    if num_pairs < 1:
        raise ConfigError(f"an evaluation needs at least 1 pair per distance and stratum, got {num_pairs}")


def _check_data_policy(env: str, data_policy: str | None) -> str:
    """A scripted policy by name; a trained run is refused, because a result must be verifiable without it."""
    env_class: type[GoalEnv] = ENVS.load(env)
    name = env_class.DATA_POLICY if data_policy is None else data_policy
    known = {*POLICIES, *env_class.POLICIES} - {RUN_POLICY}
    if name not in known:
        raise ConfigError(f"unknown data policy {name!r} for env {env!r}.{did_you_mean(name, known)}")
    return name


def _world_strata(env: str) -> tuple[str, ...]:
    env_class: type[GoalEnv] = ENVS.load(env)
    return tuple(env_class.STRATA) or ("all",)


def _check_strata(env: str, strata: Sequence[str] | None) -> tuple[str, ...]:
    known = _world_strata(env)
    if strata is None:
        return known
    for stratum in strata:
        if stratum not in known:
            raise ConfigError(f"unknown stratum {stratum!r} of env {env!r}.{did_you_mean(stratum, known)}")
    if not strata or len(set(strata)) != len(strata):
        raise ConfigError(f"strata must be one or more different ones of {', '.join(known)}, got {list(strata)}")
    return tuple(strata)


def _look_at_world(env: str, env_options: dict[str, Any], is_rest_start: bool, is_stitched: bool) -> int:
    """The world's action repeat; refuses a rest start or stitched pairs where there are none, before any episode is recorded."""
    with closing(make_batch(env, 1, **env_options)) as envs:
        if is_stitched:
            check_ways(env, envs)
        if is_rest_start:
            envs.reset([0])
            envs.at_rest(envs.get_states())
        return envs.action_spec.action_repeat


def _choose_pairs(manifest: Manifest) -> list[Pair]:
    """Record episodes until each distance and stratum has its pairs, as yet without their states."""
    found: dict[tuple[int, str], list[Pair]] = {(distance, stratum): [] for distance in manifest.distances for stratum in manifest.strata}
    num_wanted = manifest.num_pairs * len(manifest.strata)
    max_episodes = MIN_EPISODES + MAX_EPISODES_PER_PAIR * num_wanted
    size = min(MAX_EPISODES_PER_BATCH, max(32, num_wanted))  # speed only: an episode does not depend on its batch
    num_recorded = 0
    while num_recorded < max_episodes and (num_recorded < MAX_EPISODES_WITHOUT_PAIR or all(found.values())):
        until = max_episodes if num_recorded >= MAX_EPISODES_WITHOUT_PAIR else min(max_episodes, MAX_EPISODES_WITHOUT_PAIR)
        indices = range(num_recorded, min(num_recorded + size, until))  # whether to give up does not depend on the size either
        for pair in (_stitched_pairs if manifest.is_stitched else _pairs_of_episodes)(manifest, indices):
            wanted = found[pair.distance_env_steps, pair.stratum]
            if len(wanted) < manifest.num_pairs:
                wanted.append(replace(pair, id=f"{pair.distance_env_steps}/{pair.stratum}/{len(wanted)}"))
        num_recorded = indices.stop
        if all(len(pairs) == manifest.num_pairs for pairs in found.values()):
            return [pair for pairs in found.values() for pair in pairs]
    raise LewmError(_too_few(manifest, num_recorded, {key: len(pairs) for key, pairs in found.items()}))


def _too_few(manifest: Manifest, num_episodes: int, counts: dict[tuple[int, str], int]) -> str:
    listed = ", ".join(f"{count} {stratum} at D = {distance}" for (distance, stratum), count in counts.items())
    full = [name for name in manifest.strata if all(counts[distance, name] == manifest.num_pairs for distance in manifest.distances)]
    lacking = [name for name in manifest.strata if name not in full]
    advice = f"ask for fewer pairs or another distance, or leave out {', '.join(lacking)}: --strata {','.join(full)}" if full else ""
    return (
        f"{num_episodes} episodes of {manifest.env!r} gave {listed} of {manifest.num_pairs} pairs each; "
        f"{advice or 'ask for fewer pairs, another distance or another data policy'}"
    )


def _pairs_of_episodes(manifest: Manifest, indices: range) -> list[Pair]:
    """At most one pair per episode and distance, in the order of the episodes, without states."""
    seeds = [episode_seed(manifest.seed_namespace, manifest.seed, index) for index in indices]
    world_strata = _world_strata(manifest.env)
    numbers = [world_strata.index(stratum) for stratum in manifest.strata]
    pairs = []
    for distance, strata in strata_of_pairs(manifest.source, seeds, manifest.distances).items():
        for row, index in enumerate(indices):
            choice = _choose(strata[:, row], numbers, manifest, distance, index)
            if choice is not None:
                pairs.append(
                    Pair(
                        id="",
                        distance_env_steps=distance,
                        stratum=world_strata[choice[1]],
                        episode_index=index,
                        episode_seed=seeds[row],
                        start_env_step=choice[0],
                        start_state=b"",
                        goal_state=b"",
                    )
                )
    return pairs


def _stitched_pairs(manifest: Manifest, indices: range) -> list[Pair]:
    """At most one pair per two episodes and distance, in their order, without states; the strata take turns over the episodes."""
    space, seed = manifest.seed_namespace, manifest.seed
    ends = [(episode_seed(space, seed, index), episode_seed(f"{space} goal", seed, index)) for index in indices]
    draws = [episode_seed(f"{space} stitch", seed, index) for index in indices]
    world_strata, pairs = _world_strata(manifest.env), []
    numbers = [world_strata.index(stratum) for stratum in manifest.strata]
    for distance, rows in stitches(manifest.source, ends, manifest.distances, draws).items():
        for index, (start_seed, goal_seed), found in zip(indices, ends, rows, strict=True):
            turns = [numbers[(index + turn) % len(numbers)] for turn in range(len(numbers))]
            chosen = min((stitch for stitch in found if stitch.stratum in turns), key=lambda stitch: turns.index(stitch.stratum), default=None)
            if chosen is not None:
                pairs.append(
                    Pair(
                        id="",
                        distance_env_steps=distance,
                        stratum=world_strata[chosen.stratum],
                        episode_index=index,
                        episode_seed=start_seed,
                        start_env_step=chosen.start_env_step,
                        start_state=b"",
                        goal_state=b"",
                        goal_episode_seed=goal_seed,
                        goal_env_step=chosen.goal_env_step,
                        shortest_env_steps=chosen.shortest_env_steps,
                    )
                )
    return pairs


def _choose(strata: np.ndarray, numbers: Sequence[int], manifest: Manifest, distance: int, index: int) -> tuple[int, int] | None:
    """Start and stratum of an episode's pair: the strata take turns over the episodes, the start is uniform among those of the stratum."""
    for turn in range(len(numbers)):
        stratum = numbers[(index + turn) % len(numbers)]
        starts = np.flatnonzero(strata == stratum)
        if len(starts):
            return int(starts[episode_seed(f"{manifest.seed_namespace} start {distance}", manifest.seed, index) % len(starts)]), stratum
    return None


def _with_states(manifest: Manifest, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs with the states of their ends, from the same episodes once more."""
    wanted: dict[int, set[int]] = {}
    for seed, step in (end for pair in pairs for end in pair.ends):
        wanted.setdefault(seed, set()).add(step)
    states = states_at(manifest.source, wanted, is_at_rest=manifest.is_rest_start)
    return tuple(replace(pair, start_state=states[pair.ends[0]], goal_state=states[pair.ends[1]]) for pair in pairs)
