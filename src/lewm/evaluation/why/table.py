"""A result of ``lewm eval why`` as plain text."""

from typing import Any

from lewm.evaluation.results import settings_words


def why_table(result: dict[str, Any]) -> str:
    """The sentence first, then each part, each coalition, and what the agent's own promises are worth."""
    lines = [_head(result), result["attribution"]["sentence"]]
    lines += _parts(result) + _coalitions(result) + _trust(result)
    protocol, definitions = result["protocol"], result["definitions"]
    lines += [
        f"cost's oracle: {definitions['cost_oracle']}",
        f"encoder's oracle: true labels; they explain {100 * definitions['latent_variance_explained_by_labels']:.0f} % of the latents' variance"
        + (f" in {definitions['explained_in']}" if "explained_in" in definitions else ""),
        f"{result['env']}, protocol {protocol['name']} v{protocol['version']}, manifest {protocol['manifest_sha256'][:12]}"
        f"{settings_words(result['manifest'])}",
    ]
    return "\n".join(lines)


def _head(result: dict[str, Any]) -> str:
    broken = "" if result["broken"] is None else f", with the {result['broken']} broken on purpose"
    return f"D = {result['distance_env_steps']}: {_interval(result['success'])} of n = {result['n']} pairs solved{broken}"


def _parts(result: dict[str, Any]) -> list[str]:
    """One line per part: its share of the gap, and what it adds alone and last."""
    parts, gap = result["attribution"]["parts"], result["attribution"]["gap"]
    if not parts:
        return []
    rows: list[tuple[str, ...]] = [("part", "Shapley value [95 %]", "swapped alone", "swapped last")]
    rows += [(name, *(_signed(entry[column]) for column in ("shapley", "alone", "last"))) for name, entry in parts.items()]
    rows.append(("all four", _signed(gap), "", ""))
    return [*_aligned(rows), f"differences of success on the same {result['num_swapped_pairs']} pairs, paired bootstrap"]


def _coalitions(result: dict[str, Any]) -> list[str]:
    if not result["values"]:
        return []
    return _aligned([("oracles", "success [95 %]"), *((name, _interval(value)) for name, value in result["values"].items())])


def _trust(result: dict[str, Any]) -> list[str]:
    claims, reliability, abstention = result["hallucination"], result["reliability"], result["abstention"]
    if claims["rate"] is None:
        lines = ["hallucinations: no plan imagined to arrive"]
    else:
        lines = [f"hallucinations: of {claims['n']} episodes in which a plan imagined to arrive, {_interval(claims['rate'])} failed"]
    if reliability is None:
        return [*lines, f"confidence: too few pairs (n = {result['n']})"]
    lines.append(
        f"confidence from the first plan: calibration error {reliability['ece']:.3f} "
        f"(a perfect one would show {reliability['ece_if_perfect']:.3f} with n = {reliability['n']})"
    )
    if abstention is None:
        return [*lines, "abstention: nothing to choose, all pairs ended alike"]
    gain, separation = abstention["gain"], result["separation"]
    lines.append(f"confidence tells solved from failed: AUROC {_interval(separation)}")
    lines.append(
        f"abstention: mean failure rate over all coverages (AURC) {abstention['aurc']:.3f}, at random {abstention['aurc_random']:.3f}, "
        f"at best {abstention['aurc_best']:.3f}; gain {_signed(gain)}"
    )
    half = abstention["risk"][max(0, len(abstention["risk"]) // 2 - 1)]
    return [*lines, f"acting on the more trusted half only, {100 * half:.0f} % fail; acting on all, {100 * abstention['risk'][-1]:.0f} %"]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['rate']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _signed(estimate: dict[str, float]) -> str:
    return f"{estimate['rate']:+.2f} [{estimate['low']:+.2f}, {estimate['high']:+.2f}]"
