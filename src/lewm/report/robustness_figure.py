"""A result of ``lewm eval robustness`` as one picture: success and probe against severity, a panel per perturbation and corruption."""

import io
import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lewm.data.durable import write_atomically
from lewm.errors import ConfigError

NUM_COLUMNS = 4
PANEL_INCHES = (3.1, 2.5)
SAME, CLEAN, FLOOR, PROBE = "#1f5fbf", "#8fb4e8", "#8a8a8a", "#c2541a"
GOAL_STYLES = {"same": (SAME, "-", "success, goal frames the same"), "clean": (CLEAN, "--", "success, goal frames clean")}


def draw_robustness(result: dict[str, Any], path: Path | str) -> None:
    """Write the picture as a PNG file. Success has its 95 % interval and the strongest floor beside it; an R^2 below 0 is drawn at 0.

    Where labels are missing the panels show the share of neighbours that stay the same. ``ConfigError`` for a result without conditions.
    """
    names = _names(result)
    if not names:
        raise ConfigError("a result without perturbations and corruptions has nothing to draw; ask for at least one")
    columns = min(NUM_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(columns * PANEL_INCHES[0], rows * PANEL_INCHES[1] + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for panel, name in zip(panels.flat, names, strict=False):
        _draw_panel(panel, result, name)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    handles = {label: handle for panel in panels.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(_title(result), fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png", metadata={"Software": None})
    write_atomically(Path(path), picture.getvalue())


def _names(result: dict[str, Any]) -> list[str]:
    """Perturbations, then corruptions, in the order of the result."""
    probed = result["probe"]["conditions"] if result["probe"] else []
    return list(dict.fromkeys(entry["name"] for entry in (*result.get("conditions", []), *probed)))


def _title(result: dict[str, Any]) -> str:
    if not result.get("unperturbed"):
        return "latents of held-out frames; recordings without a simulator"
    first = result["unperturbed"]["by_distance"][str(result["manifest"]["distances"][0])]
    return f"{result['env']}, {first['stratum']}, D = {result['manifest']['distances'][0]}, n = {first['n']}"


def _draw_panel(panel: Axes, result: dict[str, Any], name: str) -> None:
    panel.set_title(name, fontsize=9)
    panel.set_ylim(-0.03, 1.03)
    panel.set_xlim(0, 1.02)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.set_xlabel("severity", fontsize=8)
    for goals, (color, style, label) in GOAL_STYLES.items():
        entries = [entry for entry in result.get("conditions", []) if (entry["name"], entry["goals"]) == (name, goals)]
        if entries:
            _draw_success(panel, [result["unperturbed"], *entries], color, style, label, with_floor=goals == "same")
    probe = result["probe"]
    entries = [] if not probe else [entry for entry in probe["conditions"] if entry["name"] == name]
    if entries:
        heights = [_probe_height(entry) for entry in (probe["clean"], *entries)]
        label = "probe, mean R^2 of labels" if probe["clean"]["mean_r2"] is not None else "same neighbours"
        panel.plot([0, *(entry["severity"] for entry in entries)], heights, color=PROBE, linestyle=":", marker="s", markersize=3, label=label)


def _draw_success(panel: Axes, entries: list[dict[str, Any]], color: str, style: str, label: str, *, with_floor: bool) -> None:
    severities = [entry.get("severity", 0.0) for entry in entries]
    success = [entry["success"] for entry in entries]
    panel.fill_between(severities, [one["low"] for one in success], [one["high"] for one in success], color=color, alpha=0.15, linewidth=0)
    panel.plot(severities, [one["rate"] for one in success], color=color, linestyle=style, marker="o", markersize=3, label=label)
    if with_floor:
        panel.plot(severities, [entry["strongest_floor"]["rate"] for entry in entries], color=FLOOR, linewidth=1, label="strongest floor")


def _probe_height(entry: dict[str, Any]) -> float:
    return float(entry["neighbour_agreement"] if entry["mean_r2"] is None else max(0.0, entry["mean_r2"]))
