"""The goal-conditioned inverse model: which action leads from one latent to another, some env steps later.

Axes: B pair, E episode, D latent, A action block, a env action.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from lewm.head_config import InverseGoalConfig
from lewm.models.action_heads import NUM_FREQUENCIES, ConditionedLayers, LatentHead, check_has_actions, step_features
from lewm.models.world_model import WorldModel


class InverseGoal(LatentHead):
    """Hidden layers on [z_t, z_g], conditioned on the env steps that remain (arXiv 2605.08732, on frozen latents).

    The output is one env step's action: z-scored numbers, or a logit per choice.
    """

    def __init__(self, model: WorldModel, settings: InverseGoalConfig) -> None:
        super().__init__(model)
        self.most_env_steps, self.use_steps_remaining = settings.most_env_steps, settings.use_steps_remaining
        self.input = nn.Linear(2 * model.latent_dimension, settings.width)
        self.hidden = ConditionedLayers(settings.width, settings.num_layers, 1 + 2 * NUM_FREQUENCIES)
        self.output = nn.Linear(settings.width, model.action_spec.dimension)

    def forward(
        self, latents: Float[Tensor, "*batch D"], goals: Float[Tensor, "*batch D"], steps_remaining: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch a"]:
        """The action of the first env step."""
        features = step_features(steps_remaining, self.most_env_steps)
        condition = features if self.use_steps_remaining else torch.zeros_like(features)
        hidden = self.input(torch.cat([self.standardised(latents), self.standardised(goals)], dim=-1))
        output: Tensor = self.output(functional.gelu(self.hidden(hidden, condition)))
        return output

    def loss(
        self,
        latents: Float[Tensor, "B D"],
        goals: Float[Tensor, "B D"],
        steps_remaining: Float[Tensor, " B"],
        actions: Float[Tensor, "B a"],
    ) -> Float[Tensor, ""]:
        """Mean squared error of the z-scored action (missing numbers do not count), or the cross-entropy of the choice."""
        outputs = self(latents, goals, steps_remaining)
        if self.action_spec.kind == "discrete":
            return functional.cross_entropy(outputs, actions.argmax(-1))
        return masked_mean((outputs - torch.nan_to_num(self.normalised(actions))).square(), torch.isfinite(actions))

    @torch.no_grad()
    def act(
        self, latents: Float[Tensor, "E D"], goals: Float[Tensor, "E D"], previous: Float[Tensor, "E A"], *, steps_to_goal: int
    ) -> Float[Tensor, "E A"]:
        """The action for a goal that many env steps ahead (at most as many as in training), held for a block."""
        outputs = self(latents, goals, torch.full_like(latents[:, 0], float(steps_to_goal)))
        return self.env_units(outputs).repeat(1, self.action_block)


def masked_mean(values: Float[Tensor, "*batch"], is_counted: Bool[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """The mean of the values that count; 0 if none does."""
    return (values * is_counted).sum() / is_counted.sum().clamp(min=1)


def inverse_goal_for(model: WorldModel, settings: InverseGoalConfig) -> InverseGoal:
    """An inverse model of a world model's latents; ``ConfigError`` without actions."""
    check_has_actions(model, settings.NAME)
    return InverseGoal(model, settings)
