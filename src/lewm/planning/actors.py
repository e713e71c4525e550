"""Those that act without a search: which of them a planner needs, and what they would do in a model's imagination.

Axes: E episode, S candidate, P proposal, H context, T model step, A action block, N env step, D latent.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace
from lewm.registry import PLANNERS

Rollout = Callable[[Float[Tensor, "E H D"], Float[Tensor, "E H-1 A"], Float[Tensor, "E S T A"]], Float[Tensor, "E S T D"]]
"""``WorldModel.rollout``."""


@runtime_checkable
class Actor(Protocol):
    """Chooses actions without a search."""

    def act(
        self, latents: Float[Tensor, "E D"], goals: Float[Tensor, "E D"], previous: Float[Tensor, "E A"], *, steps_to_goal: int
    ) -> Float[Tensor, "E A"]:
        """The next action block, in env units (discrete: one-hot); ``previous`` are the actions before it, zeros before an episode's start."""


def needed_heads(config: PlannerConfig) -> tuple[str, ...]:
    """Names of the actor and the networks on latents that the settings need: planners with ``NEEDS_PROPOSALS`` an actor, some costs a head."""
    needs_actor = getattr(PLANNERS.load(config.name), "NEEDS_PROPOSALS", False)
    return ((config.actor,) if needs_actor else ()) + (("distance",) if config.cost == "distance" else ())


def check_heads(config: PlannerConfig, heads: Mapping[str, nn.Module | Actor]) -> dict[str, nn.Module | Actor]:
    """Those of the heads that are needed; ``PlanningError`` if one is missing, or if two settings contradict each other."""
    if config.cost == "distance" and config.goal == "labels":
        raise PlanningError("planner.cost 'distance' compares whole latents: it has no use for planner.goal 'labels'; leave one of them out")
    needed = needed_heads(config)
    missing = [name for name in needed if name not in heads]
    if missing:
        what = f"planner.cost {config.cost!r}" if missing[0] == "distance" else f"planner {config.name!r}"
        raise PlanningError(f"{what} needs {missing[0]!r}, which was not given; `lewm train --from RUN --stage {missing[0]}` trains a head")
    return {name: heads[name] for name in needed}


def actor_of(config: PlannerConfig, heads: Mapping[str, nn.Module | Actor]) -> Actor | None:
    """Who proposes actions to the planner, if it needs proposals."""
    return cast(Actor, heads[config.actor]) if config.actor in heads else None


@torch.no_grad()
def propose(
    actor: Actor,
    rollout: Rollout,
    context: Float[Tensor, "E H D"],
    past_blocks: Float[Tensor, "E H-1 A"],
    goals: Float[Tensor, "E D"],
    previous: Float[Tensor, "E A"],
    space: BlockSpace,
    *,
    num_steps: int,
    most_history: int,
    steps_to_goal: int,
) -> Float[Tensor, "E 1 T A"]:
    """The blocks of an actor that is shown, after each of them, what the model imagines; within the world's bounds.

    With every block there are fewer env steps to the goal, but never fewer than one block.
    """
    blocks = []
    for step in range(num_steps):
        remaining = max(steps_to_goal - step * space.action_block, min(space.action_block, steps_to_goal))
        previous = space.executable(actor.act(context[:, -1], goals, previous, steps_to_goal=remaining))
        blocks.append(previous)
        imagined = rollout(context, past_blocks, previous[:, None, None])[:, 0]  # [E, 1, D]
        context = torch.cat([context, imagined], dim=1)[:, -most_history:]
        past_blocks = torch.cat([past_blocks, previous[:, None]], dim=1)
        past_blocks = past_blocks[:, past_blocks.shape[1] - (context.shape[1] - 1) :]
    return torch.stack(blocks, dim=1)[:, None]  # T -> E 1 T A
