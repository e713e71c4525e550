"""The part of the page for whatever was measured beside success, probe and training: each result as its command prints it, with its picture."""

import shlex
from typing import Any

from lewm.errors import LewmError
from lewm.evaluation.printing import printed
from lewm.registry import EVALUATIONS
from lewm.report import landmark_figure, markup
from lewm.report.evidence import WITHOUT_CHECKPOINT, Evidence
from lewm.report.sections import measure, quoted_run

SHOWN_ELSEWHERE = ("success", "probe")
MAX_CHARACTERS = 30_000
EXPLAINED = {
    "collapse": ("Collapse", "Held-out clips after training. The verdict is one of five words; the reasons stand with it."),
    "surprise": (
        "Surprise",
        "Something happens that the world does not do. AUROC 0.5: the model cannot tell such a clip from the same clip as it was; 1: it always can. "
        "“Persistence” and “frame difference” are floors: they do it without a model.",
    ),
    "reconstruction": ("Reconstruction", "Frames drawn from latents, real and imagined, against what really was there. A higher PSNR is nearer."),
    "atari-labels": (
        "Bytes of the game's memory",
        "Weighted F1 of linear classifiers on frozen latents: 1 names every byte, the floors know no picture.",
    ),
    "robustness": (
        "Robustness",
        "The same pairs in changed worlds and from corrupted frames; each row says how far success moved from the unchanged world.",
    ),
    "why": (
        "Why plans fail",
        "Each part of the agent is swapped for an oracle, in all combinations, on the same pairs; a Shapley value is a part's share of what the "
        "oracles gain. Below that, whether the agent's own promises can be believed.",
    ),
    "lab": ("The collapse lab", "Every objective on the same worlds, data, networks, steps and seeds."),
    "sweep": ("How wide the region is that works", "Success and verdict for each weight of the regulariser and each batch size."),
    "comparison of methods": ("Beside other methods", "All on the same start and goal pairs; differences are to the first method."),
}
"""Evaluation -> title, and how to read it."""
AFTER_TRAINING = ("collapse", "surprise", "reconstruction", "robustness", "why")
"""What is worth measuring of any run."""


def measurements(evidence: Evidence) -> str:
    """Results by evaluation, then one line for each that is missing."""
    parts = [
        part
        for name in sorted(evidence.results, key=_place)
        if name not in SHOWN_ELSEWHERE
        for result in evidence.results[name]
        for part in _shown(evidence, result)
    ]
    missing = [_missing(evidence, name) for name in _wanted(evidence) if name not in evidence.results] + landmark_figure.missing(evidence)
    if missing:
        items = "".join(f"<li>{line}</li>" for line in missing)
        parts += ["<h3>Not measured</h3>", f'<ul class="missing">{items}</ul>']
    return markup.section("measurements", "What else was measured?", *parts)


def _shown(evidence: Evidence, result: dict[str, Any]) -> list[str]:
    title, words = EXPLAINED.get(result["evaluation"], (str(result["evaluation"]), ""))
    parts = [f"<h3>{markup.escape(title)} <small><code>{markup.escape(result['file'])}</code></small></h3>"]
    parts += [markup.paragraph(markup.escape(words))] if words else []
    picture = (evidence.run / result["file"]).with_suffix(".png")
    if picture.is_file():
        parts.append(markup.picture(picture.read_bytes(), title=title, caption=f"{picture.parent.name}/{picture.name}"))
    try:
        text = printed(result)
    except (KeyError, TypeError, ValueError, AttributeError, ImportError, LewmError) as error:  # a file of another version, or of a person
        return [*parts, markup.paragraph(f"This result cannot be shown: {markup.escape(repr(error))}.", "note")]
    if len(text) > MAX_CHARACTERS:
        return [*parts, markup.paragraph("Too long for this page; the file has it all.", "note")]
    return [*parts, markup.printed(text)]


def _wanted(evidence: Evidence) -> list[str]:
    is_atari = evidence.env is not None and evidence.env.startswith("atari/")
    return [name for name in (*AFTER_TRAINING, *(["atari-labels"] if is_atari else [])) if name in EVALUATIONS]


def _missing(evidence: Evidence, name: str) -> str:
    """The command that measures it."""
    if name == "reconstruction" and not _has_decoder(evidence):
        command = f"lewm train --from {quoted_run(evidence)} --stage decoder --data DATA --out {shlex.quote(f'{evidence.run}-decoder')}"
    else:
        command, _ = measure(evidence, name, "--data DATA")
    return f"{markup.escape(EXPLAINED[name][0])}: <code>{markup.escape(command)}</code>"


def _has_decoder(evidence: Evidence) -> bool:
    return evidence.description is not None and "decoder" in evidence.description["provenance"].get("heads", {})


def _place(name: str) -> tuple[bool, int]:
    """Those of this run in the order of ``EXPLAINED``, then others, then what is not of this run alone."""
    known = list(EXPLAINED)
    return name in WITHOUT_CHECKPOINT, known.index(name) if name in known else len(known)
