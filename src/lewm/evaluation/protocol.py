"""Which start/goal pairs an evaluation uses: frozen in a manifest that anybody can make again from its seed.

Axes: N env step, E episode, s label.

Protocol ``heldout``: episodes that no training set contains (their seeds live in a namespace of their own), 300 env steps long, recorded with the
world's data policy; one pair per episode and distance D, start at env step t and goal at t + D, never solved at the start. Which pair an episode
gives depends on (seed, episode index, D) alone, so asking for fewer pairs gives a prefix of the same list.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lewm.envs.base import GoalEnv, make_batch
from lewm.errors import ConfigError, DataError, LewmError
from lewm.evaluation.outcomes import scripted_policy
from lewm.registry import ENVS, did_you_mean
from lewm.run_directory import write_json
from lewm.seeds import episode_seed

FORMAT = 1
PROTOCOLS = {"heldout": 1}
"""Versions of the protocols: raised whenever the same seed would give other pairs."""
SEED_NAMESPACE = "evaluation"
EPISODE_ENV_STEPS = 300
MAX_EPISODES_PER_BATCH = 256
MIN_EPISODES = 100
MAX_EPISODES_PER_PAIR = 40


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A start and a goal from the same recorded episode."""

    id: str
    """``<distance>/<stratum>/<number>``: unique within a manifest."""
    distance_env_steps: int
    """D: env steps between the two in the recorded episode."""
    stratum: str
    episode_index: int
    episode_seed: int
    start_env_step: int
    start_state: bytes
    goal_state: bytes

    @property
    def budget_env_steps(self) -> int:
        """How long a policy may take: twice as long as the recorded episode did."""
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

    def at(self, distance: int) -> list[Pair]:
        """The pairs of one distance."""
        return [pair for pair in self.pairs if pair.distance_env_steps == distance]

    def policy_seed(self, pair: Pair) -> int:
        """The seed of whichever policy tries this pair."""
        return episode_seed(f"{self.seed_namespace} policy {pair.distance_env_steps}", self.seed, pair.episode_index)

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON."""
        return canonical_sha256(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready; states as base64."""
        values = asdict(self) | {"format": FORMAT, "distances": list(self.distances), "strata": list(self.strata)}
        values["pairs"] = [pair | {name: base64.b64encode(pair[name]).decode() for name in ("start_state", "goal_state")} for pair in values["pairs"]]
        return values

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
    env: str, env_options: dict[str, Any], *, distances: Sequence[int], num_pairs: int, seed: int, protocol: str = "heldout"
) -> Manifest:
    """The pairs of a protocol: ``num_pairs`` per distance and stratum.

    ``ConfigError`` for an unknown protocol or an impossible distance, ``LewmError`` if the world does not give enough pairs.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {protocol!r}.{did_you_mean(protocol, PROTOCOLS)}")
    _check_request(distances, num_pairs)
    env_class: type[GoalEnv] = ENVS.load(env)
    empty = Manifest(
        env=env,
        env_version=env_class.VERSION,
        env_options=json.loads(json.dumps(env_options)),  # as a file would hold them: lists, not tuples
        protocol=protocol,
        protocol_version=PROTOCOLS[protocol],
        data_policy="expert" if "expert" in env_class.POLICIES else "random",
        episode_env_steps=EPISODE_ENV_STEPS,
        seed_namespace=SEED_NAMESPACE,
        seed=seed,
        distances=tuple(distances),
        strata=tuple(env_class.STRATA) or ("all",),
        num_pairs=num_pairs,
        pairs=(),
    )
    return replace(empty, pairs=_fill(empty))


def check_disjoint(manifest: Manifest, training_episode_seeds: np.ndarray) -> None:
    """``DataError`` if an episode of the manifest may have been trained on."""
    shared = np.intersect1d(np.array([pair.episode_seed for pair in manifest.pairs], dtype=np.int64), np.asarray(training_episode_seeds))
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


def _fill(manifest: Manifest) -> tuple[Pair, ...]:
    """Record episodes until each distance and stratum has its pairs."""
    found: dict[tuple[int, str], list[Pair]] = {(distance, stratum): [] for distance in manifest.distances for stratum in manifest.strata}
    num_wanted = manifest.num_pairs * len(manifest.strata)
    max_episodes = MIN_EPISODES + MAX_EPISODES_PER_PAIR * num_wanted
    size = min(MAX_EPISODES_PER_BATCH, max(32, num_wanted))  # speed only: an episode does not depend on its batch
    for first in range(0, max_episodes, size):
        for pair in _pairs_of_episodes(manifest, range(first, min(first + size, max_episodes))):
            wanted = found[pair.distance_env_steps, pair.stratum]
            if len(wanted) < manifest.num_pairs:
                wanted.append(replace(pair, id=f"{pair.distance_env_steps}/{pair.stratum}/{len(wanted)}"))
        if all(len(pairs) == manifest.num_pairs for pairs in found.values()):
            return tuple(pair for pairs in found.values() for pair in pairs)
    counts = ", ".join(f"{len(pairs)} {stratum} at D = {distance}" for (distance, stratum), pairs in found.items())
    raise LewmError(
        f"{max_episodes} episodes of {manifest.env!r} gave {counts} of {manifest.num_pairs} pairs each; ask for fewer pairs or another distance"
    )


def _pairs_of_episodes(manifest: Manifest, indices: range) -> list[Pair]:
    """At most one pair per episode and distance, in the order of the episodes."""
    seeds = [episode_seed(manifest.seed_namespace, manifest.seed, index) for index in indices]
    envs = make_batch(manifest.env, len(seeds), **manifest.env_options)
    policy = scripted_policy(manifest.env, manifest.data_policy)
    envs.reset(seeds)
    policy.reset(envs, seeds, manifest.episode_env_steps)
    labels, states = [envs.labels()], [envs.get_states()]
    for _ in range(manifest.episode_env_steps):
        envs.step(policy.act(envs))
        labels.append(envs.labels())
        states.append(envs.get_states())
    recorded = np.stack(labels)  # N+1 E s
    pairs = []
    for distance in manifest.distances:
        strata = _strata(envs, recorded, distance)
        for row, index in enumerate(indices):
            choice = _choose(strata[:, row], manifest, distance, index)
            if choice is not None:
                start, stratum = choice
                pairs.append(
                    Pair(
                        id="",
                        distance_env_steps=distance,
                        stratum=manifest.strata[stratum],
                        episode_index=index,
                        episode_seed=seeds[row],
                        start_env_step=start,
                        start_state=states[start][row],
                        goal_state=states[start + distance][row],
                    )
                )
    return pairs


def _strata(envs: Any, labels: np.ndarray, distance: int) -> np.ndarray:
    """int64 [N+1-D, E]: the stratum of the pair that starts at each env step, -1 where it must not be used."""
    starts, goals = labels[:-distance], labels[distance:]
    flat = envs.strata(starts.reshape(-1, labels.shape[-1]), goals.reshape(-1, labels.shape[-1]))
    return np.asarray(flat).reshape(starts.shape[:2])


def _choose(strata: np.ndarray, manifest: Manifest, distance: int, index: int) -> tuple[int, int] | None:
    """Start and stratum of an episode's pair: the strata take turns over the episodes, the start is uniform among those of the stratum."""
    for turn in range(len(manifest.strata)):
        stratum = (index + turn) % len(manifest.strata)
        starts = np.flatnonzero(strata == stratum)
        if len(starts):
            return int(starts[episode_seed(f"{manifest.seed_namespace} start {distance}", manifest.seed, index) % len(starts)]), stratum
    return None
