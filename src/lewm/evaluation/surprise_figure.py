"""Pictures of surprise over time: every violation beside normal clips, or one recording with its most surprising moments."""

from pathlib import Path
from typing import Any

import numpy as np

from lewm.data.formats.store import open_store
from lewm.errors import ConfigError
from lewm.evaluation.surprise_timeline import observed

NORMAL_COLOUR, VIOLATED_COLOUR, FLOOR_COLOUR = "#888888", "#c44e52", "#2b7bba"
SUFFIXES = (".png", ".svg", ".pdf")
NUM_COLUMNS = 3
LOWEST = -4.0
"""Panels end here: the floor of a world that stands still lies far below."""


def check_figure_file(path: Path | None) -> None:
    """Refuse a file that no picture can be written to before any work is done."""
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a figure is a file that ends in {', '.join(SUFFIXES)}, got {str(path)!r}")


def draw_surprise(result: dict[str, Any], data: Path, path: Path) -> None:
    """Draw a result of ``lewm eval surprise``; frames of an episode are read from the dataset again."""
    if "episode" not in result:
        draw_violations(result, path)
        return
    store, block = open_store(data), result["action_block"]
    moments = []
    for end in result["most_surprising_env_steps"]:
        frames = observed(store, result["episode"], np.array([end - block, end])).frames
        moments.append((end, frames[0, 0], frames[1, 0]))
    draw_episode(result, moments, path)


def draw_violations(result: dict[str, Any], path: Path) -> None:
    """One panel per violation, at its largest size: medians and the middle 80 % of clips, the violation's step, the alarm, and the floor, thin."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    timelines, steps = result["timelines"], np.arange(result["num_model_steps"])
    num_rows = max(1, -(-len(timelines) // NUM_COLUMNS))
    figure, axes = plt.subplots(num_rows, NUM_COLUMNS, figsize=(10.5, 2.6 * num_rows), sharex=True, squeeze=False)
    for axis, (name, timeline) in zip(axes.flat, timelines.items(), strict=False):
        changed = timeline["violated"]
        for line, colour, label in ((timeline["normal"], NORMAL_COLOUR, "normal clips"), (changed, VIOLATED_COLOUR, "with the violation")):
            axis.fill_between(steps, line["low"], line["high"], color=colour, alpha=0.2, linewidth=0)
            axis.plot(steps, line["median"], color=colour, marker="o", markersize=3, label=label)
        axis.plot(steps, changed["persistence"], color=FLOOR_COLOUR, linewidth=0.8, label="floor: latent persistence")
        axis.axhline(result["threshold"], color="black", linestyle="--", linewidth=0.8, label="alarm")
        axis.axvline(result["violation_step"], color="black", linestyle=":", linewidth=0.8)
        axis.set_ylim(bottom=max(LOWEST, axis.get_ylim()[0]))
        axis.set_title(f"{name}, size {timeline['size']}", fontsize=10)
        axis.tick_params(labelsize=8)
    for axis in list(axes.flat)[len(timelines) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("surprise [std of normal]", fontsize=8)
    figure.supxlabel("model step; dotted: the step of the violation", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    _save(figure, path)


def draw_episode(result: dict[str, Any], moments: list[tuple[int, np.ndarray, np.ndarray]], path: Path) -> None:
    """Surprise of every step of an episode with its alarms; below, frames before and after the most surprising steps.

    ``moments``: the env step after which each of them ended, and the two frames uint8 [Y, X, 3].
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = result["steps"]
    figure = plt.figure(figsize=(10.5, 5.2))
    grid = figure.add_gridspec(2, max(1, len(moments)), height_ratios=(2, 1))
    axis = figure.add_subplot(grid[0, :])
    ends, surprise = np.array(steps["end_env_step"]), np.array(steps["surprise"])
    axis.plot(ends, surprise, color=VIOLATED_COLOUR, label="surprise")
    axis.plot(ends, steps["persistence"], color=FLOOR_COLOUR, linewidth=0.8, label="floor: latent persistence")
    axis.axhline(result["threshold"], color="black", linestyle="--", linewidth=0.8, label="alarm")
    is_alarm = np.isin(ends, result["alarms_env_steps"])
    axis.scatter(ends[is_alarm], surprise[is_alarm], color="black", s=14, zorder=3)
    axis.set_ylabel("surprise [std of normal]")
    axis.set_xlabel("env step")
    axis.set_title(f"episode {result['episode']}; normal is what {result['calibrated_on']} show{'s' if 'itself' in result['calibrated_on'] else ''}")
    axis.legend(fontsize=8, frameon=False, ncols=3)
    for column, (end, before, after) in enumerate(moments):
        picture = figure.add_subplot(grid[1, column])
        gap = np.full((before.shape[0], max(1, before.shape[1] // 32), 3), 255, np.uint8)
        picture.imshow(np.concatenate([before, gap, after], axis=1))
        picture.set_title(f"env steps {end - result['action_block']} and {end}", fontsize=8)
        picture.axis("off")
    figure.tight_layout()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
