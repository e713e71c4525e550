"""``lewm eval`` and ``lewm verify``: measuring, and checking what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lewm.commands.parsing import check_result_file, command_line, parse, parse_distances, parse_options, refresh_card, say, show, write_result
from lewm.commands.planner_flags import planner_of
from lewm.config import PlannerConfig
from lewm.errors import ConfigError
from lewm.registry import EVALUATIONS, POLICIES
from lewm.setting_checks import Device


@dataclass(frozen=True)
class SuccessArguments:
    """Reach goals that were never trained on, with floors, ceiling and intervals."""

    run: tyro.conf.Positional[Path]
    """Run (its newest checkpoint) or checkpoint; or, with --env, the name of a scripted policy such as search or expert-noiseless."""
    env: str | None = None
    """Which world; default: the one that the training data came from."""
    env_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for the world, repeatable: changes the options that the training data was collected with."""
    protocol: Literal["heldout", "official", "clear-moderate", "clear-strict"] = "heldout"
    """How start/goal pairs are made and judged. All but heldout take them from rows of a dataset, usually the training set."""
    distances: str = "25"
    """Env steps between start and goal, with commas between: 25,50,100. The budget is twice that."""
    episodes: int | None = None
    """Start/goal pairs per distance and stratum; default: 100, with --protocol official 50."""
    strata: str | None = None
    """Kinds of pair, the headline first, with commas between; default: all of the world's."""
    data_policy: str | None = None
    """Who acts in the episodes that the pairs come from; default: the world's data policy."""
    rest_start: bool = False
    """Set the velocities of starts and goals to zero."""
    stitched: bool = False
    """Take start and goal from different episodes, in mazes: distances are then the most env steps that the shortest way takes."""
    seed: int | None = None
    """Seed of the pairs; default: 0, with --protocol official 42."""
    policy_option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE for a scripted policy, repeatable."""
    data: Path | None = None
    """Training set: needed where goals are compared by labels (--planner.goal), which a probe fitted on it reads off the latents, where actions are
    taken from it (--planner.proposals retrieval), and by the protocols whose pairs are its rows (default there: the run's own, if it is still
    there)."""
    device: Device = "cpu"
    """Where to plan."""
    json: Path | None = None
    """Also write the result to this file (`lewm verify` checks it)."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """The search; defaults are the run's own, with --protocol official LeWorldModel's."""


@dataclass(frozen=True)
class LatentArguments:
    """Look at the latents of held-out episodes."""

    run: tyro.conf.Positional[Path]
    """Run (its newest checkpoint) or checkpoint."""
    data: Path
    """Dataset; its held-out episodes are scored."""
    device: Device = "cpu"
    """Where networks run."""
    json: Path | None = None
    """Also write the result to this file."""


@dataclass(frozen=True)
class CollapseArguments(LatentArguments):
    """Measure spread, rank, shape and origin of the latents of held-out episodes, and give a verdict with reasons."""

    num_clips: int = 2048
    """Clips to look at, at most; 5000 clips of the default length hold 20,000 frames."""
    seed: int = 0
    """Which clips."""


@dataclass(frozen=True)
class SurpriseArguments(LatentArguments):
    """Show clips of held-out episodes in which something impossible happens, and see whether it is more surprising than what is normal."""

    num_clips: int = 512
    """Clips, of which half say what is normal; a clip is 14 model steps long."""
    violations: str | None = None
    """Kinds to make, with commas between: teleport,wall; default: all that the data allow."""
    episode: int | None = None
    """Instead of violations: how surprising every step of the episode with this number is, as it is."""
    figure: Path | None = None
    """Also draw surprise over time into this file (.png, .svg or .pdf)."""
    seed: int = 0
    """Which clips."""


@dataclass(frozen=True)
class ProbeArguments(LatentArguments):
    """Read true quantities off the latents of held-out episodes, and off imagined latents, with a linear probe."""

    horizon_model_steps: int = 5
    """How many model steps ahead latents are imagined."""
    context_model_steps: int = 1
    """Past observations that imagination starts from."""
    supervised_steps: int = 0
    """Also train the same networks on the labels for so many optimiser steps, as a ceiling; 0: do not."""


@dataclass(frozen=True)
class ReconstructionArguments(LatentArguments):
    """Draw frames from the latents of held-out episodes, and from imagined latents: the PSNR of a run's decoder, with floors."""

    horizon_model_steps: int = 8
    """How many model steps ahead latents are imagined."""
    context_model_steps: int = 1
    """Past observations that imagination starts from."""
    num_clips: int = 256
    """Clips, at most."""
    seed: int = 0
    """Which clips."""


@dataclass(frozen=True)
class AtariLabelArguments:
    """Name the bytes of a game's memory from frozen latents: AtariARI's label probes, with floors."""

    run: tyro.conf.Positional[Path]
    """Run (its newest checkpoint) or checkpoint."""
    data: Path
    """Dataset of random play with labels; comparable with published numbers at 210 x 160 px and 50,000 frames."""
    num_frames: int = 50_000
    """At most so many frames are used, of whole episodes."""
    supervised_steps: int = 0
    """Also train the same networks on the labels for so many optimiser steps, as a reference; 0: do not."""
    peer: Path | None = None
    """Another run of the same observations, such as one trained with another objective: judged on the same frames, with paired differences."""
    seed: int = 0
    """Seed of the fresh weights and of the batches; the split into episodes follows the run's data.split_seed."""
    device: Device = "cpu"
    """Where to encode and train."""
    json: Path | None = None
    """Also write the result to this file."""


@dataclass(frozen=True)
class VerifyArguments:
    """Replay a result in the simulator and recompute every number in it, without the model."""

    result: tyro.conf.Positional[Path]
    """File written by `lewm eval success --json` or `lewm eval robustness --json`."""
    data: Path | None = None
    """Dataset that the pairs are rows of, where they are: checks that they are the rows which the seed draws."""
    json: Path | None = None
    """Also write what was checked to this file."""


@dataclass(frozen=True)
class CompareArguments:
    """Compare methods on the same pairs, or put the results of several training seeds of one together.

    Result files alone are training seeds of one method: one rate with one interval. Runs, or NAME=RUN,RUN,..., are methods, each with one or several
    training seeds, which are compared with the first.
    """

    results: tyro.conf.Positional[tuple[str, ...]]
    """Files written by `lewm eval success --json`, runs (the success*.json in their results), or NAME=FILE-OR-RUN,FILE-OR-RUN,..."""
    json: Path | None = None
    """Also write the comparison to this file."""
    figure: Path | None = None
    """Also draw the comparison of methods to this PNG file."""


def evaluate(words: Sequence[str]) -> None:
    """Run the evaluation named by the first word."""
    if not words or words[0].startswith("-"):
        raise ConfigError(f"`lewm eval` needs the name of an evaluation: {', '.join(EVALUATIONS)}; for example `lewm eval success RUN`")
    EVALUATIONS.entry(words[0])
    routes = {
        "success": _success,
        "probe": _probe,
        "collapse": _collapse,
        "surprise": _surprise,
        "reconstruction": _reconstruction,
        "atari-labels": _atari_labels,
        "robustness": _robustness,
        "why": _why,
    }
    routes.get(words[0], _latents)(words)


def verify(words: Sequence[str]) -> None:
    """Verify a result file."""
    arguments = parse(VerifyArguments, "verify", words)
    from lewm.evaluation.verify import verify_result

    outcome = verify_result(arguments.result, arguments.data)
    show(f"verified: {arguments.result}: {outcome['summary']}\nnot verifiable: {', '.join(outcome['unverified'])}")
    write_result(arguments.json, outcome)


def compare(words: Sequence[str]) -> None:
    """Compare methods, or combine the results of several training seeds of one."""
    arguments = parse(CompareArguments, "compare", words)
    from lewm.evaluation.across_seeds import combine_results, combined_table
    from lewm.evaluation.methods import compare_methods, methods_table, parse_methods

    check_result_file(arguments.json)
    methods = parse_methods(arguments.results)
    if methods is None:
        if arguments.figure is not None:
            raise ConfigError("--figure draws a comparison of methods: give runs, or NAME=FILE,FILE,... for each method")
        combined = combine_results(arguments.results)
        show(combined_table(combined))
        write_result(arguments.json, combined)
        return
    compared = compare_methods(methods)
    show(methods_table(compared))
    write_result(arguments.json, compared)
    if arguments.figure is not None:
        from lewm.report.methods_figure import draw_methods

        draw_methods(compared, arguments.figure)
        say(f"wrote {arguments.figure}")


def _success(words: Sequence[str]) -> None:
    arguments = parse(SuccessArguments, "eval success", words[1:], default=SuccessArguments(run=tyro.MISSING, planner=planner_of(words)))
    distances = parse_distances(arguments.distances)
    check_result_file(arguments.json)
    from lewm.evaluation.dataset_protocols import DEFAULT_PAIRS, DEFAULT_SEEDS
    from lewm.evaluation.success import success_table

    num_pairs = DEFAULT_PAIRS.get(arguments.protocol, 100) if arguments.episodes is None else arguments.episodes
    settings: dict[str, Any] = {
        "env_options": parse_options(arguments.env_option, "--env-option"),
        "protocol": arguments.protocol,
        "distances": distances,
        "seed": DEFAULT_SEEDS.get(arguments.protocol, 0) if arguments.seed is None else arguments.seed,
        "data_policy": arguments.data_policy,
        "is_rest_start": arguments.rest_start,
        "is_stitched": arguments.stitched,
        "strata": None if arguments.strata is None else arguments.strata.split(","),
        "command": command_line("eval", words),
        "progress": say,
    }
    result_of = _scripted_result if _is_scripted(arguments) else _run_result
    result = result_of(arguments, words, settings, num_pairs)
    show(success_table(result))
    write_to_run(arguments.json, result, arguments.run)


def _run_result(arguments: SuccessArguments, words: Sequence[str], settings: dict[str, Any], num_pairs: int) -> dict[str, Any]:
    from lewm.evaluation.workflow import evaluate as run_evaluation
    from lewm.learned_policies.checkpoints import is_policy

    if arguments.policy_option:
        raise ConfigError("--policy-option is for a scripted policy, and this is a run: its search has --planner.KEY VALUE")
    return run_evaluation(
        arguments.run,
        env=arguments.env,
        episodes=num_pairs,
        planner=None if is_policy(arguments.run) and not _planner_flags(words) else arguments.planner,
        data=arguments.data,
        device=arguments.device,
        **settings,
    )


def _planner_flags(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith("--planner.")]


def _scripted_result(arguments: SuccessArguments, words: Sequence[str], settings: dict[str, Any], num_pairs: int) -> dict[str, Any]:
    from lewm.evaluation.success import evaluate_scripted

    name = str(arguments.run)
    if arguments.env is None:
        raise ConfigError(f"{name!r} is a scripted policy: say in which world with --env, for example --env two-room")
    flags = ("--planner.", "--device") if arguments.protocol != "heldout" else ("--planner.", "--device", "--data=")
    unused = [word for word in words if word.startswith(flags) or (word == "--data" and "--data=" in flags)]
    if unused:
        raise ConfigError(f"{unused[0]} is for runs, and {name!r} is a scripted policy: it has --policy-option KEY=VALUE")
    options = parse_options(arguments.policy_option, "--policy-option")
    return evaluate_scripted(name, policy_options=options, env=arguments.env, data=arguments.data, num_pairs=num_pairs, **settings)


def _is_scripted(arguments: SuccessArguments) -> bool:
    """Whether a policy is meant: its name is in the table, or there is no such run and a world is named that may have one of its own."""
    return not arguments.run.exists() and (str(arguments.run) in POLICIES or arguments.env is not None)


def _latents(words: Sequence[str]) -> None:
    _evaluate_latents(words, parse(LatentArguments, f"eval {words[0]}", words[1:]))


def _collapse(words: Sequence[str]) -> None:
    arguments = parse(CollapseArguments, "eval collapse", words[1:])
    _evaluate_latents(words, arguments, num_clips=arguments.num_clips, seed=arguments.seed)


def _surprise(words: Sequence[str]) -> None:
    arguments = parse(SurpriseArguments, "eval surprise", words[1:])
    from lewm.evaluation.surprise_figure import check_figure_file, draw_surprise

    check_figure_file(arguments.figure)
    names = None if arguments.violations is None else tuple(arguments.violations.split(","))
    options = {"num_clips": arguments.num_clips, "violations": names, "episode": arguments.episode, "seed": arguments.seed}
    result = _evaluate_latents(words, arguments, **options)
    if arguments.figure is not None:
        draw_surprise(result, arguments.data, arguments.figure)
        say(f"drawn: {arguments.figure}")


def _probe(words: Sequence[str]) -> None:
    arguments = parse(ProbeArguments, "eval probe", words[1:])
    names = ("horizon_model_steps", "context_model_steps", "supervised_steps")
    _evaluate_latents(words, arguments, **{name: getattr(arguments, name) for name in names}, progress=say)


def _reconstruction(words: Sequence[str]) -> None:
    arguments = parse(ReconstructionArguments, "eval reconstruction", words[1:])
    names = ("horizon_model_steps", "context_model_steps", "num_clips", "seed")
    _evaluate_latents(words, arguments, **{name: getattr(arguments, name) for name in names})


def _atari_labels(words: Sequence[str]) -> None:
    arguments = parse(AtariLabelArguments, "eval atari-labels", words[1:])
    options = {name: getattr(arguments, name) for name in ("num_frames", "supervised_steps", "peer", "seed")}
    _evaluate_latents(words, arguments, progress=say, **options)


def _evaluate_latents(words: Sequence[str], arguments: LatentArguments | AtariLabelArguments, **options: Any) -> dict[str, Any]:
    check_result_file(arguments.json)
    from lewm.evaluation.workflow import evaluate_latents, latent_table

    about: dict[str, Any] = {"device": arguments.device, "command": command_line("eval", words)}
    result = evaluate_latents(words[0], arguments.run, arguments.data, **about, **options)
    show(latent_table(result))
    write_to_run(arguments.json, result, arguments.run)
    return result


def _robustness(words: Sequence[str]) -> None:
    from lewm.commands.robustness import evaluate_robustness

    evaluate_robustness(words)


def _why(words: Sequence[str]) -> None:
    from lewm.commands.why import evaluate_why

    evaluate_why(words)


def write_to_run(path: Path | None, result: dict[str, Any], run: Path) -> None:
    """Write the result; the card of the run whose results it joins then shows it. A learned policy's run has no card."""
    write_result(path, result)
    if path is not None and path.resolve().parent == (run / "results").resolve():
        from lewm.learned_policies.checkpoints import is_policy

        if not is_policy(run):
            refresh_card(run)
