"""A result of ``lewm eval why`` as one picture: shares of the gap, reliability, and risk against coverage."""

import io
from pathlib import Path
from typing import Any

from lewm.data.durable import write_atomically
from lewm.errors import ConfigError
from lewm.evaluation.why.coalitions import PARTS

OWN, PERFECT, RANDOM = "#1f5fbf", "#3a8f4d", "#8a8a8a"
BLAMED = "#c2541a"


def check_figure_file(path: Path | None) -> None:
    """Refuse a file that no picture can be written to before any work is done."""
    if path is not None and path.suffix != ".png":
        raise ConfigError(f"--figure writes a PNG: give it a name that ends in .png, got {str(path)!r}")


def draw_why(result: dict[str, Any], path: Path | str) -> None:
    """Write the picture as a PNG file; a panel without a measurement says so."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, draw in zip(panels, (_draw_parts, _draw_reliability, _draw_risk), strict=True):
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, linewidth=0.6)
        draw(panel, result)
    figure.suptitle(
        f"{result['env']}, D = {result['distance_env_steps']}, n = {result['n']}: {result['attribution']['sentence']}", fontsize=9, wrap=True
    )
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png", metadata={"Software": None})
    write_atomically(Path(path), picture.getvalue())


def _draw_parts(panel: Any, result: dict[str, Any]) -> None:
    panel.set_title("who is to blame", fontsize=9)
    parts = result["attribution"]["parts"]
    if not parts:
        _say(panel, "nothing to explain")
        return
    shares = [parts[name]["shapley"] for name in PARTS]
    colors = [BLAMED if name == result["attribution"]["part"] else OWN for name in PARTS]
    rates = [share["rate"] for share in shares]
    whiskers = [[share["rate"] - share["low"] for share in shares], [share["high"] - share["rate"] for share in shares]]
    panel.bar(PARTS, rates, color=colors, yerr=whiskers, ecolor="#333333", capsize=3)
    panel.axhline(0, color="#333333", linewidth=0.8)
    panel.set_ylabel("share of the gap (Shapley)", fontsize=8)


def _draw_reliability(panel: Any, result: dict[str, Any]) -> None:
    panel.set_title("does it know?", fontsize=9)
    if result["reliability"] is None:
        _say(panel, "too few pairs")
        return
    bins = result["reliability"]["bins"]
    solved = [one["solved"] for one in bins]
    whiskers = [[one["rate"] - one["low"] for one in solved], [one["high"] - one["rate"] for one in solved]]
    panel.plot([0, 1], [0, 1], color=PERFECT, linewidth=1, label="perfect")
    panel.errorbar(
        [one["confidence"] for one in bins],
        [one["rate"] for one in solved],
        yerr=whiskers,
        color=OWN,
        marker="o",
        markersize=4,
        capsize=3,
        label=f"calibration error {result['reliability']['ece']:.3f}",
    )
    panel.set_xlabel("confidence", fontsize=8)
    panel.set_ylabel("solved", fontsize=8)
    panel.set_xlim(-0.03, 1.03)
    panel.set_ylim(-0.03, 1.03)
    panel.legend(fontsize=7, frameon=False)


def _draw_risk(panel: Any, result: dict[str, Any]) -> None:
    panel.set_title("if it may abstain", fontsize=9)
    abstention = result["abstention"]
    if abstention is None:
        _say(panel, "nothing to choose")
        return
    panel.plot(abstention["coverage"], abstention["risk"], color=OWN, label=f"own confidence, AURC {abstention['aurc']:.3f}")
    panel.axhline(abstention["aurc_random"], color=RANDOM, linewidth=1, label=f"at random, {abstention['aurc_random']:.3f}")
    panel.set_xlabel("share of plans acted on", fontsize=8)
    panel.set_ylabel("share of them that fail", fontsize=8)
    panel.set_xlim(0, 1.02)
    panel.set_ylim(-0.03, 1.03)
    panel.legend(fontsize=7, frameon=False)


def _say(panel: Any, text: str) -> None:
    panel.set_axis_off()
    panel.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, transform=panel.transAxes)
