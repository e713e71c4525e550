"""LeWorldModel's objective: predict the next latent, and keep the latents Gaussian.

Axes: B batch, T model step, D latent, M direction.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import Config
from lewm.models.world_model import WorldModel
from lewm.objectives.auxiliary import InverseDynamics, check_rollout, check_straightening, rollout_loss, straightening_loss
from lewm.objectives.base import Objective
from lewm.objectives.sigreg import Reduce, random_directions, sigreg
from lewm.schema import Clip


class LeWMObjective(Objective):
    """mean (predicted - next latent)^2 + weight * SIGReg (arXiv 2603.19312, eq. 1), with gradients through the targets too.

    No stop-gradient, no moving average, no decoder: SIGReg alone keeps the latents from collapsing, so weight 0 collapses. An ``inverse_weight``
    above 0 adds that multiple of ``InverseDynamics``, whose networks only training needs; ``rollout_weight`` and
    ``straightening_weight`` add theirs of ``rollout_loss`` and ``straightening_loss``.
    """

    tunable_weights = ("weight", "inverse_weight", "rollout_weight", "straightening_weight")
    trainer_networks = ("inverse",)

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        self.inverse = InverseDynamics(world_model) if config.objective.inverse_weight > 0 else None
        if self.config.rollout_weight > 0:
            check_rollout(self.config.rollout_model_steps, config.data.num_transitions)
        if self.config.straightening_weight > 0:
            check_straightening(config.data.num_transitions)

    def forward(self, clip: Clip[Tensor], step: int) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Terms: ``prediction_loss``, ``sigreg`` (reported even at weight 0) and, where they have a weight, the auxiliary losses."""
        latents = self.world_model.encode(clip.observations)  # [B, T+1, D]
        predicted = self.world_model.predict(latents[:, :-1], clip.blocks)
        difference = predicted - latents[:, 1:]
        prediction_loss = difference.to(torch.promote_types(difference.dtype, torch.float32)).square().mean()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.weight > 0):
            statistic = self._sigreg(latents, step)
        loss = prediction_loss + self.config.weight * statistic
        terms = {"prediction_loss": prediction_loss.detach(), "sigreg": statistic.detach()}
        for name, weight, term in self._auxiliary(latents, clip):
            loss = loss + weight * term
            terms[name] = term.detach()
        return loss, terms

    def _auxiliary(self, latents: Float[Tensor, "B T D"], clip: Clip[Tensor]) -> Iterator[tuple[str, float, Float[Tensor, ""]]]:
        """Name, weight and value of each loss that has a weight; the others are not computed."""
        config = self.config
        if self.inverse is not None:
            yield "inverse_loss", config.inverse_weight, self.inverse(latents, self.world_model.normalised_blocks(clip.blocks))
        if config.rollout_weight > 0:
            steps, growth = config.rollout_model_steps, config.rollout_growth
            loss = rollout_loss(self.world_model, latents, clip.blocks, num_model_steps=steps, growth=growth)
            yield "rollout_loss", config.rollout_weight, loss
        if config.straightening_weight > 0:
            yield "straightening_loss", config.straightening_weight, straightening_loss(latents)

    def _sigreg(self, latents: Float[Tensor, "B T D"], step: int) -> Float[Tensor, ""]:
        """Of each time step over the batch, with directions that all processes share."""
        directions = random_directions(latents.shape[-1], self.config.num_directions, seed=self.seed, step=step, device=latents.device)
        return sigreg(latents.transpose(0, 1), directions, knots=self.config.num_knots, reduce=self.reduce)
