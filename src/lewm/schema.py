"""The values that the stages pass to each other: observations, episodes, clips and what describes them.

Axes: B batch, N env step, T model step, V view (cameras x stacked frames), Y X image, P proprioception, a env action, A action block, s label.
Arrays are numpy on the way from a world or a disk and torch tensors on the way into a model; the types here are the same for both and import
neither torch nor an environment.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from lewm.errors import ConfigError

ArrayT = TypeVar("ArrayT")
OtherT = TypeVar("OtherT")


def _apply(function: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else function(value)


@dataclass(frozen=True)
class Observation(Generic[ArrayT]):
    """What an agent sees, at one time or at many: leading axes are free."""

    frames: ArrayT
    """uint8 [..., V, Y, X, 3], RGB, 0..255: scaled and normalised once, inside the model."""
    proprioception: ArrayT | None = None
    """float32 [..., P], or None where a world has none."""

    def map(self, function: Callable[[ArrayT], OtherT]) -> "Observation[OtherT]":
        """The observation with ``function`` applied to each array that is there."""
        return Observation(_apply(function, self.frames), _apply(function, self.proprioception))

    def __getitem__(self, index: Any) -> "Observation[ArrayT]":
        return self.map(lambda array: array[index])  # type: ignore[index]


@dataclass(frozen=True, kw_only=True)
class ObservationSpec:
    """How the frames of an observation came about: written into every dataset and checkpoint."""

    height_px: int
    width_px: int
    cameras: tuple[str, ...] = ("top",)
    """Camera names, in the order of the view axis."""
    stack_offsets_env_steps: tuple[int, ...] = (0,)
    """Times of the stacked frames relative to the observation, oldest first, 0 last: (-1, 0) also shows the frame one env step earlier."""
    proprioception: tuple[str, ...] = ()
    """Names of the proprioception columns; empty where there are none."""

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"cameras must be at least one distinct name, got {self.cameras}")
        offsets = self.stack_offsets_env_steps
        if not offsets or offsets[-1] != 0 or list(offsets) != sorted(set(offsets)):
            raise ConfigError(f"stack_offsets_env_steps must increase and end in 0, such as (-1, 0), got {offsets}")
        sides = (self.height_px, self.width_px)
        if any(not isinstance(number, int) for number in (*sides, *offsets)):
            raise ConfigError(f"frame sizes and stack offsets must be whole numbers, got {sides} and {offsets}")
        if self.height_px < 1 or self.width_px < 1:
            raise ConfigError(f"frames must be at least 1 x 1 px, got {self.height_px} x {self.width_px}")

    @property
    def num_views(self) -> int:
        """V: cameras times stacked frames; the stack of the first camera comes first."""
        return len(self.cameras) * len(self.stack_offsets_env_steps)

    @property
    def is_stacked(self) -> bool:
        """Whether several frames are stacked, so that a goal, one frame repeated, looks different from what moves."""
        return len(self.stack_offsets_env_steps) > 1

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """(V, Y, X, 3)."""
        return (self.num_views, self.height_px, self.width_px, 3)


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """The actions of a world, per env step and in its own units."""

    kind: Literal["continuous", "discrete", "none"]
    """``none``: video without actions; models of it can predict but not plan."""
    low: tuple[float, ...] = ()
    """Lower bound of each dimension (continuous)."""
    high: tuple[float, ...] = ()
    """Upper bound of each dimension (continuous)."""
    num_choices: int = 0
    """Number of different actions (discrete)."""
    action_repeat: int = 1
    """How often the world applies an env step's action: control steps (DMControl) or emulator frames (Atari) per env step."""

    def __post_init__(self) -> None:
        if self.kind not in ("continuous", "discrete", "none"):
            raise ConfigError(f"action kind must be one of continuous, discrete, none; got {self.kind!r}")
        if any(not isinstance(bound, int | float) for bound in (*self.low, *self.high)) or not isinstance(self.num_choices, int):
            raise ConfigError(f"action bounds must be numbers and num_choices a whole one, got {self.low}, {self.high} and {self.num_choices!r}")
        if self.kind == "continuous" and not (len(self.low) == len(self.high) > 0 and all(a < b for a, b in zip(self.low, self.high, strict=True))):
            raise ConfigError(f"a continuous action needs bounds low < high for each dimension, got {self.low} and {self.high}")
        if not isinstance(self.action_repeat, int) or self.action_repeat < 1:
            raise ConfigError(f"action_repeat must be a whole number of at least 1, got {self.action_repeat!r}")
        if self.kind == "discrete" and self.num_choices < 2:
            raise ConfigError(f"a discrete action needs at least 2 choices, got {self.num_choices}")

    @property
    def dimension(self) -> int:
        """a: the size of one env step's action as a model sees it (discrete: one-hot)."""
        return {"continuous": len(self.low), "discrete": self.num_choices, "none": 0}[self.kind]

    def block_dimension(self, action_block: int) -> int:
        """A: the size of the action block of one model step."""
        return self.dimension * action_block

    def as_blocks(self, actions: np.ndarray, action_block: int) -> np.ndarray:
        """Actions of consecutive env steps as blocks: [..., T * action_block (, a)] -> float32 [..., T, A]; discrete ones become one-hot."""
        if self.kind == "discrete":
            actions = np.eye(self.num_choices, dtype=np.float32)[actions]
        leading = actions.shape[:-2]
        return np.ascontiguousarray(actions, dtype=np.float32).reshape(
            *leading, actions.shape[-2] // action_block, self.block_dimension(action_block)
        )

    def from_blocks(self, blocks: np.ndarray, action_block: int) -> np.ndarray:
        """The inverse of ``as_blocks``: float32 [..., A] -> [..., action_block, a], or int64 [..., action_block] for discrete actions."""
        actions = blocks.reshape(*blocks.shape[:-1], action_block, self.dimension)
        return actions.argmax(-1).astype(np.int64) if self.kind == "discrete" else actions


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One recorded episode of N env steps: N + 1 observations and what happened between them."""

    observations: Observation[np.ndarray]
    """frames uint8 [N+1, cameras, Y, X, 3] (stacking happens when clips are cut), proprioception float32 [N+1, P] or None."""
    actions: np.ndarray | None
    """float32 [N, a] in env units, int64 [N] if discrete, None for video."""
    labels: np.ndarray | None = None
    """float32 [N+1, s]: true quantities for probes and predicates, named by the dataset."""
    rewards: np.ndarray | None = None
    """float32 [N]."""
    terminated: bool = False
    """Whether the world ended the episode (as against a time limit)."""
    seed: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)
    """Anything particular to this episode, JSON-serialisable: variation values, source file, task text."""

    @property
    def num_env_steps(self) -> int:
        """N."""
        return int(self.observations.frames.shape[0]) - 1


@dataclass(frozen=True)
class Clip(Generic[ArrayT]):
    """A batch of training windows: T transitions between T + 1 observations that are ``action_block`` env steps apart."""

    observations: Observation[ArrayT]
    """frames uint8 [B, T+1, V, Y, X, 3]."""
    blocks: ArrayT
    """float32 [B, T, A], in env units (discrete: one-hot per env step); A = 0 for video."""
    rewards: ArrayT | None
    """float32 [B, T], summed over each block."""
    labels: ArrayT | None
    """float32 [B, T+1, s]."""
    episode: ArrayT
    """int64 [B]: episode ids."""
    start_env_step: ArrayT
    """int64 [B]: env step of the first observation within its episode."""

    def map(self, function: Callable[[ArrayT], OtherT]) -> "Clip[OtherT]":
        """The clip with ``function`` applied to each array that is there."""
        return Clip(
            self.observations.map(function),
            _apply(function, self.blocks),
            _apply(function, self.rewards),
            _apply(function, self.labels),
            _apply(function, self.episode),
            _apply(function, self.start_env_step),
        )
