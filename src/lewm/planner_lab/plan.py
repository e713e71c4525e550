"""What a comparison is to do, and what it finds in the runs that it compares on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lewm.checkpoint import checkpoint_sha256, find_checkpoint, read_description
from lewm.config import PlannerConfig
from lewm.config_files import from_dict
from lewm.data.formats.store import open_store
from lewm.envs.base import GoalEnv
from lewm.errors import ConfigError
from lewm.evaluation.outcomes import FLOORS
from lewm.planner_lab.methods import CEILINGS, EXPERT, METHODS, check_methods
from lewm.registry import ENVS
from lewm.run_directory import write_json
from lewm.setting_checks import Device

FORMAT = 1
PLAN_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """What is compared, and on what."""

    runs: tuple[Path, ...]
    """Training seeds of one recipe in one world."""
    data: Path
    """Their training set."""
    methods: tuple[str, ...] = (*METHODS, *CEILINGS)
    policies: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """Learned policies by name: runs of their own, one per training seed."""
    distances: tuple[int, ...] = (25, 50, 75, 100)
    num_pairs: int = 100
    """Per distance and stratum."""
    strata: tuple[str, ...] | None = None
    """Kinds of pair, the one that is shown first; default: the world's headline alone."""
    is_rest_start: bool = False
    """Whether pairs start and end without velocity."""
    is_stitched: bool = False
    """Whether start and goal come from different episodes, in mazes."""
    seed: int = 0
    """Of the pairs."""
    is_training_heads: bool = False
    """Whether heads that are missing are trained."""
    head_steps: int | None = None
    """Optimiser steps of such a head; default: its stage's own."""
    num_latency_episodes: int = 5
    """Episodes that decisions are timed on; 0: none are."""
    device: Device = "cpu"
    """Where cells run, heads are trained and decisions are timed; what is finished is finished on any of them."""

    @property
    def kind_of_pairs(self) -> dict[str, bool]:
        """Settings of ``make_pairs`` besides strata, distance, number and seed."""
        return {"is_rest_start": self.is_rest_start, "is_stitched": self.is_stitched}

    def __post_init__(self) -> None:
        check_methods(self.methods)
        if not self.runs:
            raise ConfigError("a comparison of planners needs at least one run")
        if self.num_pairs < 2 or self.num_latency_episodes < 0 or (self.head_steps is not None and self.head_steps < 1):
            raise ConfigError("a comparison needs at least 2 pairs, 0 or more latency episodes and, for heads, at least 1 step")
        if not self.distances or len(set(self.distances)) < len(self.distances):
            raise ConfigError(f"distances must be one or more different numbers of env steps, got {list(self.distances)}")
        taken = [name for name in self.policies if name in (*METHODS, *CEILINGS, *FLOORS, EXPERT)]
        if taken:
            raise ConfigError(f"policy {taken[0]!r} has the name of a method; call it something else")
        for paths in ({"": self.runs} | dict(self.policies)).values():
            names = [path.resolve().name for path in paths]
            if len(set(names)) < len(names):
                raise ConfigError(f"two runs are called {max(names, key=names.count)!r}; give runs in directories of different names")


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a comparison has to know of a run before anything is loaded."""

    name: str
    path: Path
    sha256: str
    planner: PlannerConfig
    env: str
    env_options: dict[str, Any]
    action_kind: str
    heads: dict[str, dict[str, Any]]
    """Settings of the heads that it has and that were trained on its own training set."""
    dataset_sha256: str | None
    """Of what it was trained on."""

    @classmethod
    def of(cls, path: Path) -> "RunFacts":
        """Read them; ``CheckpointError`` or ``ConfigError`` if there is no such run, or none of a world."""
        checkpoint = find_checkpoint(path)
        description = read_description(checkpoint)
        env, provenance = dict(description.get("env", {})), description.get("provenance", {})
        if not env.get("name"):
            raise ConfigError(f"run {str(path)!r} was trained on data without a simulator: there is nothing to act in")
        return cls(
            name=path.resolve().name,
            path=path,
            sha256=checkpoint_sha256(checkpoint),
            planner=from_dict(description["config"]).planner,
            env=env["name"],
            env_options=dict(env.get("options", {})),
            action_kind=description["action_spec"]["kind"],
            heads={
                head: settings
                for head, settings in dict(description.get("heads", {})).items()
                if provenance.get("heads", {}).get(head, {}).get("dataset_sha256") == provenance.get("dataset_sha256")
            },
            dataset_sha256=provenance.get("dataset_sha256"),
        )


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The world, its pairs' settings, and the runs: what all methods share."""

    runs: tuple[RunFacts, ...]
    env: str
    env_options: dict[str, Any]
    strata: tuple[str, ...]
    dataset_sha256: str

    @classmethod
    def of(cls, plan: ComparisonPlan) -> "Ground":
        """``ConfigError`` for runs of different worlds, one checkpoint twice, or data that a run was not trained on."""
        runs = tuple(RunFacts.of(path) for path in plan.runs)
        first = runs[0]
        for other in runs[1:]:
            if (other.env, other.env_options, other.action_kind) != (first.env, first.env_options, first.action_kind):
                raise ConfigError(f"runs {first.name!r} and {other.name!r} are of different worlds: {first.env} {first.env_options} and {other.env}")
        if len({run.sha256 for run in runs}) < len(runs):
            raise ConfigError("two of the runs are the same checkpoint; give one run per training seed")
        dataset_sha256 = open_store(plan.data).dataset_sha256
        for run in runs:
            if run.dataset_sha256 not in (None, dataset_sha256):
                raise ConfigError(f"run {run.name!r} was not trained on {str(plan.data)!r}: --data is the training set, from which heads learn")
        env_class: type[GoalEnv] = ENVS.load(first.env)
        strata = plan.strata or tuple(env_class.STRATA)[:1] or ("all",)
        return cls(runs=runs, env=first.env, env_options=first.env_options, strata=strata, dataset_sha256=dataset_sha256)


def check_place(plan: ComparisonPlan, ground: Ground, out: Path) -> None:
    """Refuse to mix comparisons on different pairs; more runs, methods, policies or distances may be added."""
    identity = _identity(plan, ground)
    path = out / PLAN_FILE
    if path.is_file():
        before = json.loads(path.read_text())
        for name, value in identity.items():
            there = before.get(name, False if name in plan.kind_of_pairs else None)  # older plans know ordinary pairs only
            if there != value:
                raise ConfigError(
                    f"{str(out)!r} holds a comparison with {name} {there!r}, not {value!r}; continue it as it was, or choose another --out"
                )
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{str(out)!r} already exists and holds no comparison; choose another --out")


def write_plan(plan: ComparisonPlan, ground: Ground, out: Path) -> None:
    """Mark the directory as this comparison's: once its pairs can be made, for one that cannot begin leaves nothing behind."""
    write_json(out / PLAN_FILE, _identity(plan, ground))


def _identity(plan: ComparisonPlan, ground: Ground) -> dict[str, Any]:
    """What all cells of a comparison share, as a file would hold it."""
    identity = {
        "format": FORMAT,
        "env": ground.env,
        "env_options": ground.env_options,
        "dataset_sha256": ground.dataset_sha256,
        "num_pairs": plan.num_pairs,
        "strata": ground.strata,
        "seed": plan.seed,
        **plan.kind_of_pairs,
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain
