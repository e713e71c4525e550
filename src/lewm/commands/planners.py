"""``lewm planners``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lewm.commands.parsing import command_line, parse, parse_distances, say, show
from lewm.errors import ConfigError
from lewm.run_directory import write_json
from lewm.setting_checks import Device


@dataclass(frozen=True)
class PlannersArguments:
    """Compare every way to act with the same runs on the same start/goal pairs: searches, heads, floors and ceilings in one table and one figure."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Training seeds of one recipe in one world, a run each."""
    data: Path
    """Their training set: heads learn from it, and retrieval takes its actions from it."""
    out: Path = Path("runs/planners")
    """Where the comparison works; one that was stopped there goes on."""
    methods: str | None = None
    """Names with commas between; default: all of them (a wrong name lists them)."""
    policies: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=RUN,RUN: a policy that was learned in other runs, one per training seed; repeatable."""
    distances: str = "25,50,75,100"
    """Env steps between start and goal, in the order in which they are run. The budget is twice that."""
    episodes: int = 100
    """Start/goal pairs per distance and stratum; the slow methods (cem-paper and those with gradients) are tried on the first half."""
    strata: str | None = None
    """Kinds of pair, the one that is shown first, with commas between; default: the world's headline alone."""
    rest_start: bool = False
    """Set the velocities of starts and goals to zero."""
    stitched: bool = False
    """Take start and goal from different episodes, in mazes: distances are then the most env steps that the shortest way takes."""
    seed: int = 0
    """Seed of the pairs."""
    train_heads: bool = False
    """Train the heads that the runs lack; without it the methods that need one are left out."""
    head_steps: int | None = None
    """Optimiser steps of each head; default: its stage's own."""
    workers: int = 2
    """Cells at a time, one thread each."""
    device: Device = "cpu"
    """Where the networks run: cells, heads that are trained, and the decisions that are timed. Cells that are finished are kept, whatever it was."""
    latency_episodes: int = 5
    """Episodes that decisions are timed on, at the end; 0: none. What was timed before on the same device is kept: remove latency.json
    (latency-cuda.json) to time it again."""
    only_table: bool = False
    """Run nothing: the table and figure of what is there."""


def planners(words: Sequence[str]) -> None:
    """Run what is missing; print the table, and write it and the figure."""
    arguments = parse(PlannersArguments, "planners", words)
    distances = parse_distances(arguments.distances)
    policies = dict(_policy(word) for word in arguments.policies)
    if len(policies) < len(arguments.policies):
        raise ConfigError("two --policies have the same name; give each its own")
    from lewm.planner_lab.figure import draw
    from lewm.planner_lab.plan import ComparisonPlan
    from lewm.planner_lab.running import run_comparison
    from lewm.planner_lab.summary import summarise
    from lewm.planner_lab.table import markdown_tables, text_tables

    plan = ComparisonPlan(
        runs=arguments.runs,
        data=arguments.data,
        policies=policies,
        distances=distances,
        num_pairs=arguments.episodes,
        methods=ComparisonPlan.methods if arguments.methods is None else _names(arguments.methods),
        strata=None if arguments.strata is None else _names(arguments.strata),
        is_rest_start=arguments.rest_start,
        is_stitched=arguments.stitched,
        seed=arguments.seed,
        is_training_heads=arguments.train_heads,
        head_steps=arguments.head_steps,
        num_latency_episodes=arguments.latency_episodes,
        device=arguments.device,
    )
    if not arguments.only_table:
        run_comparison(plan, arguments.out, workers=arguments.workers, say=say)
    result = summarise(plan, arguments.out, command=command_line("planners", words))
    write_json(arguments.out / "planners.json", result)
    (arguments.out / "planners.md").write_text(markdown_tables(result))
    draw(result, arguments.out / "planners.png")
    show(text_tables(result))
    say(f"wrote planners.json, planners.md and planners.png in {arguments.out}")


def _policy(word: str) -> tuple[str, tuple[Path, ...]]:
    name, equals, paths = word.partition("=")
    if not name or not equals or not paths:
        raise ConfigError(f"--policies takes NAME=RUN,RUN,..., got {word!r}; for example --policies gcbc=runs/gcbc-0,runs/gcbc-1")
    return name, tuple(Path(path) for path in paths.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
