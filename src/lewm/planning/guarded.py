"""A small search around what an actor proposes: it stays near the proposal, and mends what the model sees go wrong.

Axes: E episode, P proposal, T model step, A action block.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace, Cost, Plan, Trace
from lewm.planning.sampling import CEM

ELITES_SHARE = 8
"""One of so many candidates is an elite."""


class Guarded(CEM):
    """The cross-entropy method with few candidates, begun around the first proposal (INTACT's guarded planner: 128 candidates, 3 iterations).

    Its size and width are ``guard_num_candidates``, ``guard_num_iterations`` and ``guard_std``; all else is ``cem``'s. Discrete actions begin with
    half of the probability on the proposal's choices.
    """

    def __init__(self, config: PlannerConfig) -> None:
        super().__init__(
            config.switched(
                "cem",
                num_candidates=config.guard_num_candidates,
                num_elites=max(2, config.guard_num_candidates // ELITES_SHARE),
                num_iterations=config.guard_num_iterations,
                initial_std=config.guard_std,
            )
        )

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
        """See ``Planner.plan``; an ``initial`` plan is tried as one more proposal. ``PlanningError`` without proposals."""
        if proposals is None:
            raise PlanningError("planner 'guarded' searches around proposals and was given none: set planner.proposals, or use planner 'cem'")
        start = proposals[:, 0]
        if space.action_spec.kind == "discrete":
            start = 0.5 * start + 0.5 * space.typical(start.device)
        tried = proposals if initial is None else torch.cat([proposals, initial[:, None]], dim=1)
        return super().plan(
            cost,
            space,
            horizon_model_steps=horizon_model_steps,
            seeds=seeds,
            initial=start,
            proposals=tried,
            deadline_s=deadline_s,
            trace=trace,
            device=device,
        )
