"""The intent head: a distribution over the next action block, given a latent, the change that is intended, and the block before.

Axes: B pair, E episode, N env step of a block, D latent, A action block, a env action.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lewm.head_config import IntentConfig
from lewm.models.action_heads import LatentHead, check_has_actions, plain_layers
from lewm.models.inverse_goal import masked_mean
from lewm.models.world_model import WorldModel

PREVIOUS_WIDTH = 64
LEAST_LOG_STD, MOST_LOG_STD = -5.0, 2.0


class Intent(LatentHead):
    """G([z_t, m, z_t * m, A(a_{t-1})]): a diagonal Gaussian over the z-scored block, or a categorical per env step (INTACT, arXiv 2607.26056).

    m is what is to change: z_{t+k} - z_t, for k env steps whose actions are known, or z_g - z_t, for a goal at any distance. Before an episode's
    start the actions are raw zeros, which are then normalised like any others.
    """

    def __init__(self, model: WorldModel, settings: IntentConfig) -> None:
        super().__init__(model)
        block = model.action_spec.block_dimension(model.action_block)
        self.is_gaussian = model.action_spec.kind == "continuous"
        self.previous = nn.Linear(block, PREVIOUS_WIDTH)
        inputs = 3 * model.latent_dimension + PREVIOUS_WIDTH
        self.layers = plain_layers(inputs, settings.width, settings.num_layers, 2 * block if self.is_gaussian else block)

    def forward(
        self, latents: Float[Tensor, "*batch D"], targets: Float[Tensor, "*batch D"], previous: Float[Tensor, "*batch A"]
    ) -> Float[Tensor, "*batch P"]:
        """Means and log standard deviations (P = 2 A), or logits (P = A), of the block that leads from ``latents`` towards ``targets``."""
        here = self.standardised(latents)
        intent = self.standardised(targets) - here
        actions = torch.nan_to_num(self.normalised(self._per_env_step(previous)).flatten(-2))  # missing ones become the mean
        output: Tensor = self.layers(torch.cat([here, intent, here * intent, self.previous(actions)], dim=-1))
        return output

    def negative_log_likelihood(
        self, outputs: Float[Tensor, "B P"], blocks: Float[Tensor, "B A"], is_counted: Bool[Tensor, "B N"]
    ) -> Float[Tensor, ""]:
        """Of the blocks (env units) under the distributions, per number of an action (per choice, if discrete), of the env steps that count."""
        actions = self._per_env_step(blocks)
        if not self.is_gaussian:
            log_chances = self._per_env_step(outputs).log_softmax(-1)
            return masked_mean(-(actions * log_chances).sum(-1), is_counted)
        mean, log_std = outputs.chunk(2, dim=-1)
        log_std = log_std.clamp(LEAST_LOG_STD, MOST_LOG_STD)
        targets = torch.nan_to_num(self.normalised(actions)).flatten(-2)
        surprise = 0.5 * ((targets - mean) / log_std.exp()).square() + log_std + 0.5 * math.log(2 * math.pi)
        return masked_mean(surprise, (is_counted[..., None] & torch.isfinite(actions)).flatten(-2))

    @torch.no_grad()
    def act(
        self, latents: Float[Tensor, "E D"], goals: Float[Tensor, "E D"], previous: Float[Tensor, "E A"], *, steps_to_goal: int
    ) -> Float[Tensor, "E A"]:
        """The most likely block towards the goal; it is not told how far that is."""
        outputs = self(latents, goals, previous)
        if self.is_gaussian:
            outputs = outputs.chunk(2, dim=-1)[0]
        return self.env_units(self._per_env_step(outputs)).flatten(-2)

    def _per_env_step(self, blocks: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch N a"]:
        return blocks.reshape(*blocks.shape[:-1], self.action_block, -1)


def intent_for(model: WorldModel, settings: IntentConfig) -> Intent:
    """An intent head on a world model's latents; ``ConfigError`` without actions."""
    check_has_actions(model, settings.NAME)
    return Intent(model, settings)
