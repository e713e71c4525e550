"""The lab in one picture: success and spread of every objective, world by world."""

from pathlib import Path
from typing import Any

HEALTHY_COLOUR, OTHER_COLOUR, FLOOR_COLOUR = "#2b7bba", "#c44e52", "#888888"


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG: one panel per world, a bar per objective with its interval, a dot per seed, a line at the strongest floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    worlds = list(dict.fromkeys(row["world"] for row in result["rows"]))
    figure, axes = plt.subplots(1, len(worlds), figsize=(1.5 + 3.6 * len(worlds), 3.6), sharey=True, squeeze=False)
    for axis, world in zip(axes[0], worlds, strict=True):
        rows = [row for row in result["rows"] if row["world"] == world and row["success"] is not None]
        for place, row in enumerate(rows):
            success = row["success"]
            is_healthy = set(row["verdicts"]) == {"healthy"}
            axis.bar(place, success["rate"], color=HEALTHY_COLOUR if is_healthy else OTHER_COLOUR, width=0.7)
            axis.plot([place, place], [success["low"], success["high"]], color="black", linewidth=1)
            axis.scatter([place] * len(row["rate_per_seed"]), row["rate_per_seed"], s=10, color="black", zorder=3)
        if rows:
            axis.axhline(max(row["strongest_floor"] for row in rows), color=FLOOR_COLOUR, linestyle="--", linewidth=1)
        axis.set_xticks(range(len(rows)), [row["objective"] for row in rows], rotation=60, ha="right", fontsize=8)
        axis.set_title(world, fontsize=10)
        axis.set_ylim(0, 1)
    axes[0][0].set_ylabel("success [95 %], a dot per seed")
    figure.suptitle("blue: healthy on every seed, red: not; dashed: strongest floor", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
