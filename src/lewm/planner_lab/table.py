"""The comparison as text and as Markdown: rates, differences to the baseline, and what is not there."""

from collections.abc import Sequence
from typing import Any

from lewm.evaluation.outcomes import FLOORS
from lewm.evaluation.results import settings_words

NOT_MEASURED = "not measured yet"


def text_tables(result: dict[str, Any]) -> str:
    """For the console."""
    parts = [_aligned(_success_rows(result))]
    for title, rows in _smaller_tables(result):
        parts += [f"{title}:", _aligned(rows)]
    return "\n".join([*parts, *_notes(result)])


def markdown_tables(result: dict[str, Any]) -> str:
    """For documents; published figures, which are not comparable, are in italics."""
    success = [[*row[:-1], f"*{row[-1]}*" if row[-1] else ""] for row in _success_rows(result)]
    parts = [_markdown(success)]
    for title, rows in _smaller_tables(result):
        parts += [f"{title[0].upper()}{title[1:]}:".replace(result["baseline"], f"`{result['baseline']}`"), _markdown(rows)]
    return "\n\n".join([*parts, *_notes(result)]) + "\n"


def _success_rows(result: dict[str, Any]) -> list[list[str]]:
    distances = [str(distance) for distance in result["distances"]]
    ends = ["hallucinations", "n x seeds", "ms/decision p50 / p95", "ms/env step", "published (their protocol, budget)"]
    rows = [["method", "kind", "futures", *(f"D = {distance}" for distance in distances), *ends]]
    for row in result["rows"]:
        latency = row["latency"] or {}
        timed = "p50_ms" in latency
        rows.append(
            [
                row["method"],
                row["kind"],
                "-" if row["futures_per_plan"] is None else str(row["futures_per_plan"]),
                *(_interval(row["by_distance"].get(distance, {}).get("success")) for distance in distances),
                _hallucinations([row["by_distance"].get(distance, {}) for distance in distances]),
                _sizes(list(row["by_distance"].values())),
                f"{latency['p50_ms']:.1f} / {latency['p95_ms']:.1f}" if timed else "-",
                f"{latency['ms_per_env_step']:.1f}" if timed else "-",
                row["published"],
            ]
        )
    return rows


def _smaller_tables(result: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Title and rows of what stands below the success; hallucinations only where a plan was watched."""
    tables = [(f"success minus that of {result['baseline']}", _difference_rows(result))]
    hallucinations = _hallucination_rows(result)
    return [*tables, (f"hallucinations: {result['hallucination']}", hallucinations)] if len(hallucinations) > 1 else tables


def _hallucination_rows(result: dict[str, Any]) -> list[list[str]]:
    distances = [str(distance) for distance in result["distances"]]
    rows = [["method", *(f"D = {distance}" for distance in distances)]]
    for row in result["rows"]:
        found = [row["by_distance"].get(distance, {}) for distance in distances]
        if any(fields.get("hallucination") for fields in found):
            rows.append([row["method"], *(_hallucination(fields) for fields in found)])
    return rows


def _hallucination(fields: dict[str, Any]) -> str:
    """Rate, interval and size, and of how many runs where not all were watched; ``-`` where none was."""
    found = fields.get("hallucination")
    if not found:
        return "-"
    runs = "" if found["num_seeds"] == fields["num_seeds"] else f" ({found['num_seeds']} of {fields['num_seeds']} runs)"
    return f"n=0{runs}" if found["rate"] is None else f"{_interval(found['rate'])} n={found['n']}{runs}"


def _difference_rows(result: dict[str, Any]) -> list[list[str]]:
    distances = [str(distance) for distance in result["distances"]]
    rows = [["method", *(f"D = {distance}" for distance in distances)]]
    for row in result["rows"]:
        if row["method"] in FLOORS or row["method"] == result["baseline"]:
            continue
        rows.append([row["method"], *(_difference(row["by_distance"].get(distance, {}).get("difference")) for distance in distances)])
    return rows


def _notes(result: dict[str, Any]) -> list[str]:
    pairs = f"{result['stratum']} pairs of protocol heldout{settings_words(result)}"
    lines = [f"{result['env']}, {pairs}, budget 2 D, seed {result['seed']}; runs {', '.join(result['runs'])}"]
    hashes = [f"D = {distance} {sha256[:12]}" for distance, sha256 in sorted(result["manifests"].items(), key=lambda item: int(item[0]))]
    lines += [f"pairs (SHA-256 of the manifest): {', '.join(hashes)}"] if hashes else []
    conditions = result["latency_conditions"]
    if conditions is not None:
        load = conditions["load_average"]
        where = "one thread of" if conditions["device"] == "cpu" else "the device"
        names = "; ".join(conditions["hardware"])
        lines.append(f"decisions timed alone on {where} {names}, load average {load['low']:g} to {load['high']:g}")
    lines += [f"left out: {name}: {reason}" for name, reason in result["left_out"].items()]
    lines += [f"failed: {name}: {reason}" for name, reason in result["errors"].items()]
    waiting = [name for name in result["not_measured"] if name not in result["errors"]]
    if waiting:
        lines.append(f"{len(waiting)} cells are {NOT_MEASURED}: {', '.join(waiting)}")
    return lines


def _interval(estimate: dict[str, float] | None) -> str:
    return NOT_MEASURED if estimate is None else f"{estimate['rate']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _difference(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "-"
    p = "" if difference["p"] is None else f" p={difference['p']:.2g}"
    return f"{difference['rate']:+.2f} [{difference['low']:+.2f}, {difference['high']:+.2f}]{p}"


def _hallucinations(by_distance: Sequence[dict[str, Any]]) -> str:
    """The rates of all distances, ``0.00 / 0.04``; ``-`` where no plan was watched or none imagined to arrive."""
    rates = [(fields.get("hallucination") or {}).get("rate") for fields in by_distance]
    return " / ".join("-" if rate is None else f"{rate['rate']:.2f}" for rate in rates) if any(rates) else "-"


def _sizes(by_distance: Sequence[dict[str, Any]]) -> str:
    """``100 x 3``; where distances differ, each of them."""
    sizes = [f"{fields['n']} x {fields['num_seeds']}" if fields["num_seeds"] > 1 else str(fields["n"]) for fields in by_distance]
    return ", ".join(dict.fromkeys(sizes)) if len(set(sizes)) == 1 else ", ".join(sizes)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
