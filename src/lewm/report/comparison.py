"""The parts of the page about collapse and the latent space, where a run stands beside its control, and about what the numbers came from."""

import shlex
from typing import Any

import numpy as np

from lewm.evaluation.collapse import GAUSSIAN_SIGREG
from lewm.report import markup
from lewm.report.evidence import CONTROL as CONTROL_FOLDER
from lewm.report.evidence import Evidence
from lewm.report.figures import CONTROL, MAIN, Curve, Level, curves, scatter
from lewm.report.gallery import Gallery
from lewm.report.latents import LabelledLatents

NUM_COLORED_LABELS = 2


def collapse(evidence: Evidence) -> str:
    """Effective rank and SIGReg of the run and its control."""
    title = "Did it collapse?"
    measured = evidence.latest("collapse")
    if not evidence.looks and measured is not None:
        reasons = "".join(f"; {reason}" for reason in measured["reasons"])
        words = (
            f"The monitor did not look while this checkpoint was made. After training, on {measured['num_clips']:,} held-out clips: "
            f"{measured['verdict']}{reasons}. Effective rank {measured['effective_rank']:.1f} of {measured['latent_dimension']:.0f}, mean spread "
            f"of a dimension {measured['std_mean']:.2f} (meant: 1)."
        )
        return markup.section("collapse", title, markup.paragraph(markup.escape(words)))
    if not evidence.looks:
        command = f"lewm train --data DATA --out {shlex.quote(str(evidence.run))} --train.monitor-every-steps 100"
        return markup.section(
            "collapse", title, markup.hint("The collapse monitor has not looked at this run yet. It does while a model trains:", command)
        )
    control = evidence.control
    sides = [("LeWM", evidence.looks, MAIN)]
    if control is not None and control.looks:
        sides.append(("control", control.looks, CONTROL))
    dimension = evidence.looks[-1]["latent_dimension"]
    collapsed = evidence.looks[-1]["sigreg_collapsed"]
    levels: list[Level] = [
        (f"a perfect Gaussian: {GAUSSIAN_SIGREG}", GAUSSIAN_SIGREG, "below"),
        (f"all at one point: {collapsed:.0f}", collapsed, "above"),
    ]
    steps: dict[str, Any] = {"x_label": "optimiser step", "is_log_x": True}
    figure = markup.charts(
        curves("sigreg", _lines(sides, "sigreg"), title="SIGReg of held-out frames", is_log=True, bottom=0.6, levels=levels, **steps),
        curves("rank", _lines(sides, "effective_rank"), title=f"Effective rank (of {dimension:.0f})", bottom=0, **steps),
        curves("spread", _lines(sides, "std_mean"), title="Mean spread of a dimension", bottom=0, levels=[("meant: 1", 1.0, "above")], **steps),
        caption="What the monitor saw while training, with the steps on a logarithmic axis. SIGReg and the spread (standard deviation) see whether "
        "the latents shrink to a point. The effective rank counts the directions that they use but does not see scale, so it is never judged "
        "alone.",
    )
    headers = ("at the end of training", *(name for name, _, _ in sides))
    return markup.section(
        "collapse",
        title,
        markup.paragraph(markup.escape(_collapse_words(evidence))),
        figure,
        markup.table("Held-out clips", headers, _look_rows(sides)),
    )


def latent_space(evidence: Evidence, gallery: Gallery, probe_html: str) -> str:
    """Where true quantities show in the latents."""
    title = "What do the latents know?"
    if gallery.latents is None:
        reason = (
            "Pictures of the latents need a checkpoint and a world that can be simulated." if evidence.env is None else "There is no checkpoint yet."
        )
        return markup.section("latents", title, markup.hint(reason, f"lewm train --data DATA --out {shlex.quote(str(evidence.run))}"), probe_html)
    sides = [("LeWM", gallery.latents)] + ([] if gallery.control_latents is None else [("Control", gallery.control_latents)])
    components = [latents.principal_components() for _, latents in sides]
    reach = 1.05 * max(float(np.abs(points).max()) for points, _ in components) or 1.0
    panels = [
        scatter(
            f"{name.lower()}-label-{latents.label_names.index(label)}",
            points,
            latents.column(label),
            title=_share(name, shares),
            label=label.replace("_px", ", px").replace("_", " "),
            reach=reach,
        )
        for (name, latents), (points, shares) in zip(sides, components, strict=True)
        for label in _varying_labels(latents)
    ]
    words = (
        f"Each dot is one of {len(gallery.latents.latents):,} frames from fresh episodes, placed by the two directions in which the latents vary "
        f"most (PCA) "
        "and coloured by true quantities, which the model was never told. Smooth colours mean that the model found out about them by itself."
    )
    if gallery.control_latents is not None:
        words += " Both runs are drawn to the same scale: all latents of a collapsed run are (nearly) one point."
    return markup.section("latents", title, markup.charts(*panels, caption=words), probe_html)


def provenance(evidence: Evidence) -> str:
    """Commands, times, versions, hardware, hashes."""
    words = "Success rates can be checked without the model: <code>lewm verify RESULT.json</code> replays every action in the simulator."
    parts = [markup.paragraph(words)]
    listed = _commands(evidence)
    if listed:
        parts += ["<h3>Commands</h3>", markup.commands(listed)]
    times = _times(evidence)
    if times:
        parts += ["<h3>Times</h3>", markup.facts(times)]
    parts += ["<h3>Software, hardware, hashes</h3>", markup.facts(_facts(evidence))]
    notes = (*evidence.notes, *(f"{CONTROL_FOLDER}: {note}" for note in (evidence.control.notes if evidence.control else ())))
    if notes:
        parts += ["<h3>Found but not shown</h3>", "<ul>" + "".join(f"<li>{markup.escape(note)}</li>" for note in notes) + "</ul>"]
    return markup.section("provenance", "Where the numbers come from", *parts)


def footer() -> str:
    """The source of the method."""
    return (
        "<footer><p>Method: Maes, Le Lidec, Scieur, LeCun, Balestriero, <em>LeWorldModel: Stable End-to-End Joint-Embedding Predictive "
        "Architecture from Pixels</em>, "
        "arXiv 2603.19312. SIGReg: LeJEPA, arXiv 2511.08544. One training seed and one world: intervals cover the choice of start and goal pairs, "
        "not that of the seed.</p></footer>"
    )


def _lines(sides: list[tuple[str, list[dict[str, Any]], str]], key: str) -> list[Curve]:
    return [(name, [look["step"] + 1 for look in looks], [look[key] for look in looks], color) for name, looks, color in sides]


def _collapse_words(evidence: Evidence) -> str:
    own = f"The monitor's last word on this run: {evidence.looks[-1]['verdict']}."
    control = evidence.control
    if control is None or not control.looks:
        command = f"lewm train ... --objective.weight 0 --out {shlex.quote(str(evidence.run / CONTROL_FOLDER))}"
        return f"{own} There is no control run beside it; `{command}` trains one without SIGReg, which collapses."
    alarm = next((look for look in control.looks if look["verdict"] == "collapsed"), None)
    steps = control.looks[-1]["step"] + 1
    words = f"{own} The control run has the same settings but no SIGReg (weight 0), for {steps:,} steps."
    if alarm is None:
        return f"{words} Its last verdict: {control.looks[-1]['verdict']}."
    return f"{words} The monitor called it collapsed at step {alarm['step'] + 1:,}: {'; '.join(alarm['reasons'])}."


def _look_rows(sides: list[tuple[str, list[dict[str, Any]], str]]) -> list[tuple[str, ...]]:
    names = {
        "effective_rank": "effective rank",
        "sigreg": f"SIGReg (Gaussian: {GAUSSIAN_SIGREG})",
        "std_mean": "mean standard deviation of a dimension",
        "std_min": "smallest standard deviation",
        "dead_fraction": "share of dead dimensions",
        "action_sensitivity": "error with shuffled / with true actions",
    }
    last = [looks[-1] for _, looks, _ in sides]
    rows = [(text, *(f"{look[key]:.3g}" if key in look else "-" for look in last)) for key, text in names.items()]
    return [*rows, ("verdict", *(str(look["verdict"]) for look in last))]


def _varying_labels(latents: LabelledLatents) -> list[str]:
    return [label for label in latents.label_names if latents.column(label).std() > 0][:NUM_COLORED_LABELS]


def _share(name: str, shares: np.ndarray) -> str:
    return f"{name}: {100 * shares.sum():.0f} % of the variance"


def _commands(evidence: Evidence) -> list[str]:
    listed = [str(command) for command in evidence.demo.get("commands", [])]
    for side in (evidence, evidence.control):
        if side is None:
            continue
        if side.description is not None:
            listed.append(side.description["provenance"].get("command", ""))
        listed += [str(result.get("command", "")) for results in side.results.values() for result in results]
    return list(dict.fromkeys(command for command in listed if command))


def _times(evidence: Evidence) -> dict[str, str]:
    times = {str(stage): f"{seconds:,.0f} s" for stage, seconds in evidence.demo.get("seconds", {}).items()}
    if not times and evidence.description is not None and "train_seconds" in evidence.description["provenance"]:
        times["training"] = f"{evidence.description['provenance']['train_seconds']:,.0f} s"
    for result in evidence.results.get("success", [])[:1]:
        plan_ms = result.get("plan_ms") or {}
        single = plan_ms.get("single_episode")
        if plan_ms.get("p50") is not None:
            times["one plan, in a batch"] = f"median {plan_ms['p50']:.0f} ms, 95th percentile {plan_ms['p95']:.0f} ms"
        if single:
            times["one plan, alone"] = f"median {single['p50']:.0f} ms, 95th percentile {single['p95']:.0f} ms"
    return times


def _facts(evidence: Evidence) -> dict[str, str]:
    facts: dict[str, str] = {}
    if evidence.description is not None:
        origin = evidence.description["provenance"]
        facts |= {name: str(version) for name, version in origin.get("versions", {}).items()}
        facts["hardware"] = str(evidence.demo.get("hardware") or origin.get("hardware", "not recorded"))
        facts["dataset SHA-256"] = str(origin.get("dataset_sha256", "not recorded"))
        facts["training step"] = f"{evidence.description['step']:,}"
    if evidence.checkpoint_sha256 is not None:
        facts["checkpoint SHA-256"] = evidence.checkpoint_sha256
    for result in evidence.results.get("success", []):
        distances = ", ".join(result["by_distance"])
        facts[f"pairs at {distances} env steps"] = (
            f"{result['protocol']['name']} v{result['protocol']['version']}, SHA-256 {result['protocol']['manifest_sha256']}"
        )
    return facts or {"checkpoint": "none yet"}
