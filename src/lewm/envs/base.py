"""The contract of every world: a Gymnasium environment with exact states and goals, and the same thing for many episodes at once.

Axes: E episode, V view, Y X image, a action, s label.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import gymnasium
import numpy as np

from lewm.errors import ConfigError, EnvError
from lewm.registry import ENVS
from lewm.schema import ActionSpec, Observation, ObservationSpec


class EpisodeError(EnvError):
    """An episode that its simulator cannot go on with; others are not affected."""


PerturbationEnd = Literal["low", "high", "far"]
"""Towards which end of its range a perturbation moves a value; ``far``: the one that is farther away."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A documented change of a world's looks or layout: usable at evaluation and, varied per episode, at collection."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    default: tuple[float, ...]
    unit: str
    summary: str

    def moved(self, values: np.ndarray, severity: float, end: PerturbationEnd) -> np.ndarray:
        """Values [n, k] moved towards an end of the range: the share ``severity`` of the way from where each is."""
        low, high, values = np.array(self.low, np.float64), np.array(self.high, np.float64), np.asarray(values, np.float64)
        far = np.where(high - values >= values - low, high, low)
        return np.asarray(values + severity * ({"low": low, "high": high, "far": far}[end] - values))


@dataclass(frozen=True, kw_only=True)
class UnseenLayouts:
    """A world whose layouts its sibling never draws, and how far apart the two are."""

    name: str
    """The perturbation that differs."""
    unit: str
    seen: tuple[tuple[float, float], ...]
    """Ranges from which episodes of the sibling draw."""
    unseen: tuple[tuple[float, float], ...]
    """Ranges from which this world draws."""
    margin: float
    """The two are nowhere nearer to each other."""
    options: dict[str, Any]
    """Of this world."""


class GoalEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray], ABC):
    """A world with exact states, named true quantities and goals that are states.

    ``reset`` and ``step`` follow Gymnasium; observations are dictionaries with ``frames`` uint8 [V, Y, X, 3] and, where a world has it,
    ``proprioception`` float32 [P].
    """

    VERSION: ClassVar[int]
    """Raised whenever the same seed and actions would give another result."""
    STRATA: ClassVar[tuple[str, ...]] = ()
    """Kinds of start/goal pair, the headline first; empty where there is only one kind."""
    PERTURBATIONS: ClassVar[dict[str, Perturbation]] = {}
    DATA_POLICY: ClassVar[str] = "random"
    """Who acts when nobody says: in collections, and in the episodes that evaluation pairs come from."""
    GOAL_COST: ClassVar[Literal["latent", "labels"]] = "latent"
    """What a planner compares with the goal by default: whole latents or, where goal frames hold things that the agent cannot move, only the
    labels of the success predicate, read off the latents by a probe."""
    POLICIES: ClassVar[dict[str, type["ScriptedPolicy"]]] = {}
    """Scripted policies by name, beside the generic ``random`` and ``block-random`` of ``envs/policies.py``."""
    observation_spec: ObservationSpec
    action_spec: ActionSpec
    label_names: tuple[str, ...]

    @classmethod
    @abstractmethod
    def make_batch(cls, num_envs: int, /, **options: Any) -> "GoalEnvBatch":
        """The same world for ``num_envs`` episodes at once, with the constructor's options."""

    @classmethod
    def unseen_layouts(cls, options: dict[str, Any]) -> UnseenLayouts | None:
        """The same world with layouts that a world with these options never draws; None in a world that knows none."""
        return None

    @abstractmethod
    def get_state(self) -> bytes:
        """The complete state, versioned: ``set_state`` of it continues exactly as this environment would."""

    @abstractmethod
    def set_state(self, state: bytes) -> None:
        """Take over a state of ``get_state``; ``EnvError`` if it is of another environment or version."""

    @abstractmethod
    def labels(self) -> np.ndarray:
        """float32 [s]: the true quantities named by ``label_names``."""

    @abstractmethod
    def set_goal(self, state: bytes) -> None:
        """Make a state the goal."""

    @abstractmethod
    def goal_frame(self) -> np.ndarray:
        """uint8 [V, Y, X, 3]: what the world looks like in the goal state."""

    @abstractmethod
    def is_solved(self) -> bool:
        """Whether the present state satisfies the success predicate for the goal."""


class GoalEnvBatch(Protocol):
    """E episodes of one world, stepped together; row e never depends on its batch mates. Frames are drawn only when asked for."""

    num_envs: int
    observation_spec: ObservationSpec
    action_spec: ActionSpec
    label_names: tuple[str, ...]
    goal_label_names: tuple[str, ...]
    """The labels that decide success: those that a label-masked goal cost compares."""

    def reset(self, seeds: Sequence[int]) -> None:
        """Start new episodes, one seed each, with a goal that the seed decides too."""

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance every episode by one env step: actions [E, a] -> (rewards float32 [E], terminated bool [E])."""

    def observe(self, *, out: np.ndarray | None = None) -> Observation[np.ndarray]:
        """Draw the present frames, uint8 [E, V, Y, X, 3], into ``out`` if given (C-contiguous); the arrays belong to the caller."""

    def labels(self) -> np.ndarray:
        """float32 [E, s]."""

    def get_states(self) -> list[bytes]:
        """The complete state of every episode."""

    def set_states(self, states: Sequence[bytes]) -> None:
        """Take over one state per episode."""

    def set_goals(self, states: Sequence[bytes]) -> None:
        """Make one state the goal of each episode."""

    def observe_goals(self) -> Observation[np.ndarray]:
        """What each goal looks like, uint8 [E, V, Y, X, 3]."""

    def is_solved(self) -> np.ndarray:
        """Which episodes are solved, bool [E]."""

    def strata(self, start_labels: np.ndarray, goal_labels: np.ndarray) -> np.ndarray:
        """int64 [n]: which of the world's ``STRATA`` each start/goal pair (labels [n, s]) belongs to; -1 if the pair must not be used."""

    def is_truncated(self) -> np.ndarray:
        """Which episodes have reached the world's own time limit, bool [E]; all False where there is none."""

    def at_rest(self, states: Sequence[bytes]) -> list[bytes]:
        """The same states with every velocity zero; ``EnvError`` in a world where that has no meaning."""

    def close(self) -> None:
        """Free what the operating system lent (renderers, emulators, processes); harmless when called twice."""


@runtime_checkable
class MeasuresGoals(Protocol):
    """A batch that can tell more than whether it is solved."""

    def goal_distance(self) -> np.ndarray:
        """float64 [E]: how far each episode is from its goal, in tolerances of the success predicate: 1 is the edge of success."""


@runtime_checkable
class TakesPerturbations(Protocol):
    """A batch whose states hold looks and layout, and can be given others."""

    def perturbed(self, states: Sequence[bytes], name: str, severity: float, end: PerturbationEnd) -> list[bytes | None]:
        """The same states with one of the world's ``PERTURBATIONS`` moved as ``Perturbation.moved`` does, each its own goal. Changes nothing here.

        None for a state that is not legal any more: its agent would overlap a wall, or could not be told from the background.
        """


class ScriptedPolicy(Protocol):
    """A policy that may look at the simulator's true state: data collection, floors and experts. Row e depends on its own seed only."""

    def reset(self, envs: GoalEnvBatch, seeds: Sequence[int], max_env_steps: int) -> None:
        """Begin new episodes of at most ``max_env_steps``; call after the environments were reset."""

    def act(self, envs: GoalEnvBatch) -> np.ndarray:
        """Actions [E, a] in env units for the present states; called once per env step."""


def make_batch(name: str, num_envs: int, /, **options: Any) -> GoalEnvBatch:
    """``num_envs`` episodes of the environment called ``name``; ``UnknownNameError`` or ``EnvError`` say what is wrong with the arguments."""
    env_class: type[GoalEnv] = ENVS.load(name)
    return env_class.make_batch(num_envs, **options)


def make_env(name: str, /, **options: Any) -> GoalEnv:
    """The Gymnasium environment called ``name``."""
    env_class: type[GoalEnv] = ENVS.load(name)
    return env_class(**options)


def canonical_name(name: str) -> str:
    """What an environment with several spellings calls itself (``atari/mspacman``: ``atari/ms_pacman``); others, and unknown names, as they are."""
    try:
        env_class = ENVS.load(name)
        own_name = str(getattr(env_class, "NAME", name))
        return own_name if own_name == name or ENVS.load(own_name) is env_class else name
    except ConfigError:
        return name


def move_moments(moments: np.ndarray, name: str, perturbation: Perturbation, severity: float, end: PerturbationEnd) -> np.ndarray:
    """A copy of structured moments [E] with one field moved; whole numbers are rounded."""
    moved = moments.copy()
    field = moved[name]
    values = perturbation.moved(field.reshape(len(field), -1), severity, end).reshape(field.shape)
    moved[name] = np.rint(values) if field.dtype.kind == "u" else values
    return moved


def check_count(what: str, count: int, num_envs: int) -> None:
    """``EnvError`` unless there is one value for each episode."""
    if count != num_envs:
        raise EnvError(f"{what}: got {count} for {num_envs} episodes; give one each")


def check_seeds(seeds: Sequence[int], num_envs: int) -> None:
    """``EnvError`` unless there is one seed in [0, 2**64) for each episode."""
    check_count("seeds", len(seeds), num_envs)
    for seed in seeds:
        if not 0 <= seed < 2**64:
            raise EnvError(f"a seed must be in [0, 2**64), got {seed}")
