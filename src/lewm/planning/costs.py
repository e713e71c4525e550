"""How good imagined futures are: a model that imagines them, and terms that judge them.

Axes: E episode, e episodes of a chunk, S candidate, H context, T model step, A action block, D latent, s label.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.models.world_model import WorldModel
from lewm.planning.base import LinearReadout
from lewm.planning.terms import CostKind, Distance, GoalTerm, LabelDistance, Term, squared_l2

Rollout = Callable[[Float[Tensor, "E H D"], Float[Tensor, "E H-1 A"], Float[Tensor, "E S T A"]], Float[Tensor, "E S T D"]]
"""``WorldModel.rollout``, or the same compiled."""


class ImaginedCost:
    """The sum of some terms on the futures that candidates lead to: a ``Cost``.

    At most ``max_batch_rows`` candidates are imagined at once, which bounds memory and changes no result. With ``precision`` bf16-mixed the model
    imagines in bfloat16 where that is safe; the terms see float32.
    """

    def __init__(
        self,
        rollout: Rollout,
        context: Float[Tensor, "E H D"],
        past_blocks: Float[Tensor, "E H-1 A"],
        terms: Sequence[Term],
        *,
        max_batch_rows: int = 16_384,
        precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true",
    ) -> None:
        self.rollout = rollout
        self.context = context
        self.past_blocks = past_blocks
        self.terms = tuple(terms)
        self.max_batch_rows = max_batch_rows
        self.precision = precision

    def __call__(self, candidates: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S"]:
        """The cost of each candidate."""
        num_episodes, num_candidates = candidates.shape[:2]
        per_chunk = min(num_candidates, self.max_batch_rows)
        episodes_per_chunk = max(1, self.max_batch_rows // num_candidates)
        rows = []
        for first in range(0, num_episodes, episodes_per_chunk):
            episodes = slice(first, first + episodes_per_chunk)
            starts = range(0, num_candidates, per_chunk)
            rows.append(torch.cat([self._chunk(candidates[episodes, start : start + per_chunk], episodes) for start in starts], dim=1))
        return torch.cat(rows)

    def _chunk(self, candidates: Float[Tensor, "e S T A"], episodes: slice) -> Float[Tensor, "e S"]:
        with torch.autocast(candidates.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            imagined = self.rollout(self.context[episodes], self.past_blocks[episodes], candidates)
        imagined = imagined.to(self.context.dtype)
        return torch.stack([term(imagined, candidates, episodes) for term in self.terms]).sum(0)


class LatentGoalCost(ImaginedCost):
    """Distance (default: squared L2) between imagined latents and the goal's, reduced over the horizon.

    ``last`` takes the final imagined latent (the paper's), ``min`` the nearest one (arriving early and staying are equally good), ``sum`` adds all
    up, ``prefix`` is a mean in which later ones weigh more. ``mean_weight`` adds that share of the mean distance, which breaks ties in favour of
    arriving early.
    """

    def __init__(
        self,
        model: WorldModel,
        context: Float[Tensor, "E H D"],
        past_blocks: Float[Tensor, "E H-1 A"],
        goals: Float[Tensor, "E D"],
        *,
        kind: CostKind = "last",
        mean_weight: float = 0.0,
        distance: Distance = squared_l2,
        max_batch_rows: int = 16_384,
    ) -> None:
        term = GoalTerm(goals=goals, distance=distance, kind=kind, mean_weight=mean_weight)
        super().__init__(model.rollout, context, past_blocks, [term], max_batch_rows=max_batch_rows)


class LabelGoalCost(ImaginedCost):
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
        kind: CostKind = "last",
        mean_weight: float = 0.0,
        max_batch_rows: int = 16_384,
    ) -> None:
        term = GoalTerm(goals=readout.read(goals), distance=LabelDistance(readout=readout), kind=kind, mean_weight=mean_weight)
        super().__init__(model.rollout, context, past_blocks, [term], max_batch_rows=max_batch_rows)
