"""Figures as SVG that is set into the page: text stays text, and colours follow the page's light or dark palette.

Matplotlib knows no CSS variables, so figures are drawn in placeholder colours that are replaced in the SVG.
"""

import io
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

INK, MUTED, RULE, MAIN, CONTROL, GOOD, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606", "#070707"
_CSS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    MAIN: "var(--main)",
    CONTROL: "var(--control)",
    GOOD: "var(--good)",
    PAPER: "var(--paper)",
}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lewm",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "grid.color": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.linewidth": 1.6,
}
Curve = tuple[str, Sequence[float], Sequence[float], str]
"""Label, x, y, colour."""
Level = tuple[str, float, Literal["above", "below"]]
"""Label, height, and on which side of the line the label stands."""


def curves(
    name: str,
    lines: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    is_log: bool = False,
    is_log_x: bool = False,
    levels: Sequence[Level] = (),
    bottom: float | None = None,
) -> str:
    """Curves with their names at their ends and horizontal reference levels with their names above them."""
    with _style():
        figure, axes = _panel(title, x_label)
        for _, x, y, color in lines:
            axes.plot(x, y, color=color, solid_capstyle="round", marker="o" if len(x) < 3 else None, markersize=4)
        for label, level, side in levels:
            axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            place = {"xytext": (0, 3), "va": "bottom"} if side == "above" else {"xytext": (0, -3), "va": "top"}
            ends = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
            axes.annotate(label, (1, level), color=MUTED, fontsize=8.5, **ends, **place)
        if is_log:
            axes.set_yscale("log")
            _plain_log_labels(axes.yaxis, axes.get_ylim())
        if is_log_x:
            axes.set_xscale("log")
            _plain_log_labels(axes.xaxis, axes.get_xlim())
        if bottom is not None:
            axes.set_ylim(bottom=bottom)
        for (label, x, y, color), height in zip(lines, _label_heights(axes, lines), strict=True):
            if label:
                axes.annotate(
                    label,
                    (x[-1], y[-1]),
                    xytext=(6, height),
                    textcoords="offset points",
                    color=color,
                    va="center",
                    fontsize=9,
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
                    fontweight="bold",
                    annotation_clip=False,
                )
        return _svg(figure, name, f"{title}: " + "; ".join(f"{label or 'ends at'} {y[-1]:.3g}" for label, _, y, _ in lines))


def scatter(name: str, points: np.ndarray, values: np.ndarray, *, title: str, label: str, reach: float) -> str:
    """Points [n, 2] within ``reach`` of the origin, coloured by a true quantity [n].

    The points are a picture inside the SVG, which keeps the page small.
    """
    from matplotlib.colors import LinearSegmentedColormap

    with _style():
        figure, axes = _panel(title, "", height=3.0)
        axes.grid(visible=False)
        # Viridis without its ends, which vanish on a dark and on a white page.
        colors = LinearSegmentedColormap.from_list("middle", ["#46327e", "#277f8e", "#4ac16d", "#d8c81f"])
        drawn = axes.scatter(points[:, 0], points[:, 1], c=values, cmap=colors, s=5, linewidths=0, alpha=0.85, rasterized=True)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        bar = figure.colorbar(drawn, ax=axes, fraction=0.045, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)
        bar.solids.set_rasterized(True)
        bar.set_label(label, color=MUTED, fontsize=8.5)
        return _svg(figure, name, f"{title}: latents along their two main directions, coloured by {label}")


def intervals(
    name: str, rows: Sequence[tuple[str, dict[str, float], dict[str, dict[str, float] | None], dict[str, float] | None]], *, title: str
) -> str:
    """Rates with their intervals, one line per row (name, own, floors by name, ceiling)."""
    with _style():
        figure, axes = _panel(title, "goals reached", width=5.4, height=0.8 + 0.38 * len(rows))
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        for row, (_, own, floors, ceiling) in enumerate(rows):
            axes.plot([own["low"], own["high"]], [row, row], color=MAIN, linewidth=3, alpha=0.45, solid_capstyle="round")
            axes.plot(own["rate"], row, "o", color=MAIN, markersize=7, zorder=3)
            for marker, floor in zip("xv|", floors.values(), strict=False):
                if floor is not None:
                    axes.plot(floor["rate"], row, marker, color=MUTED, markersize=6, markeredgewidth=1.5)
            if ceiling is not None:
                axes.plot(ceiling["rate"], row, "D", color=GOOD, markersize=10, fillstyle="none", markeredgewidth=1.3, clip_on=False)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        return _svg(figure, name, f"{title}: " + "; ".join(f"{row[0]} {row[1]['rate']:.0%}" for row in rows))


def smoothed(values: Sequence[float], window: int = 9) -> list[float]:
    """A centred running median: follows a noisy loss without its spikes."""
    array = np.asarray(values, dtype=np.float64)
    half = window // 2
    return [float(np.median(array[max(0, index - half) : index + half + 1])) for index in range(len(array))]


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context({**_SETTINGS})  # type: ignore[dict-item]


def _panel(title: str, x_label: str, *, width: float = 3.7, height: float = 2.5) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x_label)
    axes.grid(visible=True, axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    return figure, axes


def _plain_log_labels(axis: Any, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    subdivisions = (1.0, 2.0, 5.0) if limits[1] / limits[0] < 200 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subdivisions))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def _label_heights(axes: Any, lines: Sequence[Curve]) -> list[float]:
    """Offsets in points that keep the names at the ends of the curves apart."""
    ends = [float(axes.transData.transform((x[-1], y[-1]))[1]) * 72 / axes.figure.dpi for _, x, y, _ in lines]
    heights = [0.0] * len(ends)
    taken = float("-inf")
    for index in np.argsort(ends):
        place = max(ends[index], taken + 11)
        heights[index] = place - ends[index]
        taken = place
    return heights


def _svg(figure: Any, name: str, description: str) -> str:
    """The figure as an SVG element whose ids begin with ``name``, so that several fit in one page."""
    from html import escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, dpi=160)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', lambda match: match.group(1) + name + "-", text)
    text = re.sub(
        r"font: [^;\"]*?(bold )?([\d.]+)px[^;\"]*",
        lambda m: f"font-size: {m.group(2)}px" + ("; font-weight: 600" if "700" in m.group(0) or m.group(1) else ""),
        text,
    )
    for placeholder, css in _CSS.items():
        text = text.replace(placeholder, css)
    text = (
        text.replace('xmlns:xlink="http://www.w3.org/1999/xlink" ', "")
        .replace('xmlns="http://www.w3.org/2000/svg" ', "")
        .replace("xlink:href", "href")
    )
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    box = f'style="max-width:{1.5 * float(width):.0f}px" viewBox="0 0 {width} {height}"'
    opening = f'<svg class="chart" {box} role="img" aria-label="{escape(description, quote=True)}">'
    return opening + text[text.index(">") + 1 :]
