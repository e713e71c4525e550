"""Search by sampling: draw candidates from a distribution, imagine them, move the distribution towards the good ones.

One loop; the planners differ in how they move the distribution, in what they return and in what they keep.

Axes: E episode, S candidate, K elite, P proposal, T model step, A action block.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.planning.base import BlockSpace, Cost, Plan, Trace, check_kind, check_usable, deadline_passed
from lewm.planning.distributions import CategoricalBlocks, GaussianBlocks, merged, start_distribution

Distribution = GaussianBlocks | CategoricalBlocks


@dataclass(frozen=True)
class Tried:
    """Candidates in the search's own units, and what they cost: infinitely much where the cost was NaN."""

    samples: Float[Tensor, "E S T A"]
    costs: Float[Tensor, "E S"]

    def cheapest(self, count: int) -> "Tried":
        """The ``count`` best of each episode, best first."""
        costs, index = self.costs.topk(count, dim=1, largest=False)
        return Tried(self.samples.take_along_dim(index[:, :, None, None], dim=1), costs)

    def with_others(self, others: "Tried | None") -> "Tried":
        """These and then the others."""
        if others is None:
            return self
        return Tried(torch.cat([self.samples, others.samples], dim=1), torch.cat([self.costs, others.costs], dim=1))


class SamplingSearch(ABC):
    """The loop. A cost that is NaN counts as infinite: such a candidate weighs nothing.

    Candidate 0 is the mode of the distribution. Each episode's plan depends on its own costs and seed only, also where others stop earlier. Nothing
    waits for the device before the end, unless there is a deadline or an early stop.
    """

    RETURNS_BEST: ClassVar[bool] = True
    """Whether the plan is the cheapest candidate of all iterations or the mode of the last distribution."""

    def __init__(self, config: PlannerConfig) -> None:
        self.config = config

    @torch.no_grad()
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
        check_kind(self.config.name, space.action_spec)
        start_s, deadline_s = time.monotonic(), self.config.deadline_s if deadline_s is None else deadline_s
        found = start_distribution(self.config, space, len(seeds), horizon_model_steps, initial, device or torch.device("cpu"))
        is_done = torch.zeros(len(seeds), dtype=torch.bool, device=device)
        has_only_nan = ~is_done
        best: Tried | None = None
        kept: Tried | None = None
        num_iterations = 0
        for iteration in range(self.config.num_iterations):
            samples = found.sample(seeds, iteration, self.config.candidates_in(iteration))
            samples = with_proposals(samples, found, proposals) if iteration == 0 else samples
            costs = cost(found.env_units(samples))
            has_only_nan = has_only_nan & costs.isnan().all(1)
            pool = Tried(samples, costs.masked_fill(costs.isnan(), torch.inf)).with_others(kept)
            kept = self.kept(pool)
            before, best = best, better(best, pool.cheapest(1), is_done)
            found = merged(is_done, found, self.moved(found, pool, best))
            num_iterations += 1
            if trace is not None:
                trace.best_cost.append(pool.costs.amin(1))
                trace.mean.append(found.mean)
                trace.std.append(found.std)
            is_done = is_done | self._stops(found, before, best)
            if deadline_passed(start_s, deadline_s) or (self._may_stop and bool(is_done.all())):
                break
        assert best is not None
        plan = self._result(cost, found, best, num_iterations)
        check_usable(has_only_nan)
        return plan if kept is None else replace(plan, elites=found.env_units(kept.samples))

    @abstractmethod
    def moved(self, found: Distribution, tried: Tried, best: Tried) -> Distribution:
        """The distribution after an iteration."""

    def kept(self, tried: Tried) -> Tried | None:
        """Candidates that count in the next iteration too, without being imagined again."""
        return None

    @property
    def _may_stop(self) -> bool:
        return self.config.stop_std > 0 or self.config.stop_improvement > 0

    def _stops(self, found: Distribution, before: Tried | None, best: Tried) -> Bool[Tensor, " E"]:
        """Whose search ends here, by its own standard deviation and its own progress."""
        is_narrow = found.std.flatten(1).amax(1) < self.config.stop_std
        if before is None or self.config.stop_improvement == 0:
            return is_narrow
        gained = (before.costs - best.costs)[:, 0]
        return is_narrow | (gained < self.config.stop_improvement * before.costs[:, 0].abs())

    def _result(self, cost: Cost, found: Distribution, best: Tried, num_iterations: int) -> Plan:
        blocks, costs = found.env_units(best.samples)[:, 0], best.costs[:, 0]
        if not (self.RETURNS_BEST or found.RETURNS_BEST):
            mode_costs = cost(found.mode[:, None])[:, 0]
            is_usable = ~mode_costs.isnan()
            blocks, costs = torch.where(is_usable[:, None, None], found.mode, blocks), torch.where(is_usable, mode_costs, costs)
        return Plan(blocks=blocks, cost=costs, num_iterations=num_iterations)


class CEM(SamplingSearch):
    """Cross-entropy method: refit a distribution on the elites.

    Continuous actions have a diagonal Gaussian, and its mean is the plan. Discrete ones have a categorical distribution per env step, and the plan
    is the candidate of lowest cost that any iteration tried.
    """

    RETURNS_BEST = False

    def moved(self, found: Distribution, tried: Tried, best: Tried) -> Distribution:
        """Refitted on the elites."""
        elites = tried.cheapest(self.config.num_elites)
        return found.refit(elites.samples, finite_shares(elites.costs))


class ICEM(CEM):
    """CEM with coloured noise, elites that are kept, and fewer candidates from iteration to iteration (iCEM, arXiv 2008.06389).

    The share ``elites_kept`` of the elites counts in the next iteration without being imagined again; those of the last one come back, shifted by
    the agent, as proposals for the next plan. The plan is the cheapest candidate of all iterations.
    """

    RETURNS_BEST = True

    def kept(self, tried: Tried) -> Tried | None:
        """The best of the elites."""
        count = num_kept(self.config)
        return tried.cheapest(count) if count else None


class MPPI(SamplingSearch):
    """Model-predictive path integral: every candidate counts, by the exponential of its cost; mean and standard deviation adapt.

    The temperature is in standard deviations of the candidates' costs, so that it means the same for any cost. The plan is the mean.
    """

    RETURNS_BEST = False

    def moved(self, found: Distribution, tried: Tried, best: Tried) -> Distribution:
        """Refitted on all candidates, weighted."""
        return found.refit(tried.samples, path_integral_weights(tried.costs, self.config.temperature))


class PredictiveSampling(SamplingSearch):
    """The best of noisy candidates around the best so far (arXiv 2212.00541); the noise stays as it is."""

    def moved(self, found: Distribution, tried: Tried, best: Tried) -> Distribution:
        """Centred on the best candidate."""
        assert isinstance(found, GaussianBlocks)
        return replace(found, centre=best.samples[:, 0])


def num_kept(config: PlannerConfig) -> int:
    """Elites that iCEM keeps."""
    return round(config.elites_kept * config.num_elites)


def finite_shares(costs: Float[Tensor, "E K"]) -> Float[Tensor, "E K"]:
    """The same weight for all finite costs and none for the others; all alike where none is finite. They sum to 1."""
    is_finite = costs.isfinite()
    is_finite = is_finite | ~is_finite.any(1, keepdim=True)
    return is_finite.to(costs) / is_finite.sum(1, keepdim=True)


def path_integral_weights(costs: Float[Tensor, "E S"], temperature: float) -> Float[Tensor, "E S"]:
    """exp(-cost / lambda), normalised, with lambda = ``temperature`` * standard deviation of the finite costs; infinite costs weigh nothing."""
    shares = finite_shares(costs)
    finite = costs.masked_fill(~costs.isfinite(), 0)
    mean = (shares * finite).sum(1, keepdim=True)
    spread = (shares * (finite - mean).square()).sum(1, keepdim=True).sqrt()
    exponents = ((mean - finite) / (temperature * spread).clamp_min(torch.finfo(costs.dtype).tiny)).masked_fill(shares == 0, -torch.inf)
    return exponents.softmax(1)


def with_proposals(samples: Float[Tensor, "E S T A"], found: Distribution, proposals: Float[Tensor, "E P T A"] | None) -> Float[Tensor, "E S T A"]:
    """The samples after the first with proposals in their places; where a proposal is NaN, the sample stays."""
    if proposals is None:
        return samples
    proposed = found.normalise(proposals.to(samples))[:, : samples.shape[1] - 1]
    places = slice(1, 1 + proposed.shape[1])
    return torch.cat([samples[:, :1], torch.where(proposed.isnan(), samples[:, places], proposed), samples[:, places.stop :]], dim=1)


def better(best: Tried | None, new: Tried, is_done: Bool[Tensor, " E"]) -> Tried:
    """The cheaper candidate of each episode, the old one of equals and for episodes that are done."""
    if best is None:
        return new
    is_better = (new.costs < best.costs) & ~is_done[:, None]
    return Tried(torch.where(is_better[:, :, None, None], new.samples, best.samples), torch.where(is_better, new.costs, best.costs))
