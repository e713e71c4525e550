"""What the lab found: one row per world and objective over the seeds, and whether a tenth of training already tells.

Axes: n cell.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lewm.evaluation.across_seeds import rate_over_seeds
from lewm.evaluation.intervals import Estimate, separation
from lewm.lab.grid import TUNED_WORLD

FORMAT = 1


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The lab's result, JSON-ready: ``rows`` and ``early_warning``."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["cell"]["world"], record["cell"]["objective"]), []).append(record)
    rows = [_row(world, objective, group) for (world, objective), group in groups.items()]
    return {"evaluation": "lab", "format": FORMAT, "rows": rows, "early_warning": early_warning(records), "num_cells": len(records)}


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
        "success [95 %]",
        "floor",
        "per seed",
        "step ms",
        "MB",
        "weights",
    )
    rows = [header]
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
                "-" if success is None else f"{success['rate']:.2f} [{success['low']:.2f}, {success['high']:.2f}]",
                _number(row["strongest_floor"]),
                " ".join(f"{rate:.2f}" for rate in row["rate_per_seed"]) or "-",
                _number(row["step_ms"], 0),
                _number(row["peak_memory_mb"], 0),
                str(row["num_tunable_weights"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{row['world']}, {row['objective']}: {error}" for row in result["rows"] for error in row["errors"]]
    warning = result["early_warning"]
    auroc = warning["auroc"]
    told = "all or none of them plan" if auroc is None else f"AUROC {auroc['rate']:.2f} [{auroc['low']:.2f}, {auroc['high']:.2f}]"
    counts = f"{warning['num_without_plan']} of {warning['num_cells']} cells do not plan"
    lines.append(f"early warning at a tenth of training, outside {TUNED_WORLD}: {told} ({counts})")
    return "\n".join(lines)


def _row(world: str, objective: str, group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    whole = [record for record in group if "error" not in record]
    verdicts: dict[str, int] = {}
    for record in whole:
        verdicts[record["verdict"]] = verdicts.get(record["verdict"], 0) + 1
    names = ("std_mean", "effective_rank", "probe_r2", "imagined_r2", "step_ms", "peak_memory_mb")
    success: Estimate | None = rate_over_seeds([np.array(record["outcomes"], bool) for record in whole]) if whole else None
    return {
        "world": world,
        "objective": objective,
        "num_seeds": len(group),
        "verdicts": verdicts,
        **{name: _mean([record[name] for record in whole]) for name in names},
        "success": success,
        "rate_per_seed": [record["success"]["rate"] for record in whole],
        "strongest_floor": _mean([record["strongest_floor"]["rate"] for record in whole]),
        "num_tunable_weights": whole[0]["num_tunable_weights"] if whole else None,
        "settings": group[0]["settings"],
        "errors": [record["error"] for record in group if "error" in record],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
