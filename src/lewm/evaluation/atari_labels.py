"""AtariARI's labels: which bytes of a game's memory are asked for, in which category each is, and how answers are scored (arXiv 1906.08226).

Axes: n frame, s label.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.errors import DataError
from lewm.evaluation.classification import value_entropy, weighted_f1

ENTROPY_THRESHOLD_NATS = 0.6
EXCLUDED_LABELS = r"lives|ram_\d{3}"
"""What ``atari/<game>`` records beside the bytes of AtariARI's table: the emulator's count of lives and, if asked for, the whole memory."""
CATEGORIES = ("agent_localization", "small_object_localization", "other_localization", "score_clock_lives_display", "misc")


@dataclass(frozen=True, kw_only=True)
class UsableLabels:
    """The labels that the protocol keeps."""

    names: tuple[str, ...]
    values: np.ndarray
    """int64 [n, s]."""
    entropies_nats: dict[str, float]
    """Of every label that is a byte, kept or not."""
    dropped: dict[str, str]
    """Why each other label was dropped."""


def usable_labels(names: Sequence[str], labels: np.ndarray, is_training: np.ndarray) -> UsableLabels:
    """Which of the labels float [n, s] are bytes and varied enough on the training frames (bool [n]); ``DataError`` if none is."""
    entropies: dict[str, float] = {}
    dropped: dict[str, str] = {}
    for name, values in zip(names, labels.T, strict=True):
        if re.fullmatch(EXCLUDED_LABELS, name):
            dropped[name] = "not a byte of AtariARI's table"
        elif (values != np.round(values)).any() or values.min() < 0 or values.max() > 255:
            dropped[name] = "not a whole number in 0..255"
        else:
            entropies[name] = value_entropy(values[is_training])
            if entropies[name] < ENTROPY_THRESHOLD_NATS:
                dropped[name] = f"entropy {entropies[name]:.3f} nats, below {ENTROPY_THRESHOLD_NATS}"
    kept = [column for column, name in enumerate(names) if name not in dropped]
    if not kept:
        raise DataError(
            f"no label is a byte (0..255) with an entropy of at least {ENTROPY_THRESHOLD_NATS} nats, of {', '.join(names)}: "
            "use data of an Atari game in which something happens"
        )
    return UsableLabels(
        names=tuple(names[column] for column in kept), values=labels[:, kept].astype(np.int64), entropies_nats=entropies, dropped=dropped
    )


def category(label: str) -> str:
    """AtariARI's category of a label, by its name."""
    if any(axis in label for axis in ("_x", "_y", "_z", "_column")):
        if any(thing in label for thing in ("ball", "missile")):
            return "small_object_localization"
        return "agent_localization" if any(agent in label for agent in ("agent", "player")) else "other_localization"
    is_shown = any(word in label for word in ("score", "clock", "lives", "lifes", "meter", "display"))
    return "score_clock_lives_display" if is_shown else "misc"


def score_labels(read: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Weighted F1 and accuracy of each label, read and true int [n, s], and their means by category.

    ``mean_f1`` and ``mean_accuracy`` are means over the categories, as in the tables of the paper, ``mean_f1_of_labels`` over the labels.
    """
    by_label = {
        name: {"f1": weighted_f1(read[:, column], labels[:, column]), "accuracy": float(np.mean(read[:, column] == labels[:, column]))}
        for column, name in enumerate(names)
    }
    categories = {}
    for each in CATEGORIES:
        scores = [by_label[name] for name in names if category(name) == each]
        if scores:
            categories[each] = {kind: float(np.mean([score[kind] for score in scores])) for kind in ("f1", "accuracy")}
    return {
        "mean_f1": float(np.mean([scores["f1"] for scores in categories.values()])),
        "mean_accuracy": float(np.mean([scores["accuracy"] for scores in categories.values()])),
        "mean_f1_of_labels": float(np.mean([scores["f1"] for scores in by_label.values()])),
        "categories": categories,
        "labels": by_label,
    }


def relative_f1(encoders: dict[str, Any]) -> float | None:
    """How far the run is from its untrained networks (0) to the supervised ones (1), by mean F1; None without them, or if they gain nothing."""
    if "supervised" not in encoders:
        return None
    f1 = {name: scores["mean_f1"] for name, scores in encoders.items()}
    gain = f1["supervised"] - f1["untrained"]
    return (f1["lewm"] - f1["untrained"]) / gain if gain > 0 else None
