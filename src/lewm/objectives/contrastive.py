"""Telling the true next latent from those of other clips.

Axes: B batch, T model step, D latent.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lewm.objectives.base import Objective
from lewm.objectives.baselines import Terms, prediction_error
from lewm.schema import Clip


def info_nce(predicted: Float[Tensor, "T B D"], targets: Float[Tensor, "T B D"], temperature: float) -> Float[Tensor, ""]:
    """-log of the share of each prediction's own target among all targets of its time step (CPC, van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    A target's strength is exp(-mean squared distance / temperature): distances, because plans go by them. log B where nothing is told apart.
    """
    predicted, targets = predicted.float(), targets.float()
    distances = (
        predicted.square().mean(-1)[:, :, None] + targets.square().mean(-1)[:, None] - 2 * predicted @ targets.mT / predicted.shape[-1]
    ) / temperature
    own = torch.arange(predicted.shape[1], device=predicted.device).expand(predicted.shape[0], -1)
    return functional.cross_entropy(-distances.flatten(0, 1), own.flatten())


class ContrastiveObjective(Objective):
    """InfoNCE between predicted and true next latents, negatives from the other clips of the batch at the same time step.

    Like ST-DIM (Anand et al. 2019, arXiv 1906.08226) it contrasts over time, but whole latents and with actions. With several processes each
    contrasts its own share of the batch. No extra pass; memory grows with T B^2.
    """

    tunable_weights = ("temperature",)
    settings: ClassVar[dict[str, float]] = {"temperature": 0.1}

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Terms: ``contrastive_loss``, and ``prediction_loss``, which is only reported."""
        latents = self.world_model.encode(clip.observations)
        predicted = self.world_model.predict(latents[:, :-1], clip.blocks)
        loss = info_nce(predicted.transpose(0, 1), latents[:, 1:].transpose(0, 1), self.setting("temperature"))
        return loss, {"contrastive_loss": loss.detach(), "prediction_loss": prediction_error(predicted, latents[:, 1:]).detach()}
