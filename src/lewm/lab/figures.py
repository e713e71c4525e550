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


def draw_sweep(result: dict[str, Any], path: Path) -> None:
    """A PNG: one heat map of success per objective, batch sizes down and weights across; a setting that does not end healthy has a red frame."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = result["objectives"]
    figure, axes = plt.subplots(1, len(found), figsize=(1.5 + 4.2 * len(found), 3.6), squeeze=False, layout="constrained")
    for axis, (name, objective) in zip(axes[0], found.items(), strict=True):
        sizes = sorted({entry["batch_size"] for entry in objective["settings"]})
        factors = sorted({entry["factor"] for entry in objective["settings"]})
        rates = [[float("nan")] * len(factors) for _ in sizes]
        for entry in objective["settings"]:
            row, column = sizes.index(entry["batch_size"]), factors.index(entry["factor"])
            rate = entry["success"]
            rates[row][column] = float("nan") if rate is None else rate
            words = "failed" if rate is None else f"{rate:.2f}"
            axis.text(column, row, words, ha="center", va="center", fontsize=9, color="white" if rate is not None and rate < 0.5 else "black")
            if not entry["is_healthy"]:
                axis.add_patch(
                    plt.Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=OTHER_COLOUR, linewidth=2.5)  # type: ignore[attr-defined]
                )
        image = axis.imshow(rates, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_xticks(range(len(factors)), [f"{factor:.2g}" for factor in factors])
        axis.set_yticks(range(len(sizes)), [str(size) for size in sizes])
        axis.set_xlabel("weight, multiple of its own")
        axis.set_title(f"{name}: healthy {objective['share_healthy']:.0%}, near the best {objective['share_near_best']:.0%}", fontsize=10)
    axes[0][0].set_ylabel("batch size")
    figure.colorbar(image, ax=list(axes[0]), label="success")
    figure.suptitle(f"{result['world']}: success per setting; red frame: does not end healthy", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
