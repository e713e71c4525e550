"""The planner settings that a command line starts from."""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from lewm.config import PlannerConfig
from lewm.config_files import from_dict, load_preset
from lewm.errors import LewmError
from lewm.registry import PLANNERS

SWITCHES = ("--planner.use", "--planner.no", "--rest-", "--no-rest-", "--resize", "--no-resize", "--unseen", "--no-unseen")
"""Flags without a value, after which a run may be named."""


def planner_of(words: Sequence[str]) -> PlannerConfig:
    """The planner settings that the flags change: those of the run among the words that the planner asked for knows."""
    base = _own_planner_of(words)
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--planner.name=") else [word])]
    names = [name for flag, name in itertools.pairwise(split) if flag == "--planner.name"]
    return base.switched(names[-1]) if names and names[-1] in PLANNERS else base


def _own_planner_of(words: Sequence[str]) -> PlannerConfig:
    """The planner settings of the run among the words."""
    if "--help" in words or "-h" in words:
        return PlannerConfig()
    if "--protocol=official" in words or ("--protocol", "official") in itertools.pairwise(words):
        return load_preset("paper").planner
    from lewm.checkpoint import find_checkpoint, read_description

    for before, word in itertools.pairwise(words):
        is_value = before.startswith("--") and "=" not in before and not before.startswith(SWITCHES)
        if not is_value and not word.startswith("-") and Path(word).is_dir():
            with contextlib.suppress(LewmError, KeyError):  # said properly when the run is loaded
                return from_dict(read_description(find_checkpoint(Path(word)))["config"]).planner
    return PlannerConfig()
