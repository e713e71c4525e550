"""One number from several training seeds: results of ``lewm eval success`` on the same pairs, put together.

Imports no torch.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm.errors import ConfigError, DataError
from lewm.evaluation.intervals import Estimate, hierarchical_bootstrap, not_narrower, wilson
from lewm.evaluation.results import settings_words, unusual_settings

REFERENCES = ("random", "no_op", "block_random", "expert")


def combine_results(files: Sequence[Path | str]) -> dict[str, Any]:
    """The success of one recipe over its training seeds, JSON-ready: one result file per seed, all on the same pairs.

    ``DataError`` for a file that is no result, ``ConfigError`` for results on different pairs (both hashes are named) or of one checkpoint twice.
    """
    results = [read_success(Path(file)) for file in files]
    if len(results) < 2:
        raise ConfigError(f"a comparison needs at least two results, got {len(results)}; make them with `lewm eval success RUN --json FILE`")
    hashes = [result["protocol"]["manifest_sha256"] for result in results]
    for file, found in zip(files, hashes, strict=True):
        if found != hashes[0]:
            raise ConfigError(f"{str(files[0])!r} and {str(file)!r} are on different pairs (manifests {hashes[0][:12]} and {found[:12]})")
    checkpoints = [result["checkpoint_sha256"] for result in results]
    if len(set(checkpoints)) < len(checkpoints):
        raise ConfigError("two of the results are of the same checkpoint; give one result per training seed")
    first = results[0]
    unusual = unusual_settings(first["manifest"])
    return {
        "evaluation": "success over training seeds",
        "format": 1,
        "env": first["env"],
        "protocol": first["protocol"],
        "checkpoints": checkpoints,
        **({"pair_settings": unusual} if unusual else {}),
        "by_distance": {distance: _distance(results, distance) for distance in first["by_distance"]},
    }


def combined_table(combined: dict[str, Any]) -> str:
    """The combination as plain text."""
    num_seeds, protocol = len(combined["checkpoints"]), combined["protocol"]["name"] + settings_words(combined.get("pair_settings", {}))
    lines = [f"{num_seeds} training seeds on the same pairs of {combined['env']}, protocol {protocol}"]
    for distance, strata in combined["by_distance"].items():
        for stratum, fields in strata.items():
            success = fields["success"]
            seeds = ", ".join(f"{rate:.3f}" for rate in fields["rate_per_seed"])
            floors = ", ".join(f"{name} {fields[name]['rate']:.2f}" for name in REFERENCES if fields[name])
            interval = f"{success['rate']:.3f} [{success['low']:.3f}, {success['high']:.3f}]"
            lines.append(f"D = {distance:<4}{stratum:<11} {interval}  n = {fields['n_per_seed']} per seed ({seeds})  {floors}")
    return "\n".join(lines)


def _distance(results: Sequence[dict[str, Any]], distance: str) -> dict[str, Any]:
    strata: dict[str, Any] = {}
    for stratum, fields in results[0]["by_distance"][distance]["strata"].items():
        outcomes = [outcomes_of(result, int(distance), stratum) for result in results]
        strata[stratum] = {
            "success": rate_over_seeds(outcomes),
            "rate_per_seed": [float(each.mean()) for each in outcomes],
            "n_per_seed": len(outcomes[0]),
            **{name: fields[name] for name in REFERENCES},
        }
    return strata


def rate_over_seeds(outcomes: Sequence[np.ndarray]) -> Estimate:
    """The hierarchical bootstrap, never narrower than Wilson's interval over the pairs."""
    hierarchical, num_pairs = hierarchical_bootstrap(outcomes), len(outcomes[0])
    return not_narrower(hierarchical, wilson(round(hierarchical["rate"] * num_pairs), num_pairs))


def rate_of(outcomes: Sequence[np.ndarray]) -> Estimate:
    """Wilson's interval for one training seed, that over seeds for several."""
    return wilson(int(outcomes[0].sum()), len(outcomes[0])) if len(outcomes) == 1 else rate_over_seeds(outcomes)


def outcomes_of(result: dict[str, Any], distance: int, stratum: str) -> np.ndarray:
    """Which pairs of a distance and stratum were solved, bool [n], in the order of the manifest."""
    return np.array([episode["solved"] for episode in result["episodes"] if episode["distance"] == distance and episode["stratum"] == stratum])


def read_success(file: Path) -> dict[str, Any]:
    """A result of ``lewm eval success``; ``DataError`` for anything else."""
    try:
        result = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{str(file)!r} cannot be read as a result: {error}") from None
    if not isinstance(result, dict) or result.get("evaluation") != "success" or result.get("format") != 1:
        raise DataError(f"{str(file)!r} is no result of `lewm eval success` in format 1")
    return result
