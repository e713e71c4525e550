"""``lewm eval why``: which part makes plans fail."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lewm.commands.evaluate import write_to_run
from lewm.commands.parsing import check_result_file, command_line, parse, parse_options, say, show
from lewm.commands.planner_flags import planner_of
from lewm.config import PlannerConfig
from lewm.setting_checks import Device


@dataclass(frozen=True)
class WhyArguments:
    """Say which part of a run makes its plans fail (encoder, predictor, cost or search), and whether it knows when they will."""

    run: tyro.conf.Positional[Path]
    """Run (its newest checkpoint) or checkpoint."""
    data: Path
    """Training set, with labels: the maps between latents and labels are fitted on it."""
    env: str | None = None
    """Which world; default: the one that the training data came from."""
    env_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the world, repeatable: changes the options that the training data was collected with."""
    pairs_of: Path | None = None
    """A result of `lewm eval success`, whose pairs are taken; --seed and other settings of new pairs do nothing then."""
    distance: int | None = None
    """Env steps between start and goal; default: 50, with --pairs-of its first. The budget is twice that."""
    episodes: int | None = None
    """Start/goal pairs per stratum that the agent tries as it is; default: 50, with --pairs-of all, and a number means the first so many."""
    pairs: int = 20
    """The first so many of them per stratum are tried again with parts swapped: this is what takes the time."""
    strata: str | None = None
    """Kinds of pair, with commas between; default: all of the world's."""
    data_policy: str | None = None
    """Who acts in the episodes that the pairs come from; default: the world's data policy."""
    rest_start: bool = False
    """Set the velocities of starts and goals to zero."""
    stitched: bool = False
    """Take start and goal from different episodes, in mazes."""
    seed: int = 0
    """Seed of the pairs."""
    break_part: Annotated[Literal["encoder", "predictor", "cost", "search"] | None, tyro.conf.arg(name="break")] = None
    """Break this part on purpose first, to see whether it is found."""
    device: Device = "cpu"
    """Where to plan."""
    json: Path | None = None
    """Also write the result to this file."""
    figure: Path | None = None
    """Also draw shares, reliability and risk into this PNG file."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """The search; defaults are the run's own."""


def evaluate_why(words: Sequence[str]) -> None:
    """Measure, show, write."""
    arguments = parse(WhyArguments, "eval why", words[1:], default=WhyArguments(run=tyro.MISSING, data=tyro.MISSING, planner=planner_of(words)))
    check_result_file(arguments.json)
    check_result_file(arguments.figure)
    from lewm.evaluation.why.figure import check_figure_file, draw_why
    from lewm.evaluation.why.table import why_table
    from lewm.evaluation.why.workflow import explain

    check_figure_file(arguments.figure)
    result = explain(
        arguments.run,
        data=arguments.data,
        env=arguments.env,
        env_options=parse_options(arguments.env_option, "--env-option"),
        planner=arguments.planner,
        distance_env_steps=arguments.distance,
        num_episodes=arguments.episodes,
        num_pairs=arguments.pairs,
        seed=arguments.seed,
        strata=None if arguments.strata is None else arguments.strata.split(","),
        data_policy=arguments.data_policy,
        is_rest_start=arguments.rest_start,
        is_stitched=arguments.stitched,
        pairs_of=arguments.pairs_of,
        broken=arguments.break_part,
        device=arguments.device,
        command=command_line("eval", words),
        progress=say,
    )
    show(why_table(result))
    write_to_run(arguments.json, result, arguments.run)
    if arguments.figure is not None:
        draw_why(result, arguments.figure)
        say(f"drew {arguments.figure}")
