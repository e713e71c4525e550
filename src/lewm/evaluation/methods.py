"""Several methods on the same start/goal pairs: each with its rate, interval and floor, and how it differs from the first.

A method is one result of ``lewm eval success`` per training seed, and a run stands for the results that it holds. Imports no torch.

Axes: n episode.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm.errors import ConfigError, DataError
from lewm.evaluation.across_seeds import outcomes_of, rate_of, read_success
from lewm.evaluation.intervals import hierarchical_difference, paired_difference
from lewm.evaluation.results import settings_words, unusual_settings

FORMAT = 1
Results = dict[str, dict[str, Any]]
"""Of one training seed: by what was asked for (env, protocol, distances), so that like is compared with like."""


def parse_methods(words: Sequence[str]) -> dict[str, list[Path]] | None:
    """Methods by name from ``NAME=PATH,PATH``, runs and files; None for files alone, which are training seeds of one method.

    A run without a name has that of its directory. ``ConfigError`` for two methods of one name.
    """
    if not any("=" in word or Path(word).is_dir() for word in words):
        return None
    methods: dict[str, list[Path]] = {}
    for word in words:
        name, equals, paths = word.partition("=")
        if Path(word).exists():  # an existing path may have any character in its name
            name, equals, paths = "", "", word
        name = name if equals else Path(word).resolve().name.removesuffix(".json")
        if not name or (not paths and equals):
            raise ConfigError(f"a method is NAME=PATH,PATH,..., got {word!r}")
        if name in methods:
            raise ConfigError(f"two methods are called {name!r}; give them names of their own: one=PATH other=PATH")
        methods[name] = [Path(path) for path in (paths.split(",") if equals else [word])]
    return methods


def compare_methods(methods: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Rates, intervals, floors and paired differences to the first method, JSON-ready.

    With one training seed each, the difference has a bootstrap over pairs and an exact McNemar p; with more, a bootstrap over the seeds of both and
    over pairs. ``ConfigError`` for less than two methods, one checkpoint twice in a method, or results on different pairs (both hashes are named);
    ``DataError`` for a file that is no result or a run without any.
    """
    if len(methods) < 2:
        raise ConfigError(f"a comparison needs at least two methods, got {len(methods)}; give runs, or NAME=PATH,PATH,... for each")
    seeds = {name: [_results_of(path) for path in paths] for name, paths in methods.items()}
    sources = [(str(path), found) for name, paths in methods.items() for path, found in zip(paths, seeds[name], strict=True)]
    shared = _shared(sources)
    for name, found in seeds.items():
        _check_seeds(name, found, shared[0])
    return {
        "evaluation": "comparison of methods",
        "format": FORMAT,
        "methods": {
            name: {"sources": [str(path) for path in paths], "checkpoints": [found[shared[0]].get("checkpoint_sha256") for found in seeds[name]]}
            for name, paths in methods.items()
        },
        "comparisons": [_compare({name: [each[key] for each in found] for name, found in seeds.items()}) for key in shared],
        "left_out": sorted({key for _, found in sources for key in found} - set(shared)),
    }


def methods_table(compared: dict[str, Any]) -> str:
    """The comparison as plain text: a line per distance, stratum and method."""
    header = ("D", "stratum", "method", "n", "success [95 %]", "per seed", "strongest floor", "- first [95 %]", "McNemar p")
    lines = []
    for one in compared["comparisons"]:
        rows = [header]
        for distance, strata in one["by_distance"].items():
            for stratum, found in strata.items():
                rows += [(distance, stratum, name, *_method_cells(fields)) for name, fields in found["methods"].items()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        words = settings_words(one.get("pair_settings", {}))
        lines.append(f"{one['env']}, protocol {one['protocol']['name']}, manifest {one['protocol']['manifest_sha256'][:12]}{words}")
    lines += [f"not compared, for not every method has it: {key}" for key in compared["left_out"]]
    return "\n".join(lines)


def _method_cells(fields: dict[str, Any]) -> tuple[str, ...]:
    floor, difference = fields["strongest_floor"], fields.get("difference")
    p = None if difference is None else difference.get("mcnemar_p")
    seeds = fields["num_seeds"]
    return (
        str(fields["n"]) if seeds == 1 else f"{fields['n']} x {seeds}",
        _interval(fields["success"]),
        " ".join(f"{rate:.2f}" for rate in fields["rate_per_seed"]) if seeds > 1 else "",
        f"{floor['rate']:.2f} {floor['name']}",
        "" if difference is None else f"{difference['rate']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]",
        "" if p is None else f"{p:.2g}",
    )


def _results_of(path: Path) -> Results:
    """The results of one training seed: a file's, or all that a run holds."""
    files = sorted((path / "results").glob("success*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(
            f"run {str(path)!r} has no results/success*.json: `lewm eval success {path} --json {path / 'results' / 'success.json'}` makes one"
        )
    found: Results = {}
    for file in files:
        result = read_success(file)
        key = _key(result)
        if key in found:
            raise ConfigError(f"run {str(path)!r} holds two results of {key}; name the file that you mean")
        found[key] = result
    return found


def _key(result: dict[str, Any]) -> str:
    return f"{result['env']}, protocol {result['protocol']['name']}, D = {', '.join(result['by_distance'])}"


def _shared(sources: Sequence[tuple[str, Results]]) -> list[str]:
    """What every source was asked; ``ConfigError`` if nothing, or if the same question was asked on other pairs."""
    first_name, first = sources[0]
    shared = [key for key in first if all(key in found for _, found in sources)]
    for name, found in sources[1:]:
        for key in shared or [next(iter(first))]:
            other = found[key] if key in found else next(iter(found.values()))
            hashes = [result["protocol"]["manifest_sha256"][:12] for result in (first[key], other)]
            if hashes[0] != hashes[1]:
                raise ConfigError(
                    f"{first_name!r} and {name!r} are on different pairs (manifests {hashes[0]} and {hashes[1]}; {key} and {_key(other)}): "
                    "evaluate them with the same settings and seed"
                )
    if not shared:
        raise ConfigError(f"no result is there for every method; all need one like {next(iter(first))}")
    return shared


def _check_seeds(name: str, found: Sequence[Results], key: str) -> None:
    checkpoints = [each[key].get("checkpoint_sha256") for each in found]
    if len(set(checkpoints)) < len(checkpoints):
        raise ConfigError(f"two results of method {name!r} are of the same checkpoint; give one per training seed")


def _compare(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    first = next(iter(results.values()))[0]
    unusual = unusual_settings(first["manifest"])
    return {
        "env": first["env"],
        "protocol": first["protocol"],
        **({"pair_settings": unusual} if unusual else {}),
        "by_distance": {
            distance: {stratum: {"methods": _stratum(results, distance, stratum)} for stratum in entry["strata"]}
            for distance, entry in first["by_distance"].items()
        },
    }


def _stratum(results: dict[str, list[dict[str, Any]]], distance: str, stratum: str) -> dict[str, Any]:
    outcomes = {name: [outcomes_of(result, int(distance), stratum) for result in found] for name, found in results.items()}
    baseline = next(iter(outcomes))
    methods = {}
    for name, found in outcomes.items():
        fields = {
            "success": rate_of(found),
            "n": len(found[0]),
            "num_seeds": len(found),
            "rate_per_seed": [float(each.mean()) for each in found],
            "strongest_floor": results[name][0]["by_distance"][distance]["strata"][stratum]["strongest_floor"],
        }
        methods[name] = fields if name == baseline else fields | {"difference": _difference(found, outcomes[baseline])}
    return methods


def _difference(found: Sequence[np.ndarray], baseline: Sequence[np.ndarray]) -> dict[str, Any]:
    if len(found) == len(baseline) == 1:
        return {**paired_difference(found[0], baseline[0])}
    return {**hierarchical_difference(found, baseline), "mcnemar_p": None}


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['rate']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
