"""What comes from outside a search: plans that another planner or a head proposes, and a head's distance.

Axes: E episode, H context, P proposal, T model step, A action block, D latent, G what is compared with the goal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace, Cost, Planner
from lewm.planning.terms import DISTANCES, Distance
from lewm.registry import PLANNERS

PROPOSAL_STREAM = 0x5EED_0FF5
"""Mixed into episode seeds, so that a proposing planner draws other noise than the one that it proposes to."""


@dataclass(frozen=True)
class ProposalRequest:
    """A planning problem, for whoever proposes plans."""

    cost: Cost
    space: BlockSpace
    horizon_model_steps: int
    seeds: Sequence[tuple[int, int]]
    initial: Float[Tensor, "E T A"] | None
    context: Float[Tensor, "E H D"]
    past_blocks: Float[Tensor, "E H-1 A"]
    goals: Float[Tensor, "E G"]


Proposer = Callable[[ProposalRequest], Float[Tensor, "E P T A"]]


def proposer_of(config: PlannerConfig, heads: Mapping[str, Any]) -> Proposer | None:
    """What ``planner.proposals`` names: a head of the run, or a planner with what it knows of the same settings; None where it names nothing.

    Of a deadline the proposing planner may use half.
    """
    name = config.proposals
    if not name:
        return None
    if name in heads:
        return _head_proposer(name, heads[name])
    if name not in PLANNERS:
        raise PlanningError(f"planner.proposals is {name!r}: {_no_such_head(heads)}, and the planners are {', '.join(PLANNERS)}")
    half_s = None if config.deadline_s is None else config.deadline_s / 2
    planner: Planner = PLANNERS.load(name)(config.switched(name, proposals="", deadline_s=half_s))

    def propose(request: ProposalRequest) -> Float[Tensor, "E P T A"]:
        plan = planner.plan(
            request.cost,
            request.space,
            horizon_model_steps=request.horizon_model_steps,
            seeds=[(episode ^ PROPOSAL_STREAM, plan) for episode, plan in request.seeds],
            initial=request.initial,
            device=request.context.device,
        )
        return plan.blocks[:, None]

    return propose


def distance_of(config: PlannerConfig, heads: Mapping[str, Any]) -> Distance:
    """What ``planner.distance`` names."""
    name = config.distance
    if name in DISTANCES:
        return DISTANCES[name]
    if name not in heads:
        raise PlanningError(f"planner.distance is {name!r}: {_no_such_head(heads)}, and the other distances are {', '.join(DISTANCES)}")
    if not hasattr(heads[name], "distance"):
        raise PlanningError(f"planner.distance is {name!r}: that head measures no distances (it has no method distance(latents, goals))")
    found: Distance = heads[name].distance
    return found


def _head_proposer(name: str, head: Any) -> Proposer:
    if not hasattr(head, "propose"):
        raise PlanningError(f"planner.proposals is {name!r}: that head proposes no plans (it has no method propose)")

    def propose(request: ProposalRequest) -> Float[Tensor, "E P T A"]:
        with torch.no_grad():
            proposed: Tensor = head.propose(request.context, request.past_blocks, request.goals, request.horizon_model_steps)
        return proposed

    return propose


def _no_such_head(heads: Mapping[str, Any]) -> str:
    return f"this run has the heads {', '.join(sorted(heads))}" if heads else "this run has no heads"
