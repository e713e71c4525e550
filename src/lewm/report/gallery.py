"""What of a report needs the model itself: latents with their true places, and films of evaluated episodes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lewm.checkpoint import Checkpoint, load_checkpoint
from lewm.evaluation.probing import POSITION_LABELS
from lewm.planning.mpc import MPCPolicy
from lewm.planning.proposing import needed_heads
from lewm.report.evidence import Evidence, SuccessRow
from lewm.report.films import episode_film, gif_bytes, grid_film, png_bytes
from lewm.report.imagination import imagination_film, imagination_words, imagine
from lewm.report.latents import LabelledLatents, sample_latents
from lewm.report.replays import WORLD_SIDES_PX, Replay, replay_episodes

NUM_GRID_EPISODES = 6
LONGEST_FILM_ENV_STEPS = 50
"""Distance up to which the grid shows the longest one: longer films would make the page heavy."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A GIF, a still for people who want less motion, and words."""

    gif: bytes
    still: bytes
    title: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Everything drawn with the model; empty where the run has no checkpoint, no simulator or no result."""

    latents: LabelledLatents | None = None
    control_latents: LabelledLatents | None = None
    grid: Film | None = None
    films: list[Film] = field(default_factory=list)
    imagination: Film | None = None
    """Where the run has a decoder."""


def make_gallery(evidence: Evidence) -> Gallery:
    """Load the models and draw."""
    if evidence.description is None or evidence.env is None:
        return Gallery()
    checkpoint = load_checkpoint(evidence.run)
    latents = sample_latents(checkpoint)
    control = evidence.control
    control_latents = None
    if control is not None and control.description is not None and control.env == evidence.env:
        control_latents = sample_latents(load_checkpoint(control.run))
    can_mark = evidence.env in WORLD_SIDES_PX and set(POSITION_LABELS) <= set(latents.label_names)
    # Elsewhere nothing that a model imagines could be shown, so nothing is planned again.
    planner = checkpoint.config.planner
    can_plan = can_mark and planner.goal != "labels" and not needed_heads(planner)
    imagining = (MPCPolicy(checkpoint.model, planner), latents.probe()) if can_plan else ()

    def replay(result: dict[str, Any], *pairs: str) -> list[Replay]:
        return replay_episodes(result, pairs, *imagining)

    return Gallery(
        latents=latents,
        control_latents=control_latents,
        grid=_grid(evidence, replay),
        films=list(_films(evidence, replay)),
        imagination=_imagination(checkpoint),
    )


def episode_words(replay: Replay) -> str:
    """How an episode went."""
    end = f"reached after {replay.first_hit} env steps" if replay.is_solved else f"not reached within {2 * replay.distance} env steps"
    return f"{replay.distance} env steps apart: {end}."


def _grid(evidence: Evidence, replay: Callable[..., list[Replay]]) -> Film | None:
    rows = [row for row in evidence.success_rows() if row.is_headline]
    if not rows:
        return None
    row = ([row for row in rows if row.distance <= LONGEST_FILM_ENV_STEPS] or rows[:1])[-1]
    replays = replay(row.result, *[episode["pair"] for episode in _episodes(row)][:NUM_GRID_EPISODES])
    solved = sum(shown.is_solved for shown in replays)
    legend = (
        "Left: what happens. Right: the goal."
        if replays[0].positions is None
        else "Green circle: the goal. Blue: the plan, as the model imagines it; the ring is its imagined end. Grey: the way so far."
    )
    caption = (
        f"The first {len(replays)} {row.stratum} episodes of the evaluation at {row.distance} env steps, not selected: {solved} of {len(replays)} "
        f"reached. {legend}"
    )
    return _film(grid_film(replays), "Planned episodes", caption)


def _films(evidence: Evidence, replay: Callable[..., list[Replay]]) -> Iterator[Film]:
    rows = sorted(evidence.success_rows(), key=lambda row: (row.distance > LONGEST_FILM_ENV_STEPS, -row.distance))
    shown_strata = set()
    for row in rows:
        solved = next((episode for episode in _episodes(row) if episode["solved"]), None)
        if solved is not None and row.stratum not in shown_strata:
            shown_strata.add(row.stratum)
            (film,) = replay(row.result, solved["pair"])
            yield _film(episode_film(film), f"A {row.stratum} goal", episode_words(film))
    failed = next(((row, episode) for row in rows for episode in _episodes(row) if not episode["solved"]), None)
    if failed is not None:
        (film,) = replay(failed[0].result, failed[1]["pair"])
        yield _film(episode_film(film), "A failure", f"{film.stratum.capitalize()}, {episode_words(film)}")
    if evidence.control is not None and (control_row := evidence.control.headline()) is not None:
        yield _control_film(evidence.control, control_row)


def _imagination(checkpoint: Checkpoint) -> Film | None:
    imagination = imagine(checkpoint) if "decoder" in checkpoint.heads else None
    if imagination is None:
        return None
    return _film(imagination_film(imagination), "Imagined frames", imagination_words(imagination, checkpoint.model.action_block))


def _control_film(control: Evidence, row: SuccessRow) -> Film:
    """The first episode that the control failed, or its first one."""
    episodes = list(_episodes(row))
    chosen = next((episode for episode in episodes if not episode["solved"]), episodes[0])
    (replay,) = replay_episodes(row.result, [chosen["pair"]])
    is_collapsed = bool(control.looks) and control.looks[-1]["verdict"] == "collapsed"
    title = "The collapsed control" if is_collapsed else "The control"
    why = " To this model all frames look alike, so no plan seems better than another." if is_collapsed and not replay.is_solved else ""
    return _film(episode_film(replay), title, f"{row.stratum.capitalize()}, {episode_words(replay)}{why}")


def _episodes(row: SuccessRow) -> Iterator[dict[str, Any]]:
    """The episodes of a row, in the order of the manifest."""
    return (episode for episode in row.result["episodes"] if (episode["distance"], episode["stratum"]) == (row.distance, row.stratum))


def _film(images: list[Any], title: str, caption: str) -> Film:
    return Film(gif=gif_bytes(images), still=png_bytes(images[-1]), title=title, caption=caption, width=images[0].width, height=images[0].height)
