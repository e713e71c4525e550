"""A comparison of methods in one picture."""

from pathlib import Path
from typing import Any

from lewm.run_directory import check_writable

COLOURS = ("#2b7bba", "#c44e52", "#55a868", "#8172b3", "#ccb974", "#64b5cd")
FLOOR_COLOUR = "#888888"


def draw_methods(compared: dict[str, Any], path: Path) -> None:
    """Write a PNG: a panel per distance and stratum, a dot with interval per method, a small dot per training seed, a line at the strongest floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    check_writable(path)
    panels = [
        (f"{one['env']}, D = {distance}, {stratum}", found["methods"])
        for one in compared["comparisons"]
        for distance, strata in one["by_distance"].items()
        for stratum, found in strata.items()
    ]
    names = list(compared["methods"])
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (2 + 4.2 * columns, (1.4 + 0.4 * len(names)) * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, methods) in zip(axes.flat, panels, strict=False):
        for place, fields in enumerate(methods.values()):
            success, colour = fields["success"], COLOURS[place % len(COLOURS)]
            axis.plot([success["low"], success["high"]], [place, place], color=colour, linewidth=2)
            axis.scatter([success["rate"]], [place], s=45, color=colour, zorder=3)
            if fields["num_seeds"] > 1:
                axis.scatter(fields["rate_per_seed"], [place + 0.22] * fields["num_seeds"], s=9, color=colour)
            axis.annotate(_words(fields), (0, place), xytext=(2, -11), textcoords="offset points", fontsize=7, color="#444444")
        axis.axvline(max(fields["strongest_floor"]["rate"] for fields in methods.values()), color=FLOOR_COLOUR, linestyle="--", linewidth=1)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlim(-0.02, 1.02)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("success")
    figure.suptitle("rate with 95 % interval, small dots: training seeds, dashed: strongest blind policy", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _words(fields: dict[str, Any]) -> str:
    n = f"n = {fields['n']}" + (f" x {fields['num_seeds']} seeds" if fields["num_seeds"] > 1 else "")
    difference = fields.get("difference")
    if difference is None:
        return n
    return f"{n}; {difference['rate']:+.2f} [{difference['low']:+.2f}, {difference['high']:+.2f}] to the first"
