"""SIGReg against other priors than the isotropic Gaussian of all dimensions.

Axes: B batch, T model step, D latent, M direction, K subspace, d dimension within a subspace.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import Config
from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel
from lewm.objectives.prediction import LeWMObjective
from lewm.objectives.sigreg import Reduce, random_directions, sigreg

MOST_CONDITION = 2.0
"""Of the learnt prior: its largest variance over its smallest."""


class SubspaceObjective(LeWMObjective):
    """SIGReg in K frozen orthogonal subspaces, averaged (Sub-JEPA): each must be Gaussian, what they have in common is free.

    The subspaces are drawn from the run's seed. As many directions as ``lewm`` has, shared out among the subspaces.
    """

    settings: ClassVar[dict[str, float]] = {"num_subspaces": 4.0}

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        self.num_subspaces, dimension = int(self.setting("num_subspaces")), world_model.latent_dimension
        if dimension % self.num_subspaces:
            raise ConfigError(f"objective.num_subspaces must divide the latent dimension {dimension}, got {self.num_subspaces}")
        square = random_directions(dimension, dimension, seed=seed, step=-1)
        self.basis: Tensor
        """[D, D]: orthogonal; each D / K columns span a subspace."""
        self.register_buffer("basis", torch.linalg.qr(square).Q)

    def _sigreg(self, latents: Float[Tensor, "B T D"], step: int) -> Float[Tensor, ""]:
        size = latents.shape[-1] // self.num_subspaces
        count = max(1, self.config.num_directions // self.num_subspaces)
        directions = random_directions(size, count, seed=self.seed, step=step, device=latents.device)
        turned = latents.float() @ self.basis
        parts = turned.view(*turned.shape[:-1], self.num_subspaces, size)  # [B, T, K, d]
        return sigreg(parts.permute(1, 2, 0, 3), directions, knots=self.config.num_knots, reduce=self.reduce)


class AnisotropicObjective(LeWMObjective):
    """SIGReg against a Gaussian whose variances are learnt, with trace D and condition at most 2 (after AnisoWM).

    Latents are divided by the prior's standard deviations before they are compared with the unit Gaussian. D more numbers in training.
    """

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        self.prior = nn.Parameter(torch.zeros(world_model.latent_dimension))

    @property
    def variances(self) -> Float[Tensor, " D"]:
        """Of the prior: they add up to D, and none is more than twice another."""
        free = torch.exp(math.log(MOST_CONDITION) / 2 * torch.tanh(self.prior))
        return free * len(free) / free.sum()

    def _sigreg(self, latents: Float[Tensor, "B T D"], step: int) -> Float[Tensor, ""]:
        return super()._sigreg(latents / self.variances.sqrt(), step)
