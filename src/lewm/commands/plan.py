"""``lewm plan``: one plan from one frame to another."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from lewm.commands.parsing import check_result_file, command_line, parse, say, show, write_result
from lewm.commands.planner_flags import planner_of
from lewm.config import PlannerConfig
from lewm.errors import ConfigError
from lewm.planner_config import LANDMARKS
from lewm.setting_checks import Device

if TYPE_CHECKING:
    import numpy as np

    from lewm.checkpoint import Checkpoint
    from lewm.data.formats.store import Store
    from lewm.evaluation.single_plan import PlannedWay
    from lewm.schema import Observation


@dataclass(frozen=True)
class PlanArguments:
    """Plan from one frame to another with a run's world model: the actions, how near they are expected to come, and how far to trust that."""

    run: tyro.conf.Positional[Path]
    """Run (its newest checkpoint) or checkpoint."""
    start: str
    """Image file, or EPISODE:STEP of the dataset."""
    goal: str
    """Image file, EPISODE:STEP, or labels with their wanted values, such as agent_x_px=40,agent_y_px=60: labels that are not named are free."""
    data: Path | None = None
    """Dataset for rows and labels; with it the plan is also compared with what is usual in the data."""
    resize: bool = False
    """Scale image files of another size to the model's."""
    seed: int = 0
    """Seed of the search."""
    device: Device = "cpu"
    """Where to plan."""
    json: Path | None = None
    """Also write everything to this file."""
    film: Path | None = None
    """Write the imagined way as a GIF, for runs with a decoder."""
    explain: Path | None = None
    """Draw the map of planner landmarks, the route and the frames of its landmarks into this file (.png)."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """The search; defaults are the run's own."""


def plan(words: Sequence[str]) -> None:
    """Plan once and print the actions."""
    default = PlanArguments(run=tyro.MISSING, start=tyro.MISSING, goal=tyro.MISSING, planner=planner_of(["plan", *words]))
    arguments = parse(PlanArguments, "plan", words, default=default)
    check_result_file(arguments.json)
    check_result_file(arguments.film)
    check_result_file(arguments.explain)
    from lewm.checkpoint import load_checkpoint
    from lewm.evaluation.label_goals import matching_store

    if arguments.explain is not None and arguments.planner.name != LANDMARKS:
        raise ConfigError(f"--explain draws the map of planner 'landmarks', and this is {arguments.planner.name!r}: give --planner.name landmarks")
    checkpoint = load_checkpoint(arguments.run, arguments.device)
    if arguments.film is not None and "decoder" not in checkpoint.heads:
        raise ConfigError("--film needs a run with a decoder: lewm train --from RUN --stage decoder --data DIR --out RUN2 makes one")
    store = None if arguments.data is None else matching_store(checkpoint, arguments.data)
    way, frames = _planned(arguments, checkpoint, store)
    result = way.result | {
        "start": arguments.start,
        "goal": arguments.goal,
        "checkpoint_sha256": checkpoint.sha256,
        "dataset_sha256": None if store is None else store.dataset_sha256,
        "command": command_line("plan", words),
    }
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    show(plan_table(result))
    write_result(arguments.json, result)
    if arguments.film is not None:
        _write_film(arguments.film, checkpoint, way, frames)


def _planned(
    arguments: PlanArguments, checkpoint: "Checkpoint", store: "Store | None"
) -> "tuple[PlannedWay, tuple[Observation[np.ndarray], Observation[np.ndarray] | None]]":
    from lewm.evaluation.agents import agent_of
    from lewm.evaluation.label_goals import compare_goals, kind_of_comparison
    from lewm.evaluation.landmark_routes import route_between
    from lewm.evaluation.plan_frames import frame_of
    from lewm.evaluation.single_plan import PlannedWay, data_latents, encoded, plan_way, trust, wanted_labels
    from lewm.planning.landmarks import LandmarkPolicy
    from lewm.report.landmark_figure import draw_route

    spec, planner = checkpoint.model.observation_spec, arguments.planner
    start = frame_of(arguments.start, spec, store, is_resized=arguments.resize, is_still=False)
    if "=" in arguments.goal and not Path(arguments.goal).exists():
        if store is None:
            raise ConfigError("a goal of labels needs --data DIR (the training set), on which a probe of them is fitted")
        readout, goal = wanted_labels(checkpoint, store, parse_labels(arguments.goal))
        policy, goal_frame = agent_of(checkpoint, planner.switched(planner.name, goal="labels"), readout, arguments.data), None
    else:
        env, options = checkpoint.env.get("name"), dict(checkpoint.env.get("options", {}))
        data = arguments.data if kind_of_comparison(planner, env) == "labels" else None
        comparison = compare_goals(checkpoint, planner, env, options, data)
        policy = agent_of(checkpoint, planner, comparison.readout, arguments.data)
        goal_frame = frame_of(arguments.goal, spec, store, is_resized=arguments.resize, is_still=True)
        latent = encoded(policy, goal_frame)
        goal = latent if policy.readout is None else policy.readout.read(latent)
    route: dict[str, Any] = {}
    aim = goal
    if isinstance(policy, LandmarkPolicy):
        assert store is not None
        here = encoded(policy, start)
        route = {"route": route_between(policy, store, here, goal)}
        if arguments.explain is not None:
            ends = [None if one is None else one.frames[0, 0] for one in (start, goal_frame)]
            draw_route(arguments.explain, policy.landmarks, store, route["route"], ends)
            say(f"wrote {arguments.explain}")
        aim = policy.first_aim(here, goal)
    way = plan_way(policy, start, aim, seed=arguments.seed)
    is_latent = policy.readout is None
    about: dict[str, Any] = {}
    if store is not None and is_latent:
        about = trust(way, data_latents(checkpoint, store, planner.horizon_model_steps), policy.distance, goal)
    result = way.result | {"compared_by": planner.distance if is_latent else "labels", "planner": planner.name, "data": about} | route
    return PlannedWay(imagined=way.imagined, result=result | {"warnings": warnings_of(result)}), (start, goal_frame)


def parse_labels(text: str) -> dict[str, float]:
    """``agent_x_px=40,agent_y_px=60`` as numbers by name."""
    wanted: dict[str, float] = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not equals or not name or name in wanted or not abs(number) < float("inf"):
            raise ConfigError(f"--goal takes LABEL=NUMBER with commas between, each label once, such as agent_x_px=40,agent_y_px=60; got {text!r}")
        wanted[name] = number
    return wanted


def warnings_of(result: dict[str, Any]) -> list[str]:
    """What a user should know before trusting the plan."""
    found = []
    if min(result["distances"]) >= result["distance_at_start"]:
        found.append("no step of the plan is expected to be nearer to the goal than the start is")
    about = result["data"]
    if about.get("is_goal_outside_data"):
        found.append(
            f"the goal is outside the data: its nearest latent is {about['goal_nearest_l2']:.3g} away, that of 99 % of the data's own frames at most "
            f"{about['goal_nearest_l2_limit']:.3g}"
        )
    return found


def plan_table(result: dict[str, Any]) -> str:
    """The result as plain text; the last line holds the actions as JSON."""
    from lewm.evaluation.landmark_routes import route_words

    start, about = result["distance_at_start"], result["data"]
    lines = [route_words(result["route"])] if "route" in result else []
    lines += [f"model step  distance to the {_what_is_planned_for(result)}  of the start's", f"{0:>10}  {start:>20.4g}  {1:>14.0%}"]
    lines += [
        f"{step:>10}  {distance:>20.4g}  {distance / start if start else 0:>14.0%}" for step, distance in enumerate(result["distances"], start=1)
    ]
    lines.append(
        f"nearest at model step {result['nearest_model_step']}; compared by {result['compared_by']}; "
        f"one model step is {result['action_block']} env steps"
    )
    if "confidence" in about:
        lines.append(
            f"confidence {about['confidence']:.2f}: this share of the data's frames one model step apart are farther from each other than the "
            f"plan's nearest latent is from the goal; about {about['model_steps_left']} model steps are left"
        )
    lines.append(
        f"planner {result['planner']}: {result['num_iterations']} iterations, {result['plan_ms']:.0f} ms; encoding {result['encode_ms']:.0f} ms"
    )
    lines.append(json.dumps({"actions": result["actions"]}))
    return "\n".join(lines)


def _what_is_planned_for(result: dict[str, Any]) -> str:
    return "goal" if result.get("route", {}).get("aim") is None else "mark"


def _write_film(
    path: Path, checkpoint: "Checkpoint", way: "PlannedWay", frames: "tuple[Observation[np.ndarray], Observation[np.ndarray] | None]"
) -> None:
    from lewm.report.films import gif_bytes
    from lewm.report.plan_film import plan_film

    start, goal = frames
    spec, decoder = checkpoint.model.observation_spec, checkpoint.heads["decoder"].network
    path.write_bytes(gif_bytes(plan_film(decoder, spec, start.frames, way.imagined, None if goal is None else goal.frames)))
    say(f"wrote {path}")
