"""What the lab found: one row per world and objective over the seeds, and whether a tenth of training already tells.

Axes: n cell.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lewm.evaluation.across_seeds import rate_over_seeds
from lewm.evaluation.intervals import Estimate, separation
from lewm.lab.grid import STRESSED_WORLDS, TUNED_WORLD

FORMAT = 2
HEALTHY, CAPTURED = "healthy", "captured by a nuisance"


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The lab's result, JSON-ready: ``rows`` and ``early_warning`` (other worlds, ``_stressed``: two-room below nuisances, ``_all``: both)."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["cell"]["world"], record["cell"]["objective"]), []).append(record)
    rows = [_row(world, objective, group) for (world, objective), group in groups.items()]
    return {
        "evaluation": "lab",
        "format": FORMAT,
        "rows": rows,
        "early_warning": early_warning([record for record in records if record["cell"]["world"] not in STRESSED_WORLDS]),
        "early_warning_stressed": early_warning([record for record in records if record["cell"]["world"] in STRESSED_WORLDS]),
        "early_warning_all": early_warning(records),
        "first_look": first_look(records),
        "num_cells": len(records),
    }


def early_warning(records: Sequence[dict[str, Any]], *, fixed_on: str = TUNED_WORLD) -> dict[str, Any]:
    """How well the verdict's score at a tenth of training tells the cells that will not plan, over all worlds but the one its thresholds come from.

    A cell does not plan if its success is not above the strongest floor (the interval of the paired difference includes 0, or lies below).
    ``auroc`` is None where all cells plan, or none.
    """
    cells = [record for record in records if "error" not in record and record["cell"]["world"] != fixed_on]
    fails = np.array([record["paired_difference"]["low"] <= 0 for record in cells], bool)
    scores = np.array([record["early"]["score"] for record in cells], np.float64)
    auroc = separation(scores, fails) if fails.any() and not fails.all() else None
    return {"num_cells": len(cells), "num_without_plan": int(fails.sum()), "auroc": auroc}


def first_look(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Over all worlds: how many cells have at a tenth of training the verdict that they end with, and for how many it tells whether they plan.

    It tells if it is healthy where the cell plans, and anything else where it does not. Training looks at no labels, so that a first look cannot
    know a nuisance by its name.
    """
    cells = [record for record in records if "error" not in record]
    return {
        "num_cells": len(cells),
        "num_as_at_the_end": sum(record["early"]["verdict"] == record["verdict"] for record in cells),
        "num_right_about_planning": sum((record["early"]["verdict"] == HEALTHY) == (record["paired_difference"]["low"] > 0) for record in cells),
        "num_right_about_planning_at_the_end": sum((record["verdict"] == HEALTHY) == (record["paired_difference"]["low"] > 0) for record in cells),
    }


def table(result: dict[str, Any]) -> str:
    """The result as plain text."""
    header = (
        "world",
        "objective",
        "verdicts",
        "std",
        "rank",
        "probe R2",
        "imagined R2",
        "nuisance",
        "success [95 %]",
        "floor",
        "per seed",
        "step ms",
        "MB",
        "weights",
    )
    rows = [header]
    is_mixed = len({device for row in result["rows"] for device in row["costs"]}) > 1
    for row in result["rows"]:
        success = row["success"]
        rows.append(
            (
                row["world"],
                row["objective"],
                ", ".join(f"{count} {verdict}" for verdict, count in row["verdicts"].items()) or "-",
                _number(row["std_mean"]),
                _number(row["effective_rank"], 1),
                _number(row["probe_r2"]),
                _number(row["imagined_r2"]),
                _number(row["nuisance_share"]),
                "-" if success is None else f"{success['rate']:.2f} [{success['low']:.2f}, {success['high']:.2f}]",
                _number(row["strongest_floor"]),
                " ".join(f"{rate:.2f}" for rate in row["rate_per_seed"]) or "-",
                _per_device(row["costs"], "step_ms", is_mixed),
                _per_device(row["costs"], "peak_memory_mb", is_mixed),
                str(row["num_tunable_weights"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{row['world']}, {row['objective']}: {error}" for row in result["rows"] for error in row["errors"]]
    lines += [f"{row['world']}, {row['objective']}: {reason}" for row in result["rows"] for reason in row["captures"]]
    lines += _hardware_lines(result["rows"], is_mixed)
    lines.append(f"early warning at a tenth of training, outside {TUNED_WORLD}: {_warning_words(result['early_warning'])}")
    if result["early_warning_stressed"]["num_cells"]:
        lines.append(f"the same, below nuisances: {_warning_words(result['early_warning_stressed'])}")
        lines.append(f"both together: {_warning_words(result['early_warning_all'])}")
    look = result["first_look"]
    lines.append(
        f"verdict at a tenth of training: as at the end in {look['num_as_at_the_end']} of {look['num_cells']} cells; right about "
        f"whether they plan in {look['num_right_about_planning']}, at the end in {look['num_right_about_planning_at_the_end']}"
    )
    return "\n".join(lines)


def _warning_words(warning: dict[str, Any]) -> str:
    auroc = warning["auroc"]
    told = "all or none of them plan" if auroc is None else f"AUROC {auroc['rate']:.2f} [{auroc['low']:.2f}, {auroc['high']:.2f}]"
    return f"{told} ({warning['num_without_plan']} of {warning['num_cells']} cells do not plan)"


def _row(world: str, objective: str, group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole = [record for record in group if "error" not in record]
    verdicts: dict[str, int] = {}
    for record in whole:
        verdicts[record["verdict"]] = verdicts.get(record["verdict"], 0) + 1
    names = ("std_mean", "effective_rank", "probe_r2", "imagined_r2", "nuisance_share")
    devices = dict.fromkeys(record.get("device", "cpu") for record in whole)  # a cell of an older version was measured on a CPU
    success: Estimate | None = rate_over_seeds([np.array(record["outcomes"], bool) for record in whole]) if whole else None
    return {
        "world": world,
        "objective": objective,
        "num_seeds": len(group),
        "verdicts": verdicts,
        **{name: _mean([record.get(name) for record in whole]) for name in names},
        "costs": {device: _costs([record for record in whole if record.get("device", "cpu") == device]) for device in devices},
        "captures": list(dict.fromkeys(reason for record in whole if record["verdict"] == CAPTURED for reason in record["reasons"])),
        "success": success,
        "rate_per_seed": [record["success"]["rate"] for record in whole],
        "strongest_floor": _mean([record["strongest_floor"]["rate"] for record in whole]),
        "num_tunable_weights": whole[0]["num_tunable_weights"] if whole else None,
        "settings": group[0]["settings"],
        "errors": [record["error"] for record in group if "error" in record],
    }


def _costs(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What cells cost on one kind of device: the mean time of a training step, the mean of their peaks of memory, and which hardware it was."""
    means = {name: _mean([record.get(name) for record in group]) for name in ("step_ms", "peak_memory_mb")}
    return means | {"num_cells": len(group), "hardware": sorted({record["hardware"] for record in group if "hardware" in record})}


def _per_device(costs: Mapping[str, dict[str, Any]], name: str, is_mixed: bool) -> str:
    """A cost on each device, which is named where the table has several."""
    return ", ".join(_number(found[name], 0) + (f" ({device})" if is_mixed else "") for device, found in costs.items()) or "-"


def _hardware_lines(rows: Sequence[dict[str, Any]], is_mixed: bool) -> list[str]:
    """On what steps and memory were measured, as far as the cells say so, where that is not a single kind of CPU."""
    names = list(dict.fromkeys((device, name) for row in rows for device, found in row["costs"].items() for name in found["hardware"]))
    if not is_mixed and {device for device, _ in names} <= {"cpu"}:
        return []
    measured = "; ".join(f"{device}: {name}" for device, name in names)
    return [f"step ms and MB (cuda: of the GPU's memory) were measured on {measured or 'cells that do not say'}"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
