"""Start/goal pairs with what the scripted policies do on them: made once where several policies are tried on the same pairs, and kept in a file.

Neither depends on the policy that is evaluated, so a result is the same as if they had been made for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lewm.envs.base import GoalEnv
from lewm.errors import ConfigError, DataError
from lewm.evaluation.dataset_pairs import make_pairs
from lewm.evaluation.protocol import PROTOCOLS, Manifest
from lewm.evaluation.results import References, run_references
from lewm.registry import ENVS
from lewm.run_directory import write_json
from lewm.versions import other_simulators, versions

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PreparedPairs:
    """A manifest, and first hits of floors and ceiling on its pairs."""

    manifest: Manifest
    references: References

    def check(self, **asked: Any) -> None:
        """``ConfigError`` unless these settings of the manifest, by the names of its fields, are those asked for."""
        for name, value in asked.items():
            found = _plain(getattr(self.manifest, name))
            if found != _plain(value):
                raise ConfigError(f"the prepared pairs have {name} {found!r}, not {_plain(value)!r}; prepare pairs for this evaluation")

    def first(self, num_pairs: int) -> "PreparedPairs":
        """The first pairs of each distance and stratum: those that asking for so many gives. ``ConfigError`` for more than there are."""
        if not 1 <= num_pairs <= self.manifest.num_pairs:
            raise ConfigError(f"the first {num_pairs} of {self.manifest.num_pairs} prepared pairs: ask for 1 to {self.manifest.num_pairs}")
        counts: dict[tuple[int, str], int] = {}
        kept = []
        for pair in self.manifest.pairs:
            place = counts[pair.distance_env_steps, pair.stratum] = counts.get((pair.distance_env_steps, pair.stratum), 0) + 1
            kept += [pair] if place <= num_pairs else []
        ids = {pair.id for pair in kept}
        floors, ceiling = self.references.floors, self.references.ceiling
        return PreparedPairs(
            manifest=replace(self.manifest, num_pairs=num_pairs, pairs=tuple(kept)),
            references=References(
                floors={name: {pair: hit for pair, hit in hits.items() if pair in ids} for name, hits in floors.items()},
                ceiling=None if ceiling is None else {pair: hit for pair, hit in ceiling.items() if pair in ids},
            ),
        )

    def save(self, path: Path) -> None:
        """Write everything to a JSON file with the manifest's hash and the versions of what simulated it."""
        references = {"floors": self.references.floors, "ceiling": self.references.ceiling}
        values = {"format": FORMAT, "manifest_sha256": self.manifest.sha256, "versions": versions()}
        write_json(path, values | {"references": references, "manifest": self.manifest.to_dict()})

    @classmethod
    def load(cls, path: Path) -> "PreparedPairs":
        """Read what ``save`` wrote; ``DataError`` if the file is damaged, or if pairs made now could be others."""
        try:
            values = json.loads(path.read_text())
            manifest = Manifest.from_dict(values["manifest"])
            recorded, references = values["manifest_sha256"], values["references"]
            found = References(floors=references["floors"], ceiling=references["ceiling"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"prepared pairs {str(path)!r} cannot be read: {error}") from None
        if values.get("format") != FORMAT or manifest.sha256 != recorded:
            raise DataError(f"prepared pairs {str(path)!r} are damaged: the manifest's hash is {manifest.sha256[:12]}, the file says {recorded[:12]}")
        _check_age(manifest, values.get("versions", {}), path)
        return cls(manifest=manifest, references=found)


def prepare_pairs(
    env: str, env_options: dict[str, Any], *, distances: Sequence[int], num_pairs: int, seed: int = 0, **settings: Any
) -> PreparedPairs:
    """Pairs of protocol ``heldout`` with the scripted policies tried on them; ``settings`` are others of ``make_pairs``."""
    manifest = make_pairs(env, env_options, distances=distances, num_pairs=num_pairs, seed=seed, **settings)
    return PreparedPairs(manifest=manifest, references=run_references(manifest))


def _check_age(manifest: Manifest, recorded: Mapping[str, Any], path: Path) -> None:
    env_class: type[GoalEnv] = ENVS.load(manifest.env)
    if (manifest.env_version, manifest.protocol_version) != (env_class.VERSION, PROTOCOLS[manifest.protocol]):
        raise DataError(f"prepared pairs {str(path)!r} are of another version of env {manifest.env!r} or of the protocol")
    others = other_simulators(manifest.env, recorded)
    if others:
        raise DataError(f"prepared pairs {str(path)!r} were simulated with other versions: {others}")


def _plain(value: Any) -> Any:
    """As a file would hold it: lists, not tuples."""
    return json.loads(json.dumps(value))
