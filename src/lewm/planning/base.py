"""What a planner is given, what it returns, and what an agent built on one looks like to the rest of lewm.

Axes: E episode, S candidate, P proposal, K elite, H context, T model step, A action block, a env action, D latent, G what is compared with the goal,
s label, V view, Y X image.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lewm.errors import PlanningError
from lewm.planner_config import CONTINUOUS_ONLY
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
        """Per-env-step values [a], repeated for each env step of a block; shared between calls: not to be changed in place."""
        return _repeated(tuple(values), self.action_block, device)

    def typical(self, device: torch.device) -> Float[Tensor, " A"]:
        """What is known of a block before any search: the mean of the training actions, or the same probability for every choice.

        The tensor is the caller's own.
        """
        choices = self.action_spec.num_choices
        return self.per_block((1 / choices,) * choices if self.action_spec.kind == "discrete" else self.mean, device).clone()

    def executable(self, blocks: Float[Tensor, "*E A"]) -> Float[Tensor, "*E A"]:
        """The nearest blocks that the world takes: within its bounds, or one-hot."""
        if self.action_spec.kind == "discrete":
            return one_hot_choices(blocks, self.action_spec.num_choices)
        return blocks.clamp(self.per_block(self.action_spec.low, blocks.device), self.per_block(self.action_spec.high, blocks.device))


@dataclass(frozen=True, kw_only=True)
class LinearReadout:
    """Labels that a linear map reads off latents: ``latents @ weights + bias``."""

    weights: Float[Tensor, "D s"]
    bias: Float[Tensor, " s"]

    def read(self, latents: Float[Tensor, "*E D"]) -> Float[Tensor, "*E s"]:
        """The labels, in the unit of the map (standard deviations of the training labels where it decides a goal cost)."""
        return latents @ self.weights.to(latents) + self.bias.to(latents)

    def on(self, device: torch.device) -> "LinearReadout":
        """The same on a device: copied once, and not at every reading."""
        return LinearReadout(weights=self.weights.to(device), bias=self.bias.to(device))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One plan per episode."""

    blocks: Float[Tensor, "E T A"]
    """In env units; discrete: one-hot. A planner without ``use_bounds`` may leave the world's bounds: ``BlockSpace.executable`` comes after it."""
    cost: Float[Tensor, " E"]
    """Cost of exactly these blocks."""
    num_iterations: int
    """Iterations that were run: fewer than asked for if a deadline or an early stop came first."""
    elites: Float[Tensor, "E K T A"] | None = None
    """Good candidates, of a planner that wants them back, shifted, as proposals for the next plan."""


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
        mates. ``initial`` is where the search starts, in env units (default: the mean of the training actions); for discrete actions it holds a
        probability per choice (default: all alike), so a one-hot plan there means that nothing else is tried at first. ``proposals`` are P
        candidates to try as well, in env units; one that is NaN throughout is none. With ``deadline_s`` (default: the planner's own setting) the
        best plan so far is returned when the time is up. ``PlanningError`` for actions that the planner does not search, and where every candidate
        of an episode costs NaN.
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


@functools.lru_cache(maxsize=64)
def _repeated(values: tuple[float, ...], count: int, device: torch.device) -> Float[Tensor, " A"]:
    """Kept, because a copy to a GPU waits for all that it has still to do, and a search asks in every iteration.

    Every caller gets the same tensor: nobody may change it in place.
    """
    with torch.inference_mode(False):  # it may be asked for again outside
        return torch.tensor(values, dtype=torch.float32, device=device).repeat(count)


def one_hot_choices(blocks: Float[Tensor, "*E A"], num_choices: int) -> Float[Tensor, "*E A"]:
    """The largest number of each env step becomes 1, the others 0; of equal ones the first wins."""
    choices = blocks.reshape(*blocks.shape[:-1], -1, num_choices).argmax(-1)  # A -> env step, choice
    return torch.nn.functional.one_hot(choices, num_choices).to(blocks).flatten(-2)


def check_kind(planner: str, action_spec: ActionSpec) -> None:
    """``PlanningError`` for discrete actions with a planner that searches continuous ones only."""
    if action_spec.kind == "discrete" and planner in CONTINUOUS_ONLY:
        raise PlanningError(f"planner {planner!r} searches continuous actions, and this world's are {action_spec.num_choices} choices: use 'cem'")


def check_usable(has_only_nan: Bool[Tensor, " E"]) -> None:
    """``PlanningError`` if no candidate of an episode ever had a cost. Waits for the device, so it comes last."""
    if bool(has_only_nan.any()):
        raise PlanningError("every candidate has a cost that is not a number: the model's weights or its input are damaged")


def deadline_passed(start_s: float, deadline_s: float | None) -> bool:
    """Whether ``deadline_s`` seconds have gone by since ``time.monotonic()`` said ``start_s``; waits for what a GPU has still to do."""
    if deadline_s is None:
        return False
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - start_s >= deadline_s
