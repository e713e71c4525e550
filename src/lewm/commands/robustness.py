"""``lewm eval robustness``: the same goals under other conditions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from lewm.commands.evaluate import write_to_run
from lewm.commands.parsing import check_result_file, command_line, parse, parse_distances, parse_options, say, show
from lewm.commands.planner_flags import planner_of
from lewm.config import PlannerConfig
from lewm.errors import ConfigError
from lewm.setting_checks import Device


@dataclass(frozen=True)
class RobustnessArguments:
    """Reach the same goals in a world that looks or is built differently, through a damaged camera, and in layouts never trained on."""

    run: tyro.conf.Positional[Path]
    """Run (its newest checkpoint) or checkpoint."""
    data: Path | None = None
    """Dataset of any format: also shows what corruptions do to the latents of its held-out episodes."""
    env: str | None = None
    """Which world; default: the one that the training data came from."""
    env_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the world, repeatable: changes the options that the training data was collected with."""
    perturbations: str | None = None
    """Changes of the world, with commas between, or none; a name may end in :low or :high, the end of its range. Default: all of the world's."""
    corruptions: str | None = None
    """Damage to frames, with commas between, or none: noise,blur,brightness,occlusion,jpeg,crop. Default: all."""
    severities: str = "0.25,0.5,1"
    """In (0, 1], with commas between."""
    goals: str = "same,clean"
    """Whether goal frames are perturbed like all others, or clean, or both, one after the other."""
    unseen: bool = False
    """Also try layouts that training left out: in two-room, other doors."""
    distances: str = "25"
    """Env steps between start and goal, with commas between. The budget is twice that."""
    episodes: int = 50
    """Start/goal pairs per distance and stratum, the same for every condition."""
    strata: str | None = None
    """Kinds of pair, the headline first, with commas between; default: the headline alone."""
    seed: int = 0
    """Seed of the pairs."""
    device: Device = "cpu"
    """Where to plan and encode."""
    json: Path | None = None
    """Also write the result to this file (`lewm verify` checks what was done in the simulator)."""
    figure: Path | None = None
    """Also draw success and probe against severity into this PNG file."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """The search; defaults are the run's own."""


def evaluate_robustness(words: Sequence[str]) -> None:
    """Measure, show, write."""
    arguments = parse(RobustnessArguments, "eval robustness", words[1:], default=RobustnessArguments(run=tyro.MISSING, planner=planner_of(words)))
    distances, severities = parse_distances(arguments.distances), _parse_severities(arguments.severities)
    check_result_file(arguments.json)
    _check_figure(arguments)
    from lewm.evaluation.robustness_table import robustness_table
    from lewm.evaluation.robustness_workflow import try_run

    result = try_run(
        arguments.run,
        env=arguments.env,
        env_options=parse_options(arguments.env_option, "--env-option"),
        planner=arguments.planner,
        data=arguments.data,
        perturbations=_names(arguments.perturbations),
        corruptions=_names(arguments.corruptions),
        severities=severities,
        goals=arguments.goals.split(","),
        is_unseen=arguments.unseen,
        distances=distances,
        num_pairs=arguments.episodes,
        strata=_names(arguments.strata),
        seed=arguments.seed,
        device=arguments.device,
        command=command_line("eval", words),
        progress=say,
    )
    show(robustness_table(result))
    write_to_run(arguments.json, result, arguments.run)
    if arguments.figure is not None:
        from lewm.report.robustness_figure import draw_robustness

        draw_robustness(result, arguments.figure)
        say(f"drew {arguments.figure}")


def _check_figure(arguments: RobustnessArguments) -> None:
    """Refuse, before the work whose picture it is, a figure that could not be drawn or written."""
    check_result_file(arguments.figure)
    if arguments.figure is not None and arguments.figure.suffix != ".png":
        raise ConfigError(f"--figure writes a PNG: give it a name that ends in .png, got {str(arguments.figure)!r}")
    from lewm.evaluation.conditions import NONE

    if arguments.figure is not None and arguments.perturbations == arguments.corruptions == NONE:
        raise ConfigError("--figure draws perturbations and corruptions, and none were asked for: name one, or leave --figure out")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else text.split(",")


def _parse_severities(text: str) -> tuple[float, ...]:
    """``0.5,1`` as numbers; which are allowed, the evaluation says."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--severities takes numbers in (0, 1] with commas between, such as 0.25,0.5,1; got {text!r}") from None
