"""Protocols whose pairs come from a dataset, as other people's figures do: from episodes that the run may have been trained on.

``official`` is LeWorldModel's own evaluation, ``clear-moderate`` and ``clear-strict`` are an audit's (CLEAR-LeWM v0.5). What they ask of a world is a
table here; which pairs they take is in ``dataset_pairs.py``.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lewm.config import PlannerConfig
from lewm.config_files import load_preset
from lewm.envs.base import canonical_name
from lewm.errors import ConfigError
from lewm.evaluation.protocol import HELDOUT, PROTOCOLS

OFFICIAL, CLEAR_MODERATE, CLEAR_STRICT = "official", "clear-moderate", "clear-strict"
ALL = "all"
"""The only kind of pair where a protocol does not tell kinds apart."""
DEFAULT_PAIRS = {OFFICIAL: 50}
"""Start/goal pairs per distance, where a protocol says how many."""
DEFAULT_SEEDS = {OFFICIAL: 42}


@dataclass(frozen=True, kw_only=True)
class WorldRules:
    """What a protocol asks of one world."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the world that it fixes."""
    stratum: str = ALL
    """The world's kind of pair that it takes, or all of them."""


_PUSH_T = {"is_target_clipped": False}
_ANGLES = {"success": "qpos-match"}
_RULES: dict[str, dict[str, WorldRules]] = {
    OFFICIAL: {
        "two-room": WorldRules(options={"collision": "official", "success_radius_px": 16.0}),
        "push-t": WorldRules(options={"success": "official", **_PUSH_T}),
        "push-t-absolute": WorldRules(options={"success": "official"}),
        "dmc/reacher-*": WorldRules(options={**_ANGLES, "is_wrapped": False}),
        "ogbench/cube-*": WorldRules(options={"success": "official"}),
        "*": WorldRules(),
    },
    # The wrist of the reacher cannot turn as far as a full turn, so that wrapping its angle changes nothing.
    CLEAR_MODERATE: {
        "two-room": WorldRules(options={"collision": "swept", "success_radius_px": 16.0}, stratum="cross-room"),
        "push-t": WorldRules(options={"success": "clear-moderate", **_PUSH_T}),
        "dmc/reacher-*": WorldRules(options={**_ANGLES, "is_wrapped": True}),
        "ogbench/cube-single": WorldRules(options={"success": "clear-moderate"}),
    },
    CLEAR_STRICT: {
        "two-room": WorldRules(options={"collision": "swept", "success_radius_px": 8.0}, stratum="cross-room"),
        "push-t": WorldRules(options={"success": "clear-strict", **_PUSH_T}),
        "ogbench/cube-single": WorldRules(options={"success": "clear-strict"}),
    },
}
"""Protocol -> pattern of world names -> rules, the first that matches. ``official`` takes any other world as it is."""


def world_rules(protocol: str, env: str) -> WorldRules:
    """What a protocol asks of a world; ``ConfigError`` if it has no rules for it."""
    for pattern, rules in _RULES[protocol].items():
        if fnmatch.fnmatchcase(canonical_name(env), pattern):
            return rules
    known = ", ".join(_RULES[protocol])
    raise ConfigError(f"protocol {protocol!r} has no success predicate for env {env!r}, only for {known}; use heldout or official there")


def protocol_options(protocol: str, env: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a world that a protocol fixes (none for ``heldout``); ``ConfigError`` if somebody asked for others."""
    if protocol == HELDOUT or protocol not in PROTOCOLS:
        return {}
    fixed = dict(world_rules(protocol, env).options)
    for name, value in fixed.items():
        if name in explicit and explicit[name] != value:
            raise ConfigError(f"protocol {protocol!r} has {name} = {value!r} in env {env!r}, got {explicit[name]!r}; leave it out, or use heldout")
    return fixed


def protocol_planner(protocol: str, own: PlannerConfig) -> PlannerConfig:
    """The search that a protocol prescribes (LeWorldModel's CEM, 300 x 30 x 30), or the run's own."""
    return load_preset("paper").planner if protocol == OFFICIAL else own
