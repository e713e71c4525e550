"""Losses beside prediction and SIGReg, each with a weight of its own that is 0 unless asked for.

Axes: B batch, T model step, D latent, A action block, a env action, N env step.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel

INVERSE_WIDTH = 256
"""Hidden units of the inverse model: small, so that what tells actions apart must be in the latents."""


class InverseDynamics(nn.Module):
    """Which actions led from one latent to the next: what they change must be visible in the latents for this to be answered.

    Prediction and SIGReg are content with latents that hold only what moves by itself, and then actions are ignored (``action-blind``). Pathak et al.
    2017 (arXiv 1705.05363) use the same loss for features of what an agent can influence. ``ConfigError`` for data without actions.
    """

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.action_spec, self.action_block = model.action_spec, model.action_block
        num_outputs = self.action_spec.block_dimension(self.action_block)
        if num_outputs == 0:
            raise ConfigError("objective.inverse_weight needs actions to recover, and this dataset has none; leave it at 0")
        self.layers = nn.Sequential(nn.Linear(2 * model.latent_dimension, INVERSE_WIDTH), nn.GELU(), nn.Linear(INVERSE_WIDTH, num_outputs))

    def forward(self, latents: Float[Tensor, "B _ D"], targets: Float[Tensor, "B T A"]) -> Float[Tensor, ""]:
        """The error of the blocks recovered from latents [B, T+1, D], averaged over env steps, so that doing without the latents scores about 1.

        ``targets`` are blocks as the model sees them: z-scored numbers (mean squared error; missing ones do not count) or one-hot choices
        (cross-entropy, as a share of that of guessing evenly).
        """
        recovered: Tensor = self.layers(torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1)).float()
        if self.action_spec.kind == "continuous":
            is_known = torch.isfinite(targets)
            errors = (recovered - torch.nan_to_num(targets)).square() * is_known
            return errors.sum() / is_known.sum().clamp(min=1)
        num_choices = self.action_spec.num_choices
        log_chances = recovered.reshape(-1, num_choices).log_softmax(-1)  # [B T N, a]
        return -(targets.reshape(-1, num_choices) * log_chances).sum(-1).mean() / math.log(num_choices)


def rollout_loss(
    model: WorldModel, latents: Float[Tensor, "B _ D"], blocks: Float[Tensor, "B T A"], *, num_model_steps: int, growth: float
) -> Float[Tensor, ""]:
    """The squared error of what is imagined open-loop from the first latent, in which step k weighs growth^(k - 1); weights add up to 1.

    sum_k w_k mean (p_k - z_k)^2 with w_k = growth^(k - 1) / sum_j growth^(j - 1), k = 1 .. ``num_model_steps``, with a gradient through targets too
    (LoRe, arXiv 2609.37644: weights that grow exponentially over 3 to 6 steps). ``latents`` are a clip's, [B, T+1, D].
    """
    imagined = model.rollout(latents[:, :1], blocks[:, :0], blocks[:, None, :num_model_steps])[:, 0]  # [B, K, D]
    difference = imagined - latents[:, 1 : num_model_steps + 1]
    errors = difference.to(torch.promote_types(difference.dtype, torch.float32)).square().mean((0, 2))
    weights = growth ** torch.arange(num_model_steps, device=errors.device, dtype=errors.dtype)
    return (weights * errors).sum() / weights.sum()


def straightening_loss(latents: Float[Tensor, "B T D"]) -> Float[Tensor, ""]:
    """Mean of 1 - cos(v_t, v_{t+1}) with v_t = z_{t+1} - z_t: 0 for latents that move along straight lines, 2 for those that turn back."""
    changes = latents.diff(dim=1).float() if latents.dtype != torch.float64 else latents.diff(dim=1)
    return (1 - functional.cosine_similarity(changes[:, :-1], changes[:, 1:], dim=-1)).mean()


def check_rollout(num_model_steps: int, num_transitions: int) -> None:
    """``ConfigError`` if more model steps are to be imagined than a clip has."""
    if num_model_steps > num_transitions:
        raise ConfigError(
            f"objective.rollout_model_steps ({num_model_steps}) must be at most data.num_transitions ({num_transitions}), the blocks of a clip; "
            "raise data.num_transitions and model.history_model_steps"
        )


def check_straightening(num_transitions: int) -> None:
    """``ConfigError`` for clips in which nothing can turn."""
    if num_transitions < 2:
        raise ConfigError(
            f"objective.straightening_weight compares consecutive changes: data.num_transitions must be at least 2, got {num_transitions}"
        )
