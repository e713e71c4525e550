"""The labels that probes read: numbers as they are, and angles, which jump where a turn ends, as their sine and cosine.

Axes: E clip, T model step, s label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm.errors import DataError

ANGLE_UNITS_RAD = {"_rad": 1.0, "_deg": float(np.pi / 180)}
"""Labels whose names end so are angles."""
VELOCITY_WORD = "velocity"
"""Labels with this word in their names cannot be read off a single frame."""
NO_LABELS = (
    "this dataset has no labels, so there is nothing to compare with what a probe reads: collect one from a simulated world, or name its columns "
    "when you convert it (`lewm convert SRC DST --option labels=NAME,NAME`); `lewm eval collapse`, `surprise` and, with a decoder, `reconstruction` "
    "need no labels"
)


@dataclass(frozen=True, kw_only=True)
class ProbedLabels:
    """What is made of a dataset's labels."""

    names: tuple[str, ...]
    sources: tuple[int, ...]
    """Column of the dataset that each comes from."""
    kinds: tuple[str, ...]
    """``sin`` and ``cos`` of an angle, or nothing for a number as it is."""
    units_rad: tuple[float, ...]
    """Of the columns that are angles."""
    angles: dict[str, tuple[str, str]]
    """Angle -> the names of its sine and cosine, which may have been there before."""
    source_names: tuple[str, ...]

    @classmethod
    def of(cls, label_names: Sequence[str]) -> "ProbedLabels":
        """Of the names of a dataset's labels: angles, ``<name>_rad`` or ``<name>_deg``, give way to ``<name>_sin`` and ``<name>_cos``."""
        columns: list[tuple[str, int, str, float]] = []
        angles: dict[str, tuple[str, str]] = {}
        for source, name in enumerate(label_names):
            unit = next((suffix for suffix in ANGLE_UNITS_RAD if name.endswith(suffix)), None)
            if unit is None:
                columns.append((name, source, "", 1.0))
                continue
            parts = [(f"{name.removesuffix(unit)}_{kind}", kind) for kind in ("sin", "cos")]
            angles[name] = (parts[0][0], parts[1][0])
            known = {*label_names, *(column[0] for column in columns)}
            columns += [(part, source, kind, ANGLE_UNITS_RAD[unit]) for part, kind in parts if part not in known]
        names, sources, kinds, units = zip(*columns, strict=True) if columns else ((), (), (), ())
        return cls(names=names, sources=sources, kinds=kinds, units_rad=units, angles=angles, source_names=tuple(label_names))

    def read(self, labels: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """float32 [E, T, s'] of labels [E, T, s] of clips of these episodes int [E]; ``DataError`` names a column with a value that is not finite."""
        is_bad = ~np.isfinite(labels)
        if is_bad.any():
            column = int(np.flatnonzero(is_bad.any((0, 1)))[0])
            where = is_bad[..., column]
            raise DataError(
                f"label {self.source_names[column]!r} has {int(where.sum())} values that are not finite among those looked at, the first in episode "
                f"{int(episodes[where.any(1)][0])}: mend the column, or convert the dataset without it"
            )
        values = labels[..., list(self.sources)].astype(np.float64)
        for column, (kind, unit) in enumerate(zip(self.kinds, self.units_rad, strict=True)):
            if kind:
                values[..., column] = (np.sin if kind == "sin" else np.cos)(unit * values[..., column])
        return values.astype(np.float32)


def velocity_control(labels: dict[str, Any], stack_offsets_env_steps: tuple[int, ...]) -> dict[str, Any] | None:
    """What was read of the labels that no single frame shows; None where the data have none that varies."""
    velocities = {name: score for name, score in labels.items() if VELOCITY_WORD in name and not isinstance(score, str)}
    if not velocities:
        return None
    return {
        "kind": "negative" if len(stack_offsets_env_steps) == 1 else "positive",
        "mean_r2": float(np.mean([score["r2"] for score in velocities.values()])),
        "labels": {name: {key: score[key] for key in ("r2", "r2_low", "r2_high")} for name, score in velocities.items()},
    }
