"""Search by gradient: the cost is differentiable, so blocks can follow it downhill.

Axes: E episode, R start, P proposal, T model step, A action block.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace, Cost, Plan, Trace, check_kind, check_usable, deadline_passed
from lewm.planning.distributions import GaussianBlocks, start_distribution
from lewm.planning.sampling import CEM, Tried, better, with_proposals
from lewm.registry import did_you_mean

NOT_ELEMENTWISE = frozenset({"Adafactor", "LBFGS", "Muon", "SparseAdam"})
"""Optimisers that look at a whole tensor, so that a plan would depend on its batch mates, or that need sparse gradients."""


class Gradient:
    """Any optimiser of torch on the blocks, from several starts; the plan is the cheapest point that any of them passed.

    The blocks are in standard deviations of the training actions; with ``use_bounds`` they are put back into the world's bounds after each step. The
    first start is the initial plan or the mean training action, the next ones are proposals, and the others are random.
    """

    def __init__(self, config: PlannerConfig) -> None:
        self.config = config
        self.optimizer = optimizer_class(config.optimizer)

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
        """See ``Planner.plan``. Memory grows with the number of starts: gradients need every imagined future at once."""
        check_kind(self.config.name, space.action_spec)
        deadline_s = self.config.deadline_s if deadline_s is None else deadline_s
        start = start_distribution(self.config, space, len(seeds), horizon_model_steps, initial, device or torch.device("cpu"))
        assert isinstance(start, GaussianBlocks)
        starts = start.sample(seeds, 0, max(self.config.num_restarts, 1 + (0 if proposals is None else proposals.shape[1])))
        starts = with_proposals(starts, start, proposals)
        return descend(self.optimizer, self.config, cost, start, starts, self.config.num_iterations, deadline_s, trace)


class CEMGradient:
    """CEM, then the gradient from its plan; whichever point of the way is cheapest is returned."""

    def __init__(self, config: PlannerConfig) -> None:
        self.config = config
        self.optimizer = optimizer_class(config.optimizer)
        self.search = CEM(config)

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
        start_s, deadline_s = time.monotonic(), self.config.deadline_s if deadline_s is None else deadline_s
        found = self.search.plan(
            cost,
            space,
            horizon_model_steps=horizon_model_steps,
            seeds=seeds,
            initial=initial,
            proposals=proposals,
            deadline_s=deadline_s,
            trace=trace,
            device=device,
        )
        left_s = None if deadline_s is None else deadline_s - (time.monotonic() - start_s)
        if left_s is not None and left_s <= 0:
            return found
        start = start_distribution(self.config, space, len(seeds), horizon_model_steps, found.blocks, device or torch.device("cpu"))
        assert isinstance(start, GaussianBlocks)
        refined = descend(self.optimizer, self.config, cost, start, start.centre[:, None], self.config.refine_iterations, left_s, trace)
        return replace(refined, num_iterations=found.num_iterations + refined.num_iterations)


def descend(
    optimizer: type[torch.optim.Optimizer],
    config: PlannerConfig,
    cost: Cost,
    space: GaussianBlocks,
    starts: Float[Tensor, "E R T A"],
    num_iterations: int,
    deadline_s: float | None,
    trace: Trace | None,
) -> Plan:
    """Steps of an optimiser from every start, in the units of ``space``, and the cheapest point of all; costs that are NaN never count."""
    start_s, num_done = time.monotonic(), 0
    points = space.normalise(space.env_units(starts)).detach().clone().requires_grad_()
    free = replace(space, config=replace(config, use_bounds=False))  # points are within bounds: clamping them again would stop gradients there
    optimize = optimizer([points], lr=config.step_size)  # type: ignore[call-arg]
    is_done = torch.zeros(len(starts), dtype=torch.bool, device=starts.device)
    has_only_nan = ~is_done
    best: Tried | None = None
    for _ in range(num_iterations):
        with torch.enable_grad():
            costs = cost(free.env_units(points))
            if not costs.requires_grad:
                raise PlanningError(f"planner {config.name!r} follows the gradient of the cost, and this cost has none: use a sampling planner")
            points.grad = torch.nan_to_num(torch.autograd.grad(costs.sum(), points)[0])
        costs = costs.detach()
        has_only_nan = has_only_nan & costs.isnan().all(1)
        best = better(best, Tried(points.detach().clone(), costs.masked_fill(costs.isnan(), torch.inf)).cheapest(1), is_done)
        num_done += 1
        if trace is not None:
            trace.best_cost.append(best.costs[:, 0])
            trace.mean.append(space.env_units(points.detach())[:, 0])
            trace.std.append(torch.zeros_like(space.centre))
        optimize.step()
        with torch.no_grad():
            points.copy_(space.normalise(space.env_units(points)))  # into the bounds
        if deadline_passed(start_s, deadline_s):
            break
    assert best is not None
    check_usable(has_only_nan)
    return Plan(blocks=space.env_units(best.samples)[:, 0], cost=best.costs[:, 0], num_iterations=num_done)


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The optimiser of torch called ``name``; ``PlanningError`` with a suggestion if there is none that treats numbers one by one."""
    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    usable = [key for key in known if key not in NOT_ELEMENTWISE]
    if name not in usable:
        why = "couples the plans of a batch" if name in known else "is no optimiser of torch.optim"
        raise PlanningError(f"planner.optimizer {name!r} {why}.{did_you_mean(name, usable)}")
    return known[name]
