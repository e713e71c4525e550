"""When an OGBench world is where its goal is, and what kind of start/goal pair it is.

Axes: n row, s label, c compared column.

A predicate is a list of terms, each with a tolerance; the distance is the largest difference in tolerances, so 1 is the edge of success, which counts
as success, as in the package. ``official`` is the package's rule; the two others are CLEAR-LeWM's for cubes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lewm.errors import EnvError
from lewm.registry import did_you_mean

CUBE_SUCCESSES = ("official", "clear-moderate", "clear-strict")
CUBE_STRATA = ("approach", "in-hand")
MAZE_STRATA = ("around-walls", "straight")
BLOCK_M, STRICT_BLOCK_M, STRICT_TURN_RAD, STRICT_HOLD_ENV_STEPS = 0.04, 0.03, np.deg2rad(15), 3
HANDLE_M = 0.04
"""How far drawer and window may be from where the goal has them: the package's."""
IN_HAND_M = 0.05
"""Nearer than this to a block that must move, the effector has it in hand or is about to."""

PairKind = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Labels of starts and of goals, [n, s] each -> number of the stratum, int64 [n]."""


@dataclass(frozen=True)
class Term:
    """One thing that must be as in the goal."""

    columns: np.ndarray
    tolerance: float
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """[n, c] of worlds and of goals -> how far apart they are, float64 [n], in the unit of the tolerance."""

    def distance(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n], in tolerances."""
        worlds, goals = (np.asarray(rows, np.float64)[:, self.columns] for rows in (labels, goal_labels))
        apart = self.measure(worlds, goals)
        return np.asarray(apart / self.tolerance)


@dataclass(frozen=True, kw_only=True)
class OgbenchPredicate:
    """The success predicate of one world, and its kinds of pair."""

    terms: tuple[Term, ...]
    readable_names: tuple[str, ...]
    """The compared labels as a linear probe can read them."""
    kind_of_pair: PairKind
    hold_env_steps: int = 1
    """For how many env steps in a row the terms must hold: counted by the world, because no single state shows it."""

    def distance(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """float64 [n]: the largest difference in tolerances; up to 1 is within."""
        return np.asarray(np.max([term.distance(labels, goal_labels) for term in self.terms], axis=0))

    def is_solved(self, labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """Whether all terms hold now, bool [n]."""
        return np.asarray(self.distance(labels, goal_labels) <= 1.0)

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n]: the kind of each pair; -1 where the terms hold at the start."""
        kinds = self.kind_of_pair(start_labels, goal_labels).astype(np.int64)
        return np.where(self.is_solved(start_labels, goal_labels), -1, kinds)


def cube_predicate(env: str, success: str | None, tolerance_scale: float, names: Sequence[str], num_blocks: int) -> OgbenchPredicate:
    """Every block within 4 cm of the goal's, or (``clear-strict``) within 3 cm and 15 degrees for three env steps in a row."""
    success = CUBE_SUCCESSES[0] if success is None else success
    if success not in CUBE_SUCCESSES:
        raise EnvError(f"success of {env} cannot be {success!r}.{did_you_mean(success, CUBE_SUCCESSES)}")
    is_strict = success == "clear-strict"
    places = [f"block_{block}_{axis}_m" for block in range(num_blocks) for axis in "xyz"]
    turns = [f"block_{block}_q{part}" for block in range(num_blocks) for part in "wxyz"]
    tolerance_m = (STRICT_BLOCK_M if is_strict else BLOCK_M) * tolerance_scale
    terms = [Term(columns, tolerance_m, _norm) for columns in _columns(names, places).reshape(num_blocks, 3)]
    if is_strict:
        terms += [Term(columns, STRICT_TURN_RAD * tolerance_scale, cube_turn_rad) for columns in _columns(names, turns).reshape(num_blocks, 4)]
    readable = [*places, *(f"block_{block}_yaw4_{part}" for block in range(num_blocks) for part in ("sin", "cos"))] if is_strict else places
    return OgbenchPredicate(
        terms=tuple(terms),
        readable_names=tuple(readable),
        kind_of_pair=_approach_or_in_hand(names, num_blocks, tolerance_m),
        hold_env_steps=STRICT_HOLD_ENV_STEPS if is_strict else 1,
    )


def scene_predicate(env: str, success: str | None, tolerance_scale: float, names: Sequence[str]) -> OgbenchPredicate:
    """The block within 4 cm, drawer and window within 4 cm, and both buttons in the goal's state."""
    _only_official(env, success)
    block, buttons = [f"block_0_{axis}_m" for axis in "xyz"], ["button_0_state", "button_1_state"]
    handles = ["drawer_m", "window_m"]
    terms = (
        Term(_columns(names, block), BLOCK_M * tolerance_scale, _norm),
        Term(_columns(names, handles), HANDLE_M * tolerance_scale, _largest),
        Term(_columns(names, buttons), 0.5, _largest),
    )
    return OgbenchPredicate(terms=terms, readable_names=(*block, *handles, *buttons), kind_of_pair=_one_kind)


def maze_predicate(
    env: str, success: str | None, tolerance_m: float, names: Sequence[str], is_straight: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
) -> OgbenchPredicate:
    """The middle of the body within ``tolerance_m`` of the goal's, along the floor; without ``is_straight`` all pairs are of one kind."""
    _only_official(env, success)
    columns = _columns(names, ["x_m", "y_m"])
    return OgbenchPredicate(
        terms=(Term(columns, tolerance_m, _norm),),
        readable_names=("x_m", "y_m"),
        kind_of_pair=_one_kind if is_straight is None else lambda starts, goals: is_straight(starts[:, columns], goals[:, columns]),
    )


def cube_turn_rad(quaternions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 [n]: the smallest turn between orientations [n, 4] of a cube, of whose 24 rotations none can be told from another.

    The nearest of the 24 to a relative rotation is read off its sorted components: the identity, a quarter turn about an edge direction's axis, or
    a third of a turn about a diagonal.
    """
    w, (x, y, z) = quaternions[:, 0], quaternions[:, 1:].T
    conjugate = np.stack([others[:, 0], *(-others[:, 1:].T)], -1)
    a, (b, c, d) = conjugate[:, 0], conjugate[:, 1:].T
    relative = np.stack([a * w - b * x - c * y - d * z, a * x + b * w + c * z - d * y, a * y - b * z + c * w + d * x, a * z + b * y - c * x + d * w])
    first, second, third, fourth = -np.sort(-np.abs(relative), axis=0)
    cosine = np.max([first, (first + second) / np.sqrt(2), (first + second + third + fourth) / 2], axis=0)
    return np.asarray(2 * np.arccos(np.clip(cosine, 0.0, 1.0)))


def _approach_or_in_hand(names: Sequence[str], num_blocks: int, tolerance_m: float) -> PairKind:
    effector = _columns(names, [f"effector_{axis}_m" for axis in "xyz"])
    blocks = _columns(names, [f"block_{block}_{axis}_m" for block in range(num_blocks) for axis in "xyz"]).reshape(num_blocks, 3)

    def kind_of_pair(starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """0 where no block that must move is at hand, 1 otherwise; a block that only has to turn counts as one that must move."""
        must_move = np.stack([_norm(starts[:, block], goals[:, block]) > tolerance_m for block in blocks])
        is_at_hand = np.stack([_norm(starts[:, block], starts[:, effector]) < IN_HAND_M for block in blocks])
        return np.asarray((is_at_hand & (must_move | ~must_move.any(0))).any(0))

    return kind_of_pair


def _one_kind(starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
    return np.zeros(len(starts))


def _only_official(env: str, success: str | None) -> None:
    if success not in (None, "official"):
        raise EnvError(f"success of {env} cannot be {success!r}.{did_you_mean(str(success), ['official'])}")


def _columns(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    return np.array([list(names).index(name) for name in wanted])


def _norm(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(np.asarray(rows, np.float64) - np.asarray(others, np.float64), axis=-1))


def _largest(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(rows - others).max(-1))
