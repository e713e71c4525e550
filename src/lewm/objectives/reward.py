"""Latents shaped by rewards and values: the TD-MPC way.

Axes: B batch, T model step, D latent.
"""

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from lewm.config import Config
from lewm.models.world_model import WorldModel
from lewm.objectives.base import Objective
from lewm.objectives.baselines import Terms, prediction_error
from lewm.objectives.sigreg import Reduce
from lewm.schema import Clip

HEAD_WIDTH = 256


class RewardObjective(Objective):
    """Consistency with standing targets + reward and value prediction (after TD-MPC2, Hansen et al. 2024, arXiv 2310.16828).

    The value is that of whoever recorded the data, learnt by temporal differences against a slowly following copy. Where no reward is ever given
    nothing but the consistency is left, which collapses. Two small heads in training, no extra pass.
    """

    clip_columns = ("frames", "blocks", "rewards")
    tunable_weights = ("reward_weight", "value_weight")
    settings: ClassVar[dict[str, float]] = {"reward_weight": 1.0, "value_weight": 0.1, "target_decay": 0.99, "discount": 0.95}
    trainer_networks = ("reward_head", "value_head", "target_value_head")

    def __init__(self, config: Config, world_model: WorldModel, *, seed: int, reduce: Reduce | None = None) -> None:
        super().__init__(config, world_model, seed=seed, reduce=reduce)
        dimension = world_model.latent_dimension
        self.reward_head, self.value_head = _head(dimension), _head(dimension)
        self.target_value_head = copy.deepcopy(self.value_head).requires_grad_(False)

    def forward(self, clip: Clip[Tensor], step: int) -> Terms:
        """Terms: ``prediction_loss``, ``reward_loss`` (of the predicted latents) and ``value_loss``."""
        assert clip.rewards is not None  # a column that it declares
        latents = self.world_model.encode(clip.observations)
        predicted = self.world_model.predict(latents[:, :-1], clip.blocks)
        prediction_loss = prediction_error(predicted, latents[:, 1:].detach())
        reward_loss = prediction_error(self.reward_head(predicted)[..., 0], clip.rewards)
        with torch.no_grad():
            returns = clip.rewards + self.setting("discount") * self.target_value_head(latents[:, 1:])[..., 0]
        value_loss = prediction_error(self.value_head(latents[:, :-1])[..., 0], returns)
        loss = prediction_loss + self.setting("reward_weight") * reward_loss + self.setting("value_weight") * value_loss
        terms = {"prediction_loss": prediction_loss, "reward_loss": reward_loss, "value_loss": value_loss}
        return loss, {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """The target value follows."""
        for target, online in zip(self.target_value_head.parameters(), self.value_head.parameters(), strict=True):
            target.lerp_(online, 1 - self.setting("target_decay"))


def _head(dimension: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dimension, HEAD_WIDTH), nn.GELU(), nn.Linear(HEAD_WIDTH, 1))
