"""Search by sampling: draw candidates from a distribution, imagine them, move the distribution towards the good ones.

Axes: E episode, S candidate, P proposal, T model step, A action block.
"""

import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace, Cost, Plan, Trace, deadline_passed
from lewm.planning.distributions import start_distribution


class CEM:
    """Cross-entropy method: refit a distribution on the elites, a fixed number of times.

    Continuous actions have a diagonal Gaussian, and its mean is the plan. Discrete ones have a categorical distribution per env step, and the plan
    is the candidate of lowest cost that any iteration tried. Candidate 0 is the mode. A cost that is NaN counts as infinite: such a candidate is an
    elite only where fewer than ``num_elites`` others have a finite cost.
    """

    def __init__(self, config: PlannerConfig) -> None:
        self.config = config

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
        """See ``Planner.plan``."""
        start_s = time.monotonic()
        found = start_distribution(self.config, space, len(seeds), horizon_model_steps, initial, device or torch.device("cpu"))
        best: tuple[Float[Tensor, "E T A"], Float[Tensor, " E"]] | None = None
        num_iterations = 0
        for iteration in range(self.config.num_iterations):
            samples = found.sample(seeds, iteration)
            if proposals is not None and iteration == 0:
                samples[:, 1 : 1 + proposals.shape[1]] = found.normalise(proposals)[:, : self.config.num_candidates - 1]
            blocks = found.env_units(samples)
            costs = _without_nan(cost(blocks))
            elites = costs.topk(self.config.num_elites, dim=1, largest=False).indices
            found = found.refit(samples.take_along_dim(elites[:, :, None, None], dim=1))
            num_iterations += 1
            if found.RETURNS_BEST:
                best = _better(best, blocks, costs)
            if trace is not None:
                trace.best_cost.append(costs.amin(1))
                trace.mean.append(found.mean)
                trace.std.append(found.std)
            if deadline_passed(start_s, deadline_s):
                break
        plan = found.mode if best is None else best[0]
        return Plan(blocks=plan, cost=cost(plan[:, None])[:, 0] if best is None else best[1], num_iterations=num_iterations)


def _better(
    best: tuple[Float[Tensor, "E T A"], Float[Tensor, " E"]] | None, blocks: Float[Tensor, "E S T A"], costs: Float[Tensor, "E S"]
) -> tuple[Float[Tensor, "E T A"], Float[Tensor, " E"]]:
    """The cheapest blocks and their cost, per episode, of the best so far and of new candidates; of equal ones the first."""
    first = costs.argmin(1)
    new, new_costs = blocks.take_along_dim(first[:, None, None, None], dim=1)[:, 0], costs.take_along_dim(first[:, None], dim=1)[:, 0]
    if best is None:
        return new, new_costs
    is_better = new_costs < best[1]
    return torch.where(is_better[:, None, None], new, best[0]), torch.where(is_better, new_costs, best[1])


def _without_nan(costs: Float[Tensor, "E S"]) -> Float[Tensor, "E S"]:
    is_nan = costs.isnan()
    if bool(is_nan.all(1).any()):
        raise PlanningError("every candidate has a cost that is not a number: the model's weights or its input are damaged")
    return costs.masked_fill(is_nan, torch.inf)
