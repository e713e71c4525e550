"""Under which conditions a run is tried again: which, how strong, and what becomes of the pairs.

A perturbation changes the looks or the layout of a world, in the states of every pair; a corruption changes only the frames that the agent sees.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from lewm.envs.base import GoalEnv, PerturbationEnd, TakesPerturbations, make_batch
from lewm.errors import ConfigError, LewmError
from lewm.evaluation.corruptions import CORRUPTIONS, check_corruption
from lewm.evaluation.protocol import Manifest, Pair
from lewm.registry import ENVS, did_you_mean

Goals = Literal["same", "clean"]
"""Whether goal frames show the perturbed world (or are corrupted like all others), or what they showed without."""
NONE = "none"
"""Word for no perturbation, or no corruption."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way in which a run is tried."""

    kind: Literal["unperturbed", "perturbation", "corruption"]
    name: str = ""
    """A perturbation may say towards which end of its range, as in ``door_half_size_px:low``; default: the end that is farther away."""
    severity: float = 0.0
    """Share of the way to the end of the range, or of the strongest corruption."""
    goals: Goals = "same"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        return self.kind if self.kind == "unperturbed" else f"{self.name} at severity {self.severity:g}, goals {self.goals}"


UNPERTURBED = Condition(kind="unperturbed")


def make_conditions(
    env: str | None, perturbations: Sequence[str] | None, corruptions: Sequence[str] | None, severities: Sequence[float], goals: Sequence[str]
) -> list[Condition]:
    """Every named perturbation and corruption at every severity with every kind of goal frame; None: all there are, and ``none`` none.

    ``ConfigError`` for an unknown name, a severity outside (0, 1], or a perturbation in a world without.
    """
    check_severities(severities)
    for goal in goals:
        if goal not in get_args(Goals):
            raise ConfigError(f"unknown kind of goal frames {goal!r}.{did_you_mean(goal, get_args(Goals))}")
    if not goals or len(set(goals)) != len(goals):
        raise ConfigError(f"goals must be one or both of {', '.join(get_args(Goals))}, got {list(goals)}")
    names = {"perturbation": perturbation_names(env, perturbations), "corruption": corruption_names(corruptions)}
    return [
        Condition(kind=kind, name=name, severity=float(severity), goals=goal)  # type: ignore[arg-type]  # checked above
        for kind in ("perturbation", "corruption")
        for name in names[kind]
        for severity in severities
        for goal in goals
    ]


def check_severities(severities: Sequence[float]) -> None:
    """``ConfigError`` unless they are different numbers in (0, 1], ascending."""
    are_numbers = all(isinstance(severity, int | float) and math.isfinite(severity) and 0 < severity <= 1 for severity in severities)
    if not severities or not are_numbers or sorted(set(severities)) != list(severities):
        raise ConfigError(
            f"severities must be different numbers in (0, 1], ascending, got {', '.join(map(str, severities)) or 'none'}; "
            "0 is the unperturbed run, which is always there"
        )


def perturbation_names(env: str | None, asked: Sequence[str] | None) -> list[str]:
    """The perturbations asked for; None: all of the world's, which may be none."""
    if asked is not None and list(asked) == [NONE]:
        return []
    env_class: type[GoalEnv] | None = None if env is None else ENVS.load(env)
    known = {} if env_class is None else env_class.PERTURBATIONS
    if asked is None:
        return list(known)
    _refuse_doubles("perturbations", asked)
    for name in asked:
        base, _, end = name.partition(":")
        if not known:
            where = "data without a simulator has" if env is None else f"env {env!r} has"
            raise ConfigError(f"{where} no perturbations, got {name!r}; corruptions of frames work everywhere: --corruptions {','.join(CORRUPTIONS)}")
        if base not in known:
            raise ConfigError(f"env {env!r} has no perturbation {base!r}.{did_you_mean(base, known)}")
        if end and end not in get_args(PerturbationEnd):
            raise ConfigError(f"perturbation {name!r}: the end of its range is one of {', '.join(get_args(PerturbationEnd))}, got {end!r}")
    return list(asked)


def corruption_names(asked: Sequence[str] | None) -> list[str]:
    """The corruptions asked for; None: all of them."""
    if asked is None:
        return list(CORRUPTIONS)
    if list(asked) == [NONE]:
        return []
    _refuse_doubles("corruptions", asked)
    return [check_corruption(name) for name in asked]


def pairs_under(manifest: Manifest, condition: Condition) -> tuple[Manifest, int]:
    """The pairs of a manifest as they are under a condition, and how many had to be left out because an end is not legal there.

    With ``goals`` clean the goals stay as they were; the same pairs are left out. ``LewmError`` if a distance and stratum lose all their pairs.
    """
    if condition.kind != "perturbation" or not manifest.pairs:
        return manifest, 0
    name, _, end = condition.name.partition(":")
    ends = [state for pair in manifest.pairs for state in (pair.start_state, pair.goal_state)]
    with closing(make_batch(manifest.env, 1, **manifest.env_options)) as envs:
        if not isinstance(envs, TakesPerturbations):
            raise LewmError(f"env {manifest.env!r} cannot perturb its states: leave --perturbations out")
        found = envs.perturbed(ends, name, condition.severity, end or "far")  # type: ignore[arg-type]  # checked by perturbation_names
    pairs = []
    for pair, start, goal in zip(manifest.pairs, found[::2], found[1::2], strict=True):
        if start is not None and goal is not None:
            pairs.append(replace(pair, start_state=start, goal_state=goal if condition.goals == "same" else pair.goal_state))
    _require_pairs(manifest, pairs, condition)
    return replace(manifest, pairs=tuple(pairs)), len(manifest.pairs) - len(pairs)


def _require_pairs(manifest: Manifest, pairs: Sequence[Pair], condition: Condition) -> None:
    kept = {(pair.distance_env_steps, pair.stratum) for pair in pairs}
    for distance in manifest.distances:
        for stratum in manifest.strata:
            if (distance, stratum) not in kept:
                raise LewmError(
                    f"{condition} leaves no legal pair of stratum {stratum!r} at D = {distance}: agents would overlap walls or be invisible; "
                    "choose lower severities or leave it out"
                )


def _refuse_doubles(what: str, names: Sequence[str]) -> None:
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"{what} must be one or more different names, or none for no {what}; got {', '.join(names) or 'nothing'}")
