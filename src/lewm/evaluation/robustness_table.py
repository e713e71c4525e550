"""A result of ``lewm eval robustness`` as plain text."""

from collections.abc import Sequence
from typing import Any

from lewm.evaluation.results import settings_words
from lewm.evaluation.robustness import DIFFERENCE


def robustness_table(result: dict[str, Any]) -> str:
    """One line per condition, distance and stratum, then what is known of the latents, and what is missing."""
    lines = _success_lines(result) if result.get("unperturbed") else [f"no success: {result['no_success']}"]
    probe = result["probe"]
    lines += ["", *_probe_lines(probe)] if probe else ["no probe: give --data DIR to see what corrupted frames do to the latents"]
    return "\n".join(lines)


def _success_lines(result: dict[str, Any]) -> list[str]:
    header = (
        "condition",
        "severity",
        "goals",
        "D",
        "stratum",
        "n",
        "success [95 %]",
        "expert",
        "strongest floor",
        "- floor [95 %]",
        "- unperturbed [95 %]",
    )
    rows = [header, *_condition_rows("unperturbed", "", "", result["unperturbed"])]
    for condition in result["conditions"]:
        rows += _condition_rows(condition["name"], f"{condition['severity']:g}", condition["goals"], condition)
    unseen = result["unseen"]
    if unseen:
        rows += _condition_rows(f"unseen {unseen['name']}", "", "same", unseen)
    lines = _columns(rows)
    if unseen:
        seen, new = (_bands(unseen[name]) for name in ("seen", "unseen"))
        lines.append(f"{unseen['name']} ({unseen['unit']}): trained on {seen}, unseen {new}, at least {unseen['margin']:g} apart")
    left_out = {condition["name"]: condition["num_left_out"] for condition in result["conditions"] if condition["num_left_out"]}
    lines += [f"{name}: up to {count} pairs left out, not legal in that world" for name, count in left_out.items()]
    protocol = result["protocol"]
    name = f"{protocol['name']} v{protocol['version']}"
    return [*lines, f"{result['env']}, protocol {name}, manifest {protocol['manifest_sha256'][:12]}{settings_words(result['manifest'])}"]


def _condition_rows(name: str, severity: str, goals: str, fields: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for distance, entry in fields["by_distance"].items():
        for stratum, found in entry["strata"].items():
            floor, change = found["strongest_floor"], found.get(DIFFERENCE)
            expert = "-" if found["expert"] is None else f"{found['expert']['rate']:.2f}"
            success = (str(found["n"]), _interval(found["success"]), expert)
            cells = (*success, f"{floor['name']} {_interval(floor)}", _difference(found["paired_difference"]))
            rows.append((name, severity, goals, distance, stratum, *cells, "" if change is None else _difference(change)))
    return rows


def _probe_lines(probe: dict[str, Any]) -> list[str]:
    clean = probe["clean"]
    labels = [name for name, score in (clean["labels"] or {}).items() if not isinstance(score, str)]
    rows = [("latents of held-out frames", "severity", *(f"R^2 {name}" for name in labels), "displacement", "same neighbours")]
    for condition in ({"name": "clean", "severity": 0, **clean}, *probe["conditions"]):
        scores = [condition["labels"][name] for name in labels]
        read = tuple(f"{score['r2']:.3f} [{score['r2_low']:.3f}, {score['r2_high']:.3f}]" for score in scores)
        looks = (f"{condition['displacement']:.3f}", f"{condition['neighbour_agreement']:.3f}")
        rows.append((condition["name"], f"{condition['severity']:g}", *read, *looks))
    chance = probe["chance_neighbour_agreement"]
    counts = f"{probe['num_heldout_frames']} frames of {probe['num_heldout_episodes']} held-out episodes"
    notes = [
        f"{counts}; the probe was fitted on clean latents; R^2 of the mean label is 0" if labels else counts,
        "displacement: in units of the latents' spread, 1.41 between unrelated frames",
        f"same neighbours: of {probe['num_neighbours']}, by chance {chance:.3f}",
    ]
    if not probe.get("is_training_dataset", True):
        notes.append("another dataset than the run was trained on")
    return [*_columns(rows), *notes, *([probe["missing"]] if probe["missing"] else [])]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['rate']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _difference(difference: dict[str, Any]) -> str:
    return f"{difference['rate']:+.2f} [{difference['low']:+.2f}, {difference['high']:+.2f}] p={difference['mcnemar_p']:.1g}"


def _bands(bands: Sequence[Sequence[float]]) -> str:
    return " and ".join(f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in bands)
