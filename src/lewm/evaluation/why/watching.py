"""The agent as it is, with a note of what each plan promised.

Axes: E episode, S candidate, H context, T model step, K elite, A action block, D latent, G what is compared with the goal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lewm.evaluation.arrivals import imagined_ends
from lewm.evaluation.why.oracles import Parts
from lewm.planning.base import Plan
from lewm.planning.costs import ImaginedCost
from lewm.planning.mpc import MPCPolicy
from lewm.planning.terms import Term

FEATURES = ("log of the distance at the imagined end", "log of the distance at the start", "log of the spread of the elites' costs")
SMALLEST = 1e-9


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What one plan promised."""

    end: float
    """The planner's distance to the goal at the imagined end: the last model step for cost ``last``, else the nearest."""
    start: float
    """The same for the latent that the plan starts from."""
    spread: float
    """Standard deviation of the elites' costs in the last iteration."""

    def features(self) -> list[float]:
        """One number for each of ``FEATURES``."""
        return [float(np.log(max(abs(value), SMALLEST))) for value in (self.end, self.start, self.spread)]


class WatchedCost(ImaginedCost):
    """A cost that remembers how far the best costs of its last candidates lay apart."""

    num_elites: int
    spread: Tensor | None = None

    def __call__(self, candidates: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S"]:
        """See ``ImaginedCost``."""
        costs = super().__call__(candidates)
        if costs.shape[1] > 1:  # a single candidate is the mean of the search, imagined for its cost
            self.spread = costs.topk(min(self.num_elites, costs.shape[1]), dim=1, largest=False).values.std(dim=1)
        return costs


class WatchedPolicy(MPCPolicy):
    """Plans and acts exactly as ``MPCPolicy`` does; ``promises`` has the plans of each episode seed, the first plan first."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts.model, parts.planner, parts.readout)
        self.distance = parts.distance
        self.promises: dict[int, list[Promise]] = {}
        self._watched: WatchedCost | None = None

    def cost(
        self, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], goals: Float[Tensor, "E G"], others: Sequence[Term] = ()
    ) -> ImaginedCost:
        """See ``MPCPolicy.cost``."""
        plain, config = super().cost(context, past_blocks, goals, others), self.config
        watched = WatchedCost(plain.rollout, context, past_blocks, plain.terms, max_batch_rows=config.max_batch_rows, precision=config.precision)
        watched.num_elites = config.num_elites
        self._watched = watched
        return watched

    @torch.no_grad()
    def plan_from(
        self,
        context: Float[Tensor, "E H D"],
        past_blocks: Float[Tensor, "E H-1 A"],
        goals: Float[Tensor, "E G"],
        *,
        seeds: Sequence[tuple[int, int]],
        initial: Float[Tensor, "E T A"] | None = None,
        previous: Float[Tensor, "E A"] | None = None,
        elites: Float[Tensor, "E K T A"] | None = None,
    ) -> Plan:
        """See ``MPCPolicy.plan_from``."""
        plan = super().plan_from(context, past_blocks, goals, seeds=seeds, initial=initial, previous=previous, elites=elites)
        ends = imagined_ends(self, context, past_blocks, plan, goals, self.distance)
        starts = self.distance(context[:, -1], goals)
        assert self._watched is not None
        spread = torch.zeros_like(ends) if self._watched.spread is None else self._watched.spread
        rows: Any = zip(seeds, ends.tolist(), starts.tolist(), spread.tolist(), strict=True)
        for (seed, _), end, start, spread_of_one in rows:
            self.promises.setdefault(seed, []).append(Promise(end=end, start=start, spread=spread_of_one))
        return plan
