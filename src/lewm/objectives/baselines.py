"""What LeWorldModel replaces, at its barest: prediction without a regulariser, and with targets that stand still.

All of them share encoder, predictor and data with ``lewm`` and differ in nothing else.

Axes: B batch, T model step, D latent, A action block.
"""

import copy
from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import Config
from lewm.models.world_model import WorldModel
from lewm.objectives.auxiliary import InverseDynamics
from lewm.objectives.base import Objective
from lewm.objectives.sigreg import Reduce
from lewm.schema import Clip, Observation

Terms = tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]


def prediction_error(predicted: Float[Tensor, "*batch D"], targets: Float[Tensor, "*batch D"]) -> Float[Tensor, ""]:
    """Mean squared error over everything, in float32."""
    return (predicted - targets).float().square().mean()


class TargetEncoder(nn.Module):
    """A copy of a world model's encoder that follows it slowly: ``target = decay * target + (1 - decay) * online`` after each step.

    The recipe of BYOL (Grill et al. 2020, arXiv 2006.07733) and of the JEPAs after it. Its BatchNorm uses the statistics of the batch, as the
    online one does; the running ones are copied, for they are no parameters that could be averaged.
    """

    def __init__(self, model: WorldModel, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.model = copy.deepcopy(model)
        for unused in ("predictor", "action_encoder", "prediction_projector"):
            delattr(self.model, unused)
        self.requires_grad_(False)

    @torch.no_grad()
    def encode(self, observation: Observation[Tensor]) -> Float[Tensor, "*batch D"]:
        """Latents without a gradient."""
        return self.model.encode(observation)

    @torch.no_grad()
    def follow(self, model: WorldModel) -> None:
        """Move towards the online encoder."""
        online = dict(model.named_parameters()) | dict(model.named_buffers())
        for name, parameter in self.model.named_parameters():
            parameter.lerp_(online[name], 1 - self.decay)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(online[name])


class NoneObjective(Objective):
    """mean (predicted - next latent)^2 alone, gradients through the targets too: all latents alike is its best solution."""

    tunable_weights: ClassVar[tuple[str, ...]] = ()

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Term: ``prediction_loss``."""
        latents = self.world_model.encode(clip.observations)
        loss = prediction_error(self.world_model.predict(latents[:, :-1], clip.blocks), latents[:, 1:])
        return loss, {"prediction_loss": loss.detach()}


class StopGradientObjective(NoneObjective):
    """The same with targets that are taken as given (SimSiam, Chen and He 2021, arXiv 2011.10566)."""

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Term: ``prediction_loss``."""
        latents = self.world_model.encode(clip.observations)
        loss = prediction_error(self.world_model.predict(latents[:, :-1], clip.blocks), latents[:, 1:].detach())
        return loss, {"prediction_loss": loss.detach()}


class EMAObjective(Objective):
    """Targets from a slowly following copy of the encoder: one more pass of the encoder over the targets, and its weights in memory twice.

    BYOL's predictor is the world's predictor here, and errors are of latents as they are, because that is how plans compare them.
    """

    tunable_weights = ("target_decay",)
    settings = {"target_decay": 0.99}  # noqa: RUF012  # a class variable of the base
    trainer_networks = ("target",)

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        self.target = TargetEncoder(world_model, self.setting("target_decay"))

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Term: ``prediction_loss``, against the target encoder's latents."""
        past, future = clip.observations[:, :-1], clip.observations[:, 1:]
        predicted = self.world_model.predict(self.world_model.encode(past), clip.blocks)
        loss = prediction_error(predicted, self.target.encode(future))
        return loss, {"prediction_loss": loss.detach()}

    def after_step(self) -> None:
        """The target follows."""
        self.target.follow(self.world_model)


class FrozenObjective(NoneObjective):
    """Prediction in the latents of an encoder that is not trained: a random one, unless training starts from another run's weights.

    What a pretrained encoder would do is another question: nobody should call a random one DINO-WM. The projector's BatchNorm keeps measuring
    its running statistics, so that latents have the same scale in evaluation.
    """

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        for parameter in _encoder_parameters(world_model):
            parameter.requires_grad_(False)


class InverseObjective(Objective):
    """Prediction and recovering the actions, without a regulariser: what actions change cannot collapse, all else may.

    ``InverseDynamics`` (Pathak et al. 2017, arXiv 1705.05363) with ``recovery_weight``; its network is needed in training only.
    """

    tunable_weights = ("recovery_weight",)
    settings = {"recovery_weight": 1.0}  # noqa: RUF012
    trainer_networks = ("inverse",)

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        self.inverse = InverseDynamics(world_model)

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Terms: ``prediction_loss`` and ``inverse_loss``."""
        latents = self.world_model.encode(clip.observations)
        prediction_loss = prediction_error(self.world_model.predict(latents[:, :-1], clip.blocks), latents[:, 1:])
        inverse_loss = self.inverse(latents, self.world_model.normalised_blocks(clip.blocks))
        loss = prediction_loss + self.setting("recovery_weight") * inverse_loss
        return loss, {"prediction_loss": prediction_loss.detach(), "inverse_loss": inverse_loss.detach()}


def _encoder_parameters(model: WorldModel) -> Iterator[nn.Parameter]:
    """Of everything between frames and latents."""
    for name in ("encoder", "proprioception", "projector"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            yield from part.parameters()
