"""How many env steps lie between a latent and a goal's.

Axes: B pair, D latent.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.head_config import DistanceConfig
from lewm.models.action_heads import LatentHead, plain_layers
from lewm.models.world_model import WorldModel


class TemporalDistance(LatentHead):
    """Hidden layers on [z, z_g, |z - z_g|], whose output lies between 0 and ``most_env_steps``."""

    def __init__(self, model: WorldModel, settings: DistanceConfig) -> None:
        super().__init__(model)
        self.most_env_steps, self.expectile = settings.most_env_steps, settings.expectile
        self.layers = plain_layers(3 * model.latent_dimension, settings.width, settings.num_layers, 1)

    def forward(self, latents: Float[Tensor, "*batch D"], goals: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """Env steps from the latents to the goals."""
        here, there = self.standardised(latents), self.standardised(goals)
        output: Tensor = self.layers(torch.cat([here, there, (here - there).abs()], dim=-1))[..., 0]
        return self.most_env_steps * torch.sigmoid(output)

    def distance(self, latents: Float[Tensor, "*batch D"], goals: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """The same, by the name under which planners ask for it."""
        estimate: Tensor = self(latents, goals)
        return estimate

    def loss(self, latents: Float[Tensor, "B D"], goals: Float[Tensor, "B D"], env_steps: Float[Tensor, " B"]) -> Float[Tensor, ""]:
        """The expectile loss of the distances, as shares of the largest."""
        return expectile_loss((self(latents, goals) - env_steps) / self.most_env_steps, self.expectile)


def expectile_loss(errors: Float[Tensor, "*batch"], expectile: float) -> Float[Tensor, ""]:
    """Mean squared error in which estimates that are too large weigh 1 - expectile and those that are too small weigh expectile.

    Its best constant is that expectile of the targets: 0.5 their mean (then half the mean squared error), less the smaller ones.
    """
    weights = torch.where(errors > 0, 1 - expectile, expectile)
    return (weights * errors.square()).mean()


def temporal_distance_for(model: WorldModel, settings: DistanceConfig) -> TemporalDistance:
    """A distance between a world model's latents."""
    return TemporalDistance(model, settings)
