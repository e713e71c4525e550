"""The labels that probes read: numbers as they are, and angles, which jump where a turn ends, as their sine and cosine.

Axes: E clip, T model step, s label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lewm.errors import DataError

ANGLE_UNITS_RAD = {"_rad": 1.0, "_deg": float(np.pi / 180)}
"""Labels whose names end so are angles."""


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
