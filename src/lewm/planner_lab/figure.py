"""Success against what acting costs, in one picture."""

from pathlib import Path
from typing import Any

from lewm.evaluation.outcomes import FLOORS
from lewm.planner_lab.methods import ACTING, FLOOR, POLICY, SEARCH, SEARCH_WITH_HELP
from lewm.run_directory import check_writable

MARKERS = {FLOOR: "x", SEARCH: "o", SEARCH_WITH_HELP: "s", ACTING: "^", POLICY: "D"}
LINES = {"expert": "-", "search": "-."}
"""Ceilings that are drawn as lines."""
FLOOR_COLOUR, CEILING_COLOUR = "#888888", "#55a868"
COLOURS = [index for index in range(20) if index not in (14, 15)]
"""Of matplotlib's ``tab20``, without its greys, which are for floors."""


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG: a panel per distance, success with its interval over milliseconds per env step, floors and ceilings as lines.

    Methods whose decisions were not timed are not in it.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    check_writable(path)
    distances = [str(distance) for distance in result["distances"]]
    timed = [row for row in result["rows"] if row["latency"] is not None and "ms_per_env_step" in row["latency"]]
    columns = min(2, len(distances))
    rows = -(-len(distances) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.4 * columns + 2.2, 3.4 * rows + 0.6), squeeze=False, sharex=True, layout="constrained")
    for axis in axes.flat[len(distances) :]:
        axis.set_axis_off()
    colours = plt.get_cmap("tab20")
    for axis, distance in zip(axes.flat, distances, strict=False):
        for number, row in enumerate(timed):
            if distance not in row["by_distance"]:
                continue
            success, cost = row["by_distance"][distance]["success"], row["latency"]["ms_per_env_step"]
            colour = FLOOR_COLOUR if row["kind"] == FLOOR else colours(COLOURS[number % len(COLOURS)])
            axis.plot([cost, cost], [success["low"], success["high"]], color=colour, linewidth=1.2)
            axis.scatter([cost], [success["rate"]], marker=MARKERS[row["kind"]], s=42, color=colour, zorder=3, label=row["method"])
        _draw_lines(axis, result, distance)
        axis.set_xscale("log")
        axis.set_ylim(-0.02, 1.04)
        axis.set_title(f"D = {distance}, budget {2 * int(distance)} env steps", fontsize=10)
        axis.grid(alpha=0.25)
    device = (result["latency_conditions"] or {}).get("device", "cpu")
    for axis in axes[-1]:
        axis.set_xlabel(f"ms per env step, one episode, {'one thread' if device == 'cpu' else device}")
    for line in axes:
        line[0].set_ylabel("success [95 %]")
    entries = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="outside right center", fontsize=8)
    figure.suptitle(f"{result['env']}, {result['stratum']}: circles search, squares search + head, triangles heads", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_lines(axis: Any, result: dict[str, Any], distance: str) -> None:
    """The strongest blind floor and the ceilings, which have no price."""
    known = {row["method"]: row["by_distance"][distance]["success"]["rate"] for row in result["rows"] if distance in row["by_distance"]}
    floors = {name: known[name] for name in FLOORS if name in known}
    if floors:
        axis.axhline(max(floors.values()), color=FLOOR_COLOUR, linestyle="--", linewidth=1, label="strongest blind floor")
    for name, style in LINES.items():
        if name in known:
            axis.axhline(known[name], color=CEILING_COLOUR, linestyle=style, linewidth=1, label=f"ceiling: {name}")
