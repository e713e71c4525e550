"""Regularisers of variances and covariances: VICReg's three terms, PLDM's seven.

Axes: B batch (or whatever is sampled), T model step, D latent, A action block.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import Config
from lewm.models.world_model import WorldModel
from lewm.objectives.auxiliary import InverseDynamics
from lewm.objectives.base import Objective
from lewm.objectives.baselines import Terms, prediction_error
from lewm.objectives.sigreg import Reduce
from lewm.schema import Clip

VARIANCE_FLOOR = 1e-4
"""Added to variances, so that their roots have a gradient at 0."""


def covariances(samples: Float[Tensor, "*batch B D"], reduce: Reduce | None = None) -> Float[Tensor, "*batch D D"]:
    """Unbiased covariances over the samples; with ``reduce`` (an autograd-aware sum) over those of all processes."""
    samples = samples.float()
    if reduce is None:
        centred = samples - samples.mean(-2, keepdim=True)
        return centred.mT @ centred / max(1, samples.shape[-2] - 1)
    count = reduce(samples.new_full((1,), samples.shape[-2]))
    mean = reduce(samples.sum(-2)) / count
    centred = samples - mean[..., None, :]
    return reduce(centred.mT @ centred) / (count - 1).clamp(min=1)


def variance_hinge(covariance: Float[Tensor, "*batch D D"]) -> Float[Tensor, ""]:
    """Mean max(0, 1 - std) over dimensions (VICReg, Bardes et al. 2022, arXiv 2105.04906, eq. 1)."""
    std = (covariance.diagonal(dim1=-2, dim2=-1) + VARIANCE_FLOOR).sqrt()
    return torch.relu(1 - std).mean()


def covariance_penalty(covariance: Float[Tensor, "*batch D D"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances between different dimensions, divided by D (VICReg, eq. 3)."""
    dimension = covariance.shape[-1]
    off_diagonal = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    return off_diagonal.square().sum((-2, -1)).mean() / dimension


class VICRegObjective(Objective):
    """Prediction + variance hinge + covariance penalty, of each time step over the batch (VICReg).

    The paper's weights 25, 25 and 1 are kept in proportion to the prediction's, which is 1. No extra pass; memory grows with D^2.
    """

    tunable_weights: ClassVar[tuple[str, ...]] = ("variance_weight", "covariance_weight")
    settings: ClassVar[dict[str, float]] = {"variance_weight": 1.0, "covariance_weight": 0.04}

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Terms: ``prediction_loss``, ``variance`` and ``covariance``."""
        latents = self.world_model.encode(clip.observations)
        prediction_loss = prediction_error(self.world_model.predict(latents[:, :-1], clip.blocks), latents[:, 1:])
        over_batch = covariances(latents.transpose(0, 1), self.reduce)
        variance, covariance = variance_hinge(over_batch), covariance_penalty(over_batch)
        loss = prediction_loss + self.setting("variance_weight") * variance + self.setting("covariance_weight") * covariance
        terms = {"prediction_loss": prediction_loss, "variance": variance, "covariance": covariance}
        return loss, {name: term.detach() for name, term in terms.items()}


class PLDMObjective(Objective):
    """Prediction and six more terms: variance and covariance over the batch and over time, smoothness, inverse dynamics.

    PLDM (Sobal et al. 2025, arXiv 2502.14819). The weights are those with which LeWorldModel's authors trained it as their baseline, but for the
    inverse model's, which they leave out: 1 here. One more small network in training.
    """

    settings: ClassVar[dict[str, float]] = {
        "variance_weight": 18.0,
        "covariance_weight": 12.0,
        "time_variance_weight": 0.7,
        "time_covariance_weight": 0.0,
        "smoothness_weight": 0.2,
        "recovery_weight": 1.0,
    }
    tunable_weights: ClassVar[tuple[str, ...]] = tuple(settings)
    trainer_networks = ("inverse",)

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        self.inverse = InverseDynamics(world_model)

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Terms: ``prediction_loss``, ``variance``, ``covariance``, ``time_variance``, ``time_covariance``, ``smoothness``, ``inverse_loss``."""
        latents = self.world_model.encode(clip.observations)
        prediction_loss = prediction_error(self.world_model.predict(latents[:, :-1], clip.blocks), latents[:, 1:])
        over_batch, over_time = covariances(latents.transpose(0, 1), self.reduce), covariances(latents)
        dimension = latents.shape[-1]
        terms = {
            "variance": variance_hinge(over_batch),
            "covariance": covariance_penalty(over_batch) / max(1, dimension - 1),
            "time_variance": variance_hinge(over_time),
            "time_covariance": covariance_penalty(over_time) / max(1, dimension - 1),
            "smoothness": prediction_error(latents[:, :-1], latents[:, 1:]),
        }
        loss = prediction_loss + sum(self.setting(f"{name}_weight") * term for name, term in terms.items())
        inverse_loss = self.inverse(latents, self.world_model.normalised_blocks(clip.blocks))
        loss = loss + self.setting("recovery_weight") * inverse_loss
        terms = {"prediction_loss": prediction_loss} | terms | {"inverse_loss": inverse_loss}
        return loss, {name: term.detach() for name, term in terms.items()}
