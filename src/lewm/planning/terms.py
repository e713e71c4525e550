"""What can make an imagined future good or bad: pieces of a cost, each a function of the imagined latents and of the blocks that lead to them.

Axes: E all episodes, e episodes of a chunk, S candidate, T model step, W waypoint, A action block, N env step, a env action, D latent,
G what is compared with the goal (D latent dimensions, or s labels), s label.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lewm.planning.base import BlockSpace, LinearReadout

Distance = Callable[[Float[Tensor, "*E D"], Float[Tensor, "*E G"]], Float[Tensor, "*E"]]
"""How far latents are from goals of the same leading axes: not negative, differentiable. A temporal-distance network is one."""
CostKind = Literal["last", "min", "sum", "prefix"]


Term = Callable[[Float[Tensor, "e S T D"], Float[Tensor, "e S T A"], slice], Float[Tensor, "e S"]]
"""One piece of a cost: its value for each candidate of some of the episodes, which the slice says, from the imagined latents and the candidates."""


@dataclass(frozen=True, kw_only=True)
class GoalTerm:
    """The distance of imagined latents to one goal per episode, reduced over the horizon, plus ``mean_weight`` times its mean."""

    goals: Float[Tensor, "E G"]
    distance: Distance
    kind: CostKind = "last"
    mean_weight: float = 0.0
    prefix_power: float = 1.0

    def __call__(self, imagined: Float[Tensor, "e S T D"], candidates: Float[Tensor, "e S T A"], episodes: slice) -> Float[Tensor, "e S"]:
        """See ``Term``."""
        if self.kind == "last" and self.mean_weight == 0:
            imagined = imagined[:, :, -1:]  # nobody asks about the others, and a head is not free
        distances = distances_to(self.goals[episodes], imagined, self.distance)
        return reduce_over_horizon(distances, self.kind, self.prefix_power) + self.mean_weight * distances.mean(-1)


@dataclass(frozen=True, kw_only=True)
class WaypointTerm:
    """Goals to be passed one after the other, the last of them last.

    A future is as good as the best times at which it passes them: the smallest weighted sum of distances over all times that do not decrease from
    one waypoint to the next. With kind ``last`` the last waypoint counts at the end of the horizon, with ``min`` whenever it is nearest.
    """

    waypoints: Float[Tensor, "E W G"]
    weights: Float[Tensor, " W"]
    distance: Distance
    kind: Literal["last", "min"] = "last"

    def __call__(self, imagined: Float[Tensor, "e S T D"], candidates: Float[Tensor, "e S T A"], episodes: slice) -> Float[Tensor, "e S"]:
        """See ``Term``."""
        passed = torch.zeros_like(imagined[..., 0])  # e S T: the least cost of having passed all waypoints so far by step t
        for number, weight in enumerate(self.weights.to(imagined)):
            passed_before = passed.cummin(-1).values
            passed = passed_before + weight * distances_to(self.waypoints[episodes, number], imagined, self.distance)
        return reduce_over_horizon(passed, self.kind)


@dataclass(frozen=True, kw_only=True)
class ActionTerm:
    """Penalties on the actions themselves, in standard deviations of the training actions.

    ``action_penalty`` weighs the mean square of their distance from the mean training action, ``smoothness_penalty`` that of their change from one
    env step to the next, across blocks too.
    """

    space: BlockSpace
    action_penalty: float = 0.0
    smoothness_penalty: float = 0.0

    def __call__(self, imagined: Float[Tensor, "e S T D"], candidates: Float[Tensor, "e S T A"], episodes: slice) -> Float[Tensor, "e S"]:
        """See ``Term``."""
        mean, std = (self.space.per_block(values, candidates.device).to(candidates) for values in (self.space.mean, self.space.std))
        scores = ((candidates - mean) / std).reshape(*candidates.shape[:2], -1, len(self.space.mean))  # T A -> N a
        penalty = self.action_penalty * scores.square().mean((-1, -2))
        if self.smoothness_penalty == 0 or scores.shape[2] == 1:
            return penalty
        return penalty + self.smoothness_penalty * scores.diff(dim=2).square().mean((-1, -2))


def squared_l2(latents: Float[Tensor, "*E D"], goals: Float[Tensor, "*E D"]) -> Float[Tensor, "*E"]:
    """The paper's distance."""
    return (latents - goals).square().sum(-1)


def cosine_distance(latents: Float[Tensor, "*E D"], goals: Float[Tensor, "*E D"]) -> Float[Tensor, "*E"]:
    """1 - cosine of the angle between them: 0 to 2, blind to length."""
    return 1 - functional.cosine_similarity(latents, goals, dim=-1)


DISTANCES: dict[str, Distance] = {"l2": squared_l2, "cosine": cosine_distance}
"""By the names that ``planner.distance`` has for them."""


@dataclass(frozen=True, kw_only=True)
class LabelDistance:
    """The squared distance of the labels that are read off latents to wanted ones, in the unit of the map. Labels that it does not read are free."""

    readout: LinearReadout

    def __call__(self, latents: Float[Tensor, "*E D"], goals: Float[Tensor, "*E s"]) -> Float[Tensor, "*E"]:
        """See ``Distance``."""
        return squared_l2(self.readout.read(latents), goals.to(latents))


def distances_to(goals: Float[Tensor, "e G"], imagined: Float[Tensor, "e S T D"], distance: Distance) -> Float[Tensor, "e S T"]:
    """How far each imagined latent is from its episode's goal."""
    return distance(imagined, goals.to(imagined)[:, None, None].expand(*imagined.shape[:3], -1))


def reduce_over_horizon(distances: Float[Tensor, "*E T"], kind: CostKind, prefix_power: float = 1.0) -> Float[Tensor, "*E"]:
    """One number from the distances along a future: the last, the smallest, their sum, or their mean with weights t ** ``prefix_power``.

    The last of these scores every prefix of the plan by where it ends and trusts longer ones more.
    """
    if kind == "last":
        return distances[..., -1]
    if kind == "prefix":
        num_steps = distances.shape[-1]
        weights = (torch.arange(1, num_steps + 1, device=distances.device, dtype=distances.dtype) / num_steps) ** prefix_power
        return (distances * (weights / weights.sum())).sum(-1)
    return distances.amin(-1) if kind == "min" else distances.sum(-1)
