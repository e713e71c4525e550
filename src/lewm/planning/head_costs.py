"""Goal costs that a head of the run measures.

Axes: E episode, S candidate, H context, T model step, A action block, D latent.
"""

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.planning.costs import LatentGoalCost

ROWS_AT_ONCE = 65_536
"""Imagined latents that the head is given at once; bounds memory and changes no result."""


@runtime_checkable
class DistanceHead(Protocol):
    """Measures how far latents are from goals."""

    def distance(self, latents: Float[Tensor, "*E D"], goals: Float[Tensor, "*E D"]) -> Float[Tensor, "*E"]:
        """In env steps; differentiable."""


class DistanceGoalCost(LatentGoalCost):
    """Env steps from imagined latents to the goal's, as the head ``distance`` says, reduced over the horizon as ``LatentGoalCost`` is."""

    def __init__(
        self,
        model: nn.Module,
        context: Float[Tensor, "E H D"],
        past_blocks: Float[Tensor, "E H-1 A"],
        goals: Float[Tensor, "E D"],
        *,
        head: DistanceHead,
        kind: Literal["last", "min", "sum"] = "last",
        mean_weight: float = 0.0,
        max_batch_rows: int = 16_384,
    ) -> None:
        super().__init__(model, context, past_blocks, goals, kind=kind, mean_weight=mean_weight, max_batch_rows=max_batch_rows)  # type: ignore[arg-type]
        self.head = head

    def _distances(self, imagined: Float[Tensor, "e S T D"], goals: Float[Tensor, "e D"]) -> Float[Tensor, "e S _"]:
        if self.kind == "last" and self.mean_weight == 0:
            imagined = imagined[:, :, -1:]  # nobody asks about the others, and a head is not free
        latents, repeated = imagined.flatten(0, 2), goals[:, None, None].expand_as(imagined).flatten(0, 2)
        chunks = zip(torch.split(latents, ROWS_AT_ONCE), torch.split(repeated, ROWS_AT_ONCE), strict=True)
        return torch.cat([self.head.distance(here, there) for here, there in chunks]).view(imagined.shape[:-1])
