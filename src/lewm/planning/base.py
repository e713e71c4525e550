"""What a planner is given, what it returns, and what an agent built on one looks like to the rest of lewm.

Axes: E episode, S candidate, T model step, A action block, a env action, D latent, V view, Y X image.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.errors import PlanningError
from lewm.schema import ActionSpec, Observation

Cost = Callable[[Float[Tensor, "E S T A"]], Float[Tensor, "E S"]]
"""How bad each candidate is, for each episode: lower is better, differentiable, candidates in env units (discrete: one-hot)."""


@dataclass(frozen=True, kw_only=True)
class BlockSpace:
    """The blocks that a planner may choose from: bounds and typical values per env step, in env units."""

    action_spec: ActionSpec
    action_block: int
    mean: tuple[float, ...]
    """Mean of the training actions, per dimension [a]."""
    std: tuple[float, ...]
    """Standard deviation of the training actions, per dimension [a]."""

    def __post_init__(self) -> None:
        if self.action_spec.kind == "none":
            raise PlanningError("this model was trained on video without actions: it can predict but not plan")

    @property
    def block_dimension(self) -> int:
        """A."""
        return self.action_spec.block_dimension(self.action_block)

    def per_block(self, values: Sequence[float], device: torch.device) -> Float[Tensor, " A"]:
        """Per-env-step values [a], repeated for each env step of a block."""
        return torch.tensor(tuple(values), dtype=torch.float32, device=device).repeat(self.action_block)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One plan per episode."""

    blocks: Float[Tensor, "E T A"]
    """In env units, within the bounds."""
    cost: Float[Tensor, " E"]
    """Cost of exactly these blocks."""
    num_iterations: int
    """Iterations that were run: fewer than asked for if a deadline came first."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Collects what a search did, one entry per iteration, when a caller wants to look inside."""

    best_cost: list[Float[Tensor, " E"]]
    mean: list[Float[Tensor, "E T A"]]
    std: list[Float[Tensor, "E T A"]]


class Planner(Protocol):
    """A search for blocks of low cost."""

    def plan(
        self,
        cost: Cost,
        space: BlockSpace,
        *,
        horizon_model_steps: int,
        seeds: Sequence[tuple[int, int]],
        initial: Float[Tensor, "E T A"] | None = None,
        proposals: Float[Tensor, "E P T A"] | None = None,
        deadline_s: float | None = None,
        trace: Trace | None = None,
        device: torch.device | None = None,
    ) -> Plan:
        """Plan for every episode at once.

        ``seeds`` holds (episode seed, plan index) per episode; with the iteration they determine all noise, so a plan does not depend on its batch
        mates. ``initial`` is where the search starts (default: the mean of the training actions), ``proposals`` are P candidates to try as well,
        both in env units. With ``deadline_s`` the best plan so far is returned when the time is up.
        """


class Policy(Protocol):
    """An agent for goals given as observations; ``MPCPolicy`` is one. Stateless itself: what an episode needs is in its state."""

    def reset(self, goals: Observation[np.ndarray], seeds: Sequence[int]) -> Any:
        """A state for E new episodes: goals with leading axis E, one seed each."""

    def act(self, observations: Observation[np.ndarray] | None, state: Any) -> tuple[np.ndarray, Any]:
        """Actions [E, a] in env units for this env step, and the next state. ``observations`` may be None when ``needs_frame`` said no."""

    def needs_frame(self, state: Any) -> bool:
        """Whether the next ``act`` looks at its observations: a loop can skip rendering otherwise."""

    def select(self, state: Any, episodes: np.ndarray) -> Any:
        """The state of some of the episodes (bool [E] or indices): finished ones drop out of the batch."""


def deadline_passed(start_s: float, deadline_s: float | None) -> bool:
    """Whether ``deadline_s`` seconds have gone by since ``time.monotonic()`` said ``start_s``."""
    return deadline_s is not None and time.monotonic() - start_s >= deadline_s
