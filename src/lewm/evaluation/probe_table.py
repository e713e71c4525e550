"""The result of ``lewm eval probe`` as plain text."""

from collections.abc import Sequence
from typing import Any

ERROR_COLUMNS = {
    "position_error": ("position error, median", "{median_px:.1f} px"),
    "angle_error": ("angle error, median", "{median_rad:.3f} rad"),
}
"""Joint errors that a probe reports beside its labels, where the world has them: title and cell."""


def probe_table(result: dict[str, Any]) -> str:
    """A row per way of reading the labels, a column per label; velocities come last, marked as the control that they are."""
    velocities = result.get("velocity_labels", [])
    labels = sorted(result["labels"], key=lambda name: name in velocities)  # a group of their own, at the end
    errors = [name for name in ERROR_COLUMNS if result.get(name) is not None]
    control = result.get("velocity_control")
    mark = f" ({control['kind']} control)" if control else ""
    rows = [("", *(name + mark if name in velocities else name for name in labels), *(ERROR_COLUMNS[name][0] for name in errors))]
    rows.append(_probe_row("latents of held-out frames", result, labels, errors))
    rows.append(("  95 % interval of R^2", *(_r2_interval(result["labels"][name]) for name in labels), *("" for _ in errors)))
    if "mlp" in result:
        rows.append(_probe_row("the same, small network", result["mlp"], labels, errors))
    rows += [_probe_row(f"imagined {entry['model_steps']} model steps ahead", entry, labels, errors) for entry in result["imagined"]]
    rows += [_probe_row(f"floor: {name}", floor, labels, errors) for name, floor in result.get("floors", {}).items()]
    for name, ceiling in result.get("ceilings", {}).items():
        rows.append(_probe_row(f"ceiling: {name}, {ceiling['num_steps']:,} steps", ceiling, labels, errors))
    lines = ["linear probe, R^2 (RMSE) per label", *columns(rows), *_angle_note(result)]
    lines += _velocity_note(control, tuple(result["stack_offsets_env_steps"])) if control else []
    if any(ceiling["is_still_falling"] for ceiling in result.get("ceilings", {}).values()):
        lines.append("the supervised ceiling was still improving at its last step and is lower than it could be: raise --supervised-steps")
    return "\n".join(lines)


def _probe_row(title: str, scores: dict[str, Any], labels: Sequence[str], errors: Sequence[str]) -> tuple[str, ...]:
    by_label = [scores["labels"][name] for name in labels]
    cells = [score if isinstance(score, str) else f"{score['r2']:.4f} ({score['rmse']:.2f})" for score in by_label]
    return (title, *cells, *(ERROR_COLUMNS[name][1].format(**scores[name]) for name in errors))


def _r2_interval(score: Any) -> str:
    if isinstance(score, str):
        return ""
    return "one episode: none" if score["r2_low"] is None else f"[{score['r2_low']:.4f}, {score['r2_high']:.4f}]"


def _angle_note(result: dict[str, Any]) -> list[str]:
    angles = result.get("angle_labels", {})
    return [f"angles are read as their sine and cosine: {', '.join(angles)}"] if angles else []


def _velocity_note(control: dict[str, Any], offsets: tuple[int, ...]) -> list[str]:
    known = "; ".join(f"{name} {score['r2']:.4f} {_r2_interval(score)}" for name, score in control["labels"].items())
    if control["kind"] == "positive":
        return [f"positive control: the frames of env steps {offsets} are stacked, which show velocities. R^2: {known}"]
    return [f"negative control: one frame (data.stack_offsets_env_steps = {offsets}) shows no velocity, so R^2 should be near 0. R^2: {known}"]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
