"""What comes from outside a search: plans that another planner, a head or the training data propose, and a head's distance.

Axes: E episode, H context, P proposal, T model step, A action block, D latent, G what is compared with the goal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planner_config import LANDMARKS, ON_PROPOSALS
from lewm.planning.base import BlockSpace, Cost, Planner
from lewm.planning.costs import Rollout
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
    previous: Float[Tensor, "E A"]
    """The block executed before, in env units; zeros before an episode's start."""
    rollout: Rollout
    most_history: int
    """Observations that the model can be given at once."""


@runtime_checkable
class Actor(Protocol):
    """Chooses actions without a search."""

    def act(
        self, latents: Float[Tensor, "E D"], goals: Float[Tensor, "E D"], previous: Float[Tensor, "E A"], *, steps_to_goal: int
    ) -> Float[Tensor, "E A"]:
        """The next action block, in env units (discrete: one-hot); ``previous`` are the actions before it, zeros before an episode's start."""


RETRIEVAL = "retrieval"
"""Proposes what the training data hold: an actor that is made from a dataset, not trained."""
Proposer = Callable[[ProposalRequest], Float[Tensor, "E P T A"]]


def proposer_of(config: PlannerConfig, heads: Mapping[str, Any]) -> Proposer | None:
    """What ``planner.proposals`` names: a head of the run, or a planner with what it knows of the same settings; None where it names nothing.

    Of a deadline the proposing planner may use half.
    """
    name = config.proposals
    if not name:
        if config.name in ON_PROPOSALS:
            raise PlanningError(
                f"planner {config.name!r} needs planner.proposals: name a head of the run that acts (`lewm train --from RUN --stage inverse-goal` or "
                f"intent trains one), {RETRIEVAL!r}, or, but for 'direct', another planner"
            )
        return None
    if name in heads:
        return _head_proposer(name, heads[name], config.steps_to_goal)
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
    return named_distance(name, heads, "planner.distance")


def named_distance(name: str, heads: Mapping[str, Any], setting: str = "planner.landmark_distance") -> Distance:
    """What a head that a setting names measures."""
    if name not in heads:
        raise PlanningError(f"{setting} is {name!r}: {_no_such_head(heads)}")
    if not hasattr(heads[name], "distance"):
        raise PlanningError(f"{setting} is {name!r}: that head measures no distances (it has no method distance(latents, goals))")
    found: Distance = heads[name].distance
    return found


def needed_heads(config: PlannerConfig) -> tuple[str, ...]:
    """Names in the settings that are neither planners nor distances of lewm's own: heads of the run, or retrieval."""
    return tuple(
        dict.fromkeys(
            [name for name in (config.proposals,) if name and name not in PLANNERS]
            + [name for name in (config.distance,) if name not in DISTANCES]
            + [name for name in (config.landmark_distance,) if name]
        )
    )


def uses_training_data(config: PlannerConfig) -> bool:
    """Whether the settings look things up in the training set while acting."""
    return RETRIEVAL in needed_heads(config) or config.name == LANDMARKS


@torch.no_grad()
def imagined_acting(actor: Actor, request: ProposalRequest, *, steps_to_goal: int) -> Float[Tensor, "E 1 T A"]:
    """The blocks of an actor that is shown, after each of them, what the model imagines; within the world's bounds.

    With every block there are fewer env steps to the goal, but never fewer than one block.
    """
    context, past_blocks, previous, space, blocks = request.context, request.past_blocks, request.previous, request.space, []
    for step in range(request.horizon_model_steps):
        remaining = max(steps_to_goal - step * space.action_block, min(space.action_block, steps_to_goal))
        previous = space.executable(actor.act(context[:, -1], request.goals, previous, steps_to_goal=remaining))
        blocks.append(previous)
        imagined = request.rollout(context, past_blocks, previous[:, None, None])[:, 0]  # [E, 1, D]
        context = torch.cat([context, imagined], dim=1)[:, -request.most_history :]
        past_blocks = torch.cat([past_blocks, previous[:, None]], dim=1)
        past_blocks = past_blocks[:, past_blocks.shape[1] - (context.shape[1] - 1) :]
    return torch.stack(blocks, dim=1)[:, None]  # T -> E 1 T A


def _head_proposer(name: str, head: Any, steps_to_goal: int) -> Proposer:
    if isinstance(head, Actor):
        return lambda request: imagined_acting(head, request, steps_to_goal=steps_to_goal)
    if not hasattr(head, "propose"):
        raise PlanningError(f"planner.proposals is {name!r}: that head proposes no plans (it has no method act or propose)")

    def propose(request: ProposalRequest) -> Float[Tensor, "E P T A"]:
        with torch.no_grad():
            proposed: Tensor = head.propose(request.context, request.past_blocks, request.goals, request.horizon_model_steps)
        return proposed

    return propose


def _no_such_head(heads: Mapping[str, Any]) -> str:
    return f"this run has the heads {', '.join(sorted(heads))}" if heads else "this run has no heads"
