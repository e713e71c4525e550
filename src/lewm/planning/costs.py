"""How far an imagined future ends from a goal: in latent space, or in labels read off it.

Axes: E episode, S candidate, H context, T model step, A action block, D latent, s label.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.models.world_model import WorldModel
from lewm.planning.base import LinearReadout


class LatentGoalCost:
    """Squared L2 distance between imagined latents and the goal's, reduced over the horizon.

    ``last`` takes the final imagined latent (the paper's), ``min`` the nearest one (arriving early and staying are equally good), ``sum`` adds all
    up. ``mean_weight`` adds that share of the mean distance, which breaks ties in favour of arriving early.
    """

    def __init__(
        self,
        model: WorldModel,
        context: Float[Tensor, "E H D"],
        past_blocks: Float[Tensor, "E H-1 A"],
        goals: Float[Tensor, "E D"],
        *,
        kind: Literal["last", "min", "sum"] = "last",
        mean_weight: float = 0.0,
        max_batch_rows: int = 16_384,
    ) -> None:
        self.model = model
        self.context = context
        self.past_blocks = past_blocks
        self.goals = goals
        self.kind = kind
        self.mean_weight = mean_weight
        self.max_batch_rows = max_batch_rows

    def __call__(self, candidates: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S"]:
        """The cost of each candidate; episodes are imagined in chunks that bound memory."""
        episodes_per_chunk = max(1, self.max_batch_rows // candidates.shape[1])
        chunks = [slice(first, first + episodes_per_chunk) for first in range(0, candidates.shape[0], episodes_per_chunk)]
        return torch.cat([self._chunk(candidates, chunk) for chunk in chunks])

    def _chunk(self, candidates: Float[Tensor, "E S T A"], chunk: slice) -> Float[Tensor, "e S"]:
        imagined = self.model.rollout(self.context[chunk], self.past_blocks[chunk], candidates[chunk])
        distances = self._distances(imagined, self.goals[chunk])
        return reduce_over_horizon(distances, self.kind) + self.mean_weight * distances.mean(-1)

    def _distances(self, imagined: Float[Tensor, "e S T D"], goals: Float[Tensor, "e D"]) -> Float[Tensor, "e S T"]:
        return (imagined - goals[:, None, None]).square().sum(-1)


class LabelGoalCost(LatentGoalCost):
    """Squared distance between the labels that a linear map reads off imagined latents and those that it reads off the goal's.

    Only what the map reads can make a plan good or bad: a goal frame may also show things that the agent cannot move. Reduced over the horizon as
    ``LatentGoalCost`` is.
    """

    def __init__(
        self,
        model: WorldModel,
        context: Float[Tensor, "E H D"],
        past_blocks: Float[Tensor, "E H-1 A"],
        goals: Float[Tensor, "E D"],
        *,
        readout: LinearReadout,
        kind: Literal["last", "min", "sum"] = "last",
        mean_weight: float = 0.0,
        max_batch_rows: int = 16_384,
    ) -> None:
        super().__init__(model, context, past_blocks, goals, kind=kind, mean_weight=mean_weight, max_batch_rows=max_batch_rows)
        self.readout = readout

    def _distances(self, imagined: Float[Tensor, "e S T D"], goals: Float[Tensor, "e D"]) -> Float[Tensor, "e S T"]:
        return super()._distances(self.readout.read(imagined), self.readout.read(goals))


def reduce_over_horizon(distances: Float[Tensor, "*E T"], kind: Literal["last", "min", "sum"]) -> Float[Tensor, "*E"]:
    """One number from the distances along a future."""
    if kind == "last":
        return distances[..., -1]
    return distances.amin(-1) if kind == "min" else distances.sum(-1)
