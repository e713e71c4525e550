"""The parts of the page that are numbers and words: each turns evidence into HTML, or into a hint at the command that is missing."""

import shlex
from typing import Any

from lewm.evaluation.intervals import paired_difference
from lewm.evaluation.results import settings_words
from lewm.report import markup
from lewm.report.evidence import Evidence, SuccessRow, outcomes_on_shared_pairs
from lewm.report.figures import INK, MAIN, MUTED, Level, curves, intervals, smoothed

FLOOR_NAMES = {"random": "random actions", "no_op": "doing nothing", "block_random": "random, held for a block"}
GOALS = {"cross-room": "goals in the other room", "same-room": "goals in the same room", "all": "goals"}
"""What a stratum is called in a sentence."""


def header(evidence: Evidence) -> str:
    """The headline number with its interval, and what it must be compared with."""
    eyebrow = markup.paragraph(
        f"LeWorldModel{f' · {markup.escape(evidence.env)}' if evidence.env else ''} · <code>{markup.escape(evidence.run)}</code>", "eyebrow"
    )
    row = evidence.headline()
    if row is None:
        title = "A world model learned from pixels"
        text = "How often it reaches goals has not been measured yet; what is known about the run is below."
        return f"<header>{eyebrow}<h1>{title}</h1>{markup.paragraph(text, 'lead')}</header>"
    success, goals = row.fields["success"], GOALS.get(row.stratum, f"{row.stratum} goals")
    title = f"Reaches <em>{_percent(success['rate'])}</em> of {markup.escape(goals)}, planning from pixels"
    lead = (
        f"95 % interval {_range(success)}, n = {row.fields['n']} start and goal pairs from episodes that it never trained on, {row.distance} env "
        f"steps apart, "
        f"within {row.fields['budget_env_steps']} env steps{markup.escape(settings_words(row.result['manifest']))}."
    )
    return f"<header>{eyebrow}<h1>{title}</h1>{markup.paragraph(lead, 'lead')}{_ladder(evidence, row)}</header>"


def story(evidence: Evidence) -> str:
    """What was done, for somebody who has not met a world model."""
    settings = evidence.settings
    model, planner, data = settings.get("model", {}), settings.get("planner", {}), settings.get("data", {})
    latent = f"{model['latent_dimension']} numbers" if "latent_dimension" in model else "a few numbers"
    block = f"the next {data['action_block']} actions" if "action_block" in data else "the next actions"
    search = f" ({planner['num_candidates']} at a time, improved {planner['num_iterations']} times)" if "num_candidates" in planner else ""
    world = (
        "A red dot lives in two rooms that are joined by a door. "
        if evidence.env == "two-room"
        else f"The world is called {markup.escape(evidence.env)}. "
        if evidence.env
        else ""
    )
    steps = (
        f"<strong>It watched.</strong> {_watched(evidence)} Nobody told it where anything is: it saw frames and actions, no coordinates, no rewards.",
        f"<strong>It learned to foresee.</strong> An <em>encoder</em> turns a frame into a <em>latent</em>, {latent}. A <em>predictor</em> takes "
        f"a latent and {block} "
        "and says which latent comes next. Both learn together to make that prediction right, in the space of latents and never pixel by pixel.",
        "<strong>It was kept from cheating.</strong> The easiest way to foresee everything is to give every frame the same latent: that is a "
        "<em>collapse</em>. "
        "One more term in the loss, SIGReg, asks that the latents be spread out like a bell curve in every direction.",
        f"<strong>It plans.</strong> Shown a picture of a goal, it imagines many sequences of actions{search}, keeps those whose imagined latents "
        f"come nearest to the "
        "goal's latent, starts to act, looks again, and plans again.",
    )
    words = {
        "Latent": "The short list of numbers that stands for a frame inside the model.",
        "JEPA": "Joint-embedding predictive architecture: predict the latent of what comes next, not its pixels.",
        "SIGReg": "The regulariser: compares the latents with a Gaussian along random directions. "
        "1.05 is a perfect match for any batch size; larger is further away.",
        "Collapse": "All frames get (nearly) the same latent: perfect predictions about nothing.",
        "Plan": "The actions whose imagined outcome is nearest to the goal. The first are carried out, then it plans anew.",
        "Floor": "What a policy that cannot see achieves on the same goals. A success rate means nothing without it.",
        "Interval": "With 95 % confidence the true rate lies in it (Wilson score); it shrinks with more episodes.",
    }
    listed = "<ol>" + "".join(f"<li>{step}</li>" for step in steps) + "</ol>"
    intro = markup.paragraph(f"{world}The model below learned how this world works from pixels alone, and uses what it learned to reach goals.")
    return markup.section("story", "What happened here", intro, listed, markup.glossary(words))


def success(evidence: Evidence) -> str:
    """Success by distance and stratum, with floors, ceiling and intervals."""
    rows = evidence.success_rows()
    if not rows:
        return markup.section(
            "success", "Does it reach its goals?", markup.hint("Not measured yet. This measures it:", *measure(evidence, "success --distances 25,50"))
        )
    lines = [
        (f"{row.distance} steps, {row.stratum}", row.fields["success"], {name: row.fields.get(name) for name in FLOOR_NAMES}, row.fields["expert"])
        for row in rows
    ]
    figure = markup.charts(
        intervals("success", lines, title="Goals reached"),
        caption="Blue: this model with its 95 % interval. Grey: blind policies on the same goals (cross: random, triangle: doing nothing, "
        "bar: random held for a block). Green diamond: an expert that knows the true state.",
    )
    headers = ("goals", "reached", "95 % interval", *FLOOR_NAMES.values(), "expert", "median steps", "within", "n")
    cells = [_success_cells(row) for row in rows]
    caption = "Every rate on the same start and goal pairs; distances and steps in env steps"
    return markup.section("success", "Does it reach its goals?", figure, markup.table(caption, headers, cells), _compare_control(evidence))


def _heads(evidence: Evidence) -> dict[str, Any]:
    """Where the networks on frozen latents came from, by name."""
    found: dict[str, Any] = {} if evidence.description is None else evidence.description["provenance"].get("heads", {})
    return found


def _head_words(evidence: Evidence) -> list[str]:
    return [
        f"The world model is checkpoint <code>{markup.escape(origin['base_checkpoint_sha256'][:12])}</code> of another run, kept as it was; "
        f"the {markup.escape(name)} was trained beside it in {origin['train_seconds']:.0f} s."
        for name, origin in _heads(evidence).items()
    ]


def training(evidence: Evidence) -> str:
    """The loss over the steps."""
    if not evidence.losses and _heads(evidence):
        return markup.section("training", "How it learned", *map(markup.paragraph, _head_words(evidence)))
    if not evidence.losses:
        return markup.section(
            "training",
            "How it learned",
            markup.hint("There are no training metrics. This trains a model:", f"lewm train --data DATA --out {quoted_run(evidence)}"),
        )
    steps = [line["step"] for line in evidence.losses]
    prediction, sigreg = (
        [line[name] for line in evidence.losses] if all(name in line for line in evidence.losses) else None for name in ("prediction_loss", "sigreg")
    )
    total = [line["loss"] for line in evidence.losses]
    panels = [curves("loss", [("", steps, smoothed(total), INK)], title="Loss", x_label="optimiser step", is_log=True)]
    if prediction is not None:
        panels.append(
            curves(
                "prediction",
                [("", steps, smoothed(prediction), MAIN)],
                title="Error of the next latent",
                x_label="optimiser step",
                is_log=True,
            )
        )
    if sigreg is not None:
        level: list[Level] = [("a perfect Gaussian: 1.05", 1.05, "below")]
        panels.append(
            curves(
                "regulariser",
                [("", steps, smoothed(sigreg), MAIN)],
                title="SIGReg of the batches",
                x_label="optimiser step",
                is_log=True,
                bottom=0.7,
                levels=level,
            )
        )
    final = evidence.losses[-1]
    weight = evidence.settings.get("objective", {}).get("weight")
    words = f"{final['step'] + 1:,} optimiser steps" + (f" in {final['seconds']:,.0f} s." if "seconds" in final else ".")
    if weight is not None:
        words += f" Loss = prediction error + {weight:g} x SIGReg: one regulariser, one weight."
    return markup.section(
        "training",
        "How it learned",
        markup.paragraph(markup.escape(words)),
        markup.charts(*panels, caption="Running medians over nine logged steps, on logarithmic axes."),
    )


def probe(evidence: Evidence) -> str:
    """How well true quantities can be read off latents, real and imagined."""
    result = evidence.latest("probe")
    if result is None:
        return markup.hint(
            "How exactly the true state can be read off the latents has not been measured. This measures it:",
            *measure(evidence, "probe", "--data DATA"),
        )
    untrained = result["floors"].get("untrained", {}).get("labels", {})
    rows = []
    for name, score in result["labels"].items():
        floor = untrained.get(name)
        if isinstance(score, dict):
            rows.append((name, f"{score['r2']:.4f}", f"{score['rmse']:.2f}", f"{floor['r2']:.3f}" if isinstance(floor, dict) else "-"))
    words = f"Fitted on {result['num_fit_episodes']} training episodes, scored on {result['num_heldout_episodes']} held-out ones"
    parts = [markup.table(words, ("read off by a linear map", "R²", "error (RMSE)", "R², untrained encoder"), rows)]
    imagined = [entry for entry in result["imagined"] if entry.get("position_error")]
    if imagined:
        steps = [entry["env_steps"] for entry in imagined]
        lines = [
            ("model", steps, [entry["position_error"]["median_px"] for entry in imagined], MAIN),
            ("no change", steps, [entry["copy_position_error"]["median_px"] for entry in imagined], MUTED),
        ]
        last = imagined[-1]
        sentence = (
            f"Imagination: {last['model_steps']} model steps ({last['env_steps']} env steps) ahead, with no look in between, the imagined latent "
            f"still gives the position "
            f"to a median error of {last['position_error']['median_px']:.1f} px{' of the 224 px arena' if evidence.env == 'two-room' else ''}."
        )
        chart = curves("imagined", lines, title="Error of the imagined position, px", x_label="env steps ahead", bottom=0)
        parts += [
            markup.paragraph(markup.escape(sentence)),
            markup.charts(chart, caption="Median over held-out clips; “no change” stays at the last position seen."),
        ]
    return "".join(parts)


def _watched(evidence: Evidence) -> str:
    count = evidence.demo.get("num_episodes")
    return (
        f"{count:,} recorded episodes of somebody walking about." if isinstance(count, int) else "Recorded episodes of somebody acting in the world."
    )


def _ladder(evidence: Evidence, row: SuccessRow) -> str:
    """The headline rate above its floors, as bars."""
    steps = [("This model", "own", row.fields["success"])]
    if evidence.control is not None:
        twin = next((other for other in evidence.control.success_rows() if (other.distance, other.stratum) == (row.distance, row.stratum)), None)
        steps += [] if twin is None else [(f"Control without SIGReg (n = {twin.fields['n']})", "control", twin.fields["success"])]
    steps += [(name[0].upper() + name[1:], "floor", row.fields[key]) for key, name in FLOOR_NAMES.items() if row.fields.get(key)]
    steps += [("Expert that sees the state", "ceiling", row.fields["expert"])] if row.fields["expert"] else []
    lines = [
        f'<li class="{kind}"><span>{markup.escape(name)}</span><span class="bar" aria-hidden="true"><span '
        f'style="width:{100 * rate["rate"]:.1f}%"></span>'
        f'<i style="left:{100 * rate["low"]:.1f}%;right:{100 - 100 * rate["high"]:.1f}%"></i></span>'
        f'<span class="value">{_percent(rate["rate"])} <small>{_range(rate)}</small></span></li>'
        for name, kind, rate in steps
    ]
    return f'<ul class="ladder">{"".join(lines)}</ul>'


def _compare_control(evidence: Evidence) -> str:
    headline = evidence.headline()
    if evidence.control is None or headline is None:
        return ""
    own, control = outcomes_on_shared_pairs(evidence, evidence.control, headline.distance, headline.stratum)
    if len(own) == 0:
        return ""
    difference = paired_difference(own, control)
    words = (
        f"Against the control run without SIGReg, on the same {len(own)} {headline.stratum} pairs at {headline.distance} env steps: {own.sum()} "
        f"against {control.sum()} reached, a paired "
        f"difference of {100 * difference['rate']:+.0f} points (95 % interval {100 * difference['low']:+.0f} to {100 * difference['high']:+.0f}, "
        f"exact McNemar p = {difference['mcnemar_p']:.2g})."
    )
    return markup.paragraph(markup.escape(words))


def _success_cells(row: SuccessRow) -> tuple[str, ...]:
    fields = row.fields
    median = fields["steps_to_success"]["median"]
    rates = [fields.get(name) for name in (*FLOOR_NAMES, "expert")]
    return (
        f"{row.distance} apart, {row.stratum}",
        _percent(fields["success"]["rate"]),
        _range(fields["success"]),
        *("-" if rate is None else _percent(rate["rate"]) for rate in rates),
        "-" if median is None else f"{median:g}",
        str(fields["budget_env_steps"]),
        str(fields["n"]),
    )


def measure(evidence: Evidence, words: str, more: str = "") -> tuple[str, str]:
    """The command of an evaluation whose result the report will find, and the report's own."""
    name, _, flags = words.partition(" ")
    target = shlex.quote(str(evidence.run / "results" / f"{name}.json"))
    parts = ("lewm eval", name, quoted_run(evidence), flags, more, "--json", target)
    return " ".join(part for part in parts if part), f"lewm report {quoted_run(evidence)}"


def quoted_run(evidence: Evidence) -> str:
    return shlex.quote(str(evidence.run))


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"


def _range(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['low']:.0f}\N{EN DASH}{100 * estimate['high']:.0f} %"
