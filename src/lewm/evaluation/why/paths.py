"""How far it really is to a goal: the cost's oracle.

Axes: n place, s label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from lewm.envs.base import GoalEnvBatch


@runtime_checkable
class KnowsPaths(Protocol):
    """A world that can measure the shortest way between any two places."""

    path_unit: str

    def path_lengths(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: lengths of the shortest ways between labels [n, s]. Labels that were read off latents may lie in a wall: the nearest free
        place counts.
        """


@dataclass(frozen=True, kw_only=True)
class TrueDistance:
    """Lengths of ways between labels [n, s], and what they are."""

    kind: str
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray]


def true_distance(envs: GoalEnvBatch, label_std: np.ndarray) -> TrueDistance:
    """The world's own shortest ways where it knows them; otherwise how far the labels that decide success are from those of the goal."""
    if isinstance(envs, KnowsPaths):
        return TrueDistance(kind=f"shortest way, in {envs.path_unit}", measure=envs.path_lengths)
    columns = goal_columns(envs.label_names, envs.goal_label_names)
    scale = label_std[columns]

    def straight(starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm((starts[:, columns] - goals[:, columns]) / scale, axis=-1))

    names = ", ".join(envs.label_names[column] for column in columns)
    return TrueDistance(kind=f"straight line between {names}, in standard deviations (this world knows no shortest ways)", measure=straight)


def goal_columns(names: Sequence[str], goal_names: Sequence[str]) -> list[int]:
    """Where the labels that decide success stand; all of them in a world that names none."""
    return [list(names).index(name) for name in goal_names] or list(range(len(names)))
