"""The result of ``lewm eval atari-labels`` as plain text."""

from typing import Any

from lewm.evaluation.probe_table import columns

FEW_EPISODES = 8
"""A bootstrap of fewer episodes gives intervals that are too narrow."""


def atari_table(result: dict[str, Any]) -> str:
    """A row per label and category, a column per encoder, and what the numbers can be compared with."""
    encoders, frames = result["encoders"], result["frames"]
    rows = [("", "entropy", *encoders)]
    for name, about in result["labels"].items():
        rows.append((name, f"{about['entropy_nats']:.2f}", *(f"{scores['labels'][name]['f1']:.3f}" for scores in encoders.values())))
    for name in encoders["lewm"]["categories"]:
        rows.append((f"category {name}", "", *(f"{scores['categories'][name]['f1']:.3f}" for scores in encoders.values())))
    rows.append(("mean of the categories", "", *(f"{scores['mean_f1']:.3f}" for scores in encoders.values())))
    counts = ", ".join(f"{frames[f'num_{part}_frames']:,} {part}" for part in ("training", "validation", "test"))
    lines = [f"weighted F1 of linear label probes; frames: {counts} ({frames['num_duplicate_test_frames']:,} duplicates left out)", *columns(rows)]
    converged = {name: scores["converged"]["mean_f1"] for name, scores in encoders.items() if "converged" in scores}
    lines.append("means with converged classifiers on standardised latents: " + ", ".join(f"{name} {f1:.3f}" for name, f1 in converged.items()))
    for how, relative in (("", result["relative_f1"]), (", converged classifiers", result["converged_relative_f1"])):
        if relative is not None:
            lines.append(f"relative F1 (0: untrained, 1: supervised){how}: {relative:.3f}")
    lines += _peer_lines(result)
    lines += [f"dropped {name}: {reason}" for name, reason in result["dropped_labels"].items()]
    if result.get("is_training_dataset"):
        held_out = f"{frames['num_heldout_test_episodes']} of {frames['num_test_episodes']} test episodes"
        held_out += f" ({frames['num_heldout_test_frames']:,} of {frames['num_test_frames']:,} test frames)"
        lines.append(f"the run was trained, without labels, on this dataset; it held out {held_out}")
    if encoders.get("supervised", {}).get("is_still_falling"):
        lines.append("the supervised reference was still improving at its last step and is weaker than it could be: raise --supervised-steps")
    lines.append(f"{'comparable' if result['comparable'] else 'not comparable'} with AtariARI's published numbers: {result['why']}")
    return "\n".join(lines)


def _peer_lines(result: dict[str, Any]) -> list[str]:
    """The run beside its peer, on the same test frames."""
    comparison = result.get("peer_comparison")
    if comparison is None:
        return []
    rows = [("category", "lewm - peer, F1 [95 %]", "relative: lewm", "peer", "lewm - peer [95 %]")]
    for name, one in [*comparison["categories"].items(), ("mean of the categories", comparison["mean"])]:
        relative = ("-", "-", "-")
        if one["relative"] is not None:
            relative = (f"{one['relative']['lewm']:.3f}", f"{one['relative']['peer']:.3f}", _estimate(one["relative_difference"]))
        rows.append((name, _estimate(one["difference"]), *relative))
    lines = [f"paired with the peer on {comparison['num_test_episodes']} test episodes, which the intervals resample:", *columns(rows)]
    if comparison["num_test_episodes"] < FEW_EPISODES:
        lines.append(f"{comparison['num_test_episodes']} test episodes are few: these intervals are too narrow; collect more episodes")
    if comparison["mean"]["relative"] is None:
        return [
            *lines,
            "relative F1, (F1 - untrained) / (supervised - untrained), needs --supervised-steps N with a gain over the untrained networks",
        ]
    return [*lines, "relative: (F1 - untrained) / (supervised - untrained), both references being those of lewm's networks"]


def _estimate(estimate: dict[str, float | None]) -> str:
    interval = "no interval" if estimate["low"] is None else f"{estimate['low']:+.3f}, {estimate['high']:+.3f}"
    return f"{estimate['value']:+.3f} [{interval}]"
