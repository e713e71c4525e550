"""The map of a run in a picture, with a route on it.

Axes: M landmark, s label, n frame, Y X image.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats.store import Store
from lewm.errors import DataError, LewmError
from lewm.evaluation.landmark_maps import landmark_labels, map_labels, open_map, position_columns, row_places
from lewm.planning.landmark_map import LandmarkMap
from lewm.report import markup
from lewm.report.evidence import Evidence
from lewm.report.sections import measure
from lewm.run_directory import check_writable

EDGES_PER_LANDMARK = 3
"""Drawn of each: the shortest."""
MOST_FRAMES = 9
NUM_FARTHEST = 8
"""Landmarks to which all ways are looked at for the longest one."""
COLOURS = {"edge": "#b9c2cc", "landmark": "#6b7785", "route": "#c44e52", "start": "#2b7bba", "goal": "#55a868"}


def draw_route(path: Path, landmarks: LandmarkMap, store: Store, route: dict[str, Any], ends: Sequence[np.ndarray | None]) -> None:
    """Write a PNG: the map with a route of ``route_between``, and below it frames: the start's, those of the landmarks, and the goal's.

    ``ends`` are the frames uint8 [Y, X, 3] of start and goal, None where there is none.
    """
    check_writable(path)
    places, names = places_of(landmarks, landmark_labels(store, landmarks.rows), store.label_names)
    chosen = route["landmarks"]
    shown = [chosen[number] for number in np.unique(np.linspace(0, len(chosen) - 1, min(MOST_FRAMES, len(chosen))).astype(int))] if chosen else []
    frames = [("start", ends[0])]
    for number, (episode, step) in zip(shown, row_places(store, landmarks.rows[shown]) if shown else [], strict=True):
        left = route["env_steps_left"][chosen.index(number)]
        title = f"{episode}:{step}\n{left:.0f} left" + (" (aim)" if number == route["aim"] else "")
        frames.append((title, store.episode(episode).observations.frames[step, 0]))
    frames.append(("goal", ends[1]))
    title = f"{len(chosen)} landmarks, {route['env_steps_left'][0]:.0f} env steps" if chosen else "no route"
    path.write_bytes(_picture(landmarks, places, names, chosen, title, [(words, frame) for words, frame in frames if frame is not None]))


def missing(evidence: Evidence) -> list[str]:
    """The command that makes a map, of a run that has none and whose goals are compared by latents; HTML."""
    if _results(evidence) or evidence.env is None or evidence.env.startswith("atari/"):
        return []
    command, *_ = measure(evidence, "success", "--planner.name landmarks --distances 100 --data DATA")
    return [f"Far goals, by a map of landmarks: <code>{markup.escape(command)}</code>"]


def section(evidence: Evidence) -> list[str]:
    """The part of the page about far goals: the map and the longest of its shortest routes; nothing without a result of planner landmarks."""
    title, used = "Does it find its way to far goals?", _results(evidence)
    if not used:
        return []
    about = used[-1]["planner"]["landmarks"]
    words = (
        f"{about['num_landmarks']} frames of the training data are landmarks, joined by {about['num_edges']:,} edges: how many env steps it took to "
        f"come from one to the other. Episodes without a route: {about['num_without_route']}. Ways given up: {about['num_given_up']}."
    )
    try:
        landmarks, places, names = _map_of(evidence.run, about["map_sha256"])
    except LewmError as error:
        return [markup.section("landmarks", title, markup.paragraph(words), markup.paragraph(markup.escape(str(error)), "note"))]
    route, env_steps = longest_route(landmarks)
    picture = _picture(landmarks, places, names, route, f"the farthest pair: {env_steps:.0f} env steps", [])
    caption = "Grey: landmarks and their shortest edges. Red: the longest of all shortest ways, from blue to green."
    return [markup.section("landmarks", title, markup.paragraph(words), markup.picture(picture, title="Map of landmarks", caption=caption))]


def places_of(landmarks: LandmarkMap, labels: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, str]]:
    """Where to draw landmarks, float64 [M, 2]: at the place that their labels [M, s] say or, without one, on the latents' main directions."""
    columns = position_columns(names)
    if columns is not None:
        return labels[:, columns].astype(np.float64), (names[columns[0]], names[columns[1]])
    scaled = (landmarks.latents / landmarks.std).double().cpu().numpy()
    centred = scaled - scaled.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:, None]  # or the sign would be the library's choice
    return centred @ directions.T, ("first principal component", "second")


def longest_route(landmarks: LandmarkMap) -> tuple[list[int], float]:
    """The longest of the shortest ways to some landmarks that are spread over the map, and its env steps."""
    best: tuple[list[int], float] = ([], -1.0)
    goal = 0
    for _ in range(NUM_FARTHEST):
        ways = landmarks.ways_to(goal)
        start = int(np.where(np.isfinite(ways.env_steps), ways.env_steps, -1).argmax())
        if ways.env_steps[start] > best[1]:
            best = (ways.route(start) or [], float(ways.env_steps[start]))
        goal = start
    return best


def _results(evidence: Evidence) -> list[dict[str, Any]]:
    return [result for result in evidence.results.get("success", []) if "landmarks" in result.get("planner", {})]


def _map_of(run: Path, sha256: str) -> tuple[LandmarkMap, np.ndarray, tuple[str, str]]:
    """The run's map of that hash, and where to draw it; ``DataError`` if it is not there any more."""
    for file in sorted((run / "landmarks").glob("*.safetensors")):
        landmarks = open_map(file)
        if landmarks.sha256 == sha256:
            return landmarks, *places_of(landmarks, *map_labels(file))
    raise DataError(f"the map {sha256[:12]} is not in {str(run / 'landmarks')!r} any more; the evaluation makes it again")


def _picture(
    landmarks: LandmarkMap, places: np.ndarray, names: tuple[str, str], route: list[int], title: str, frames: list[tuple[str, np.ndarray]]
) -> bytes:
    from matplotlib.figure import Figure

    columns = max(1, len(frames))
    figure = Figure(figsize=(max(5.5, 0.95 * columns), 5.2 + (1.4 if frames else 0)), layout="constrained")
    grid = figure.add_gridspec(2 if frames else 1, columns, height_ratios=[5, 1] if frames else [1])
    _draw_map(figure.add_subplot(grid[0, :]), landmarks, places, names, route, title)
    for column, (words, frame) in enumerate(frames):
        axes = figure.add_subplot(grid[1, column])
        axes.imshow(frame)
        axes.set_title(words, fontsize=7)
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _draw_map(axes: Any, landmarks: LandmarkMap, places: np.ndarray, names: tuple[str, str], route: list[int], title: str) -> None:
    from matplotlib.collections import LineCollection

    order = np.lexsort((landmarks.env_steps, landmarks.starts))
    rank = np.arange(len(order)) - np.searchsorted(landmarks.starts[order], landmarks.starts[order])
    drawn = order[rank < EDGES_PER_LANDMARK]
    lines = np.stack([places[landmarks.starts[drawn]], places[landmarks.ends[drawn]]], axis=1)
    axes.add_collection(LineCollection(list(lines), colors=COLOURS["edge"], linewidths=0.6))
    axes.scatter(*places.T, s=6, color=COLOURS["landmark"], zorder=2)
    if route:
        axes.plot(*places[route].T, color=COLOURS["route"], linewidth=2, marker="o", markersize=4, zorder=3)
        for number, name in ((route[0], "start"), (route[-1], "goal")):
            axes.scatter(*places[number], s=60, color=COLOURS[name], zorder=4)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    if not names[0].startswith("first"):
        axes.set_aspect("equal")
