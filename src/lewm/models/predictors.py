"""From past latents and the actions taken after them to the next latent.

Axes: R row, T token (one per model step), D latent, W width, A action block, M modulation, S candidate.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lewm.config import PredictorConfig
from lewm.models.layers import ConditionalBlock, KeysValues


class ActionEncoder(nn.Module):
    """One action block -> the vector that conditions the predictor at its step: linear map, then Linear, SiLU, Linear."""

    def __init__(self, block_dimension: int, channels: int, hidden_width: int, width: int) -> None:
        super().__init__()
        # Video has no actions (A = 0): a single zero channel then makes the condition a learned constant.
        self.num_inputs = max(1, block_dimension)
        self.channels = nn.Conv1d(self.num_inputs, channels, kernel_size=1)
        self.expand = nn.Linear(channels, hidden_width)
        self.contract = nn.Linear(hidden_width, width)

    def forward(self, blocks: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch W"]:
        """Embed each normalised block on its own."""
        if blocks.shape[-1] == 0:
            blocks = blocks.new_zeros(*blocks.shape[:-1], 1)
        # A convolution of size 1 is a linear map; the module keeps the shape of the released weights.
        channels = functional.linear(blocks, self.channels.weight[..., 0], self.channels.bias)
        embedded: Tensor = self.contract(functional.silu(self.expand(channels)))
        return embedded


class Predictor(nn.Module):
    """A causal transformer over latents, conditioned on actions block by block (AdaLN-zero).

    Where the latents are not as wide as the tokens, a linear map brings them in; the projector that follows the predictor brings them out.
    """

    def __init__(self, config: PredictorConfig, latent_dimension: int, history_model_steps: int) -> None:
        super().__init__()
        self.width = config.width
        self.dropout = config.dropout
        self.input = nn.Linear(latent_dimension, config.width) if latent_dimension != config.width else nn.Identity()
        self.positions = nn.Parameter(torch.randn(1, history_model_steps, config.width))
        self.blocks = nn.ModuleList(
            ConditionalBlock(config.width, config.num_heads, config.head_width, config.mlp_width, config.dropout) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, latents: Float[Tensor, "R T D"], conditions: Float[Tensor, "R T W"]) -> Float[Tensor, "R T W"]:
        """The feature of each step, from the latents up to it: output t says what latent t + 1 will be."""
        tokens = self.input(latents) + self.positions[:, : latents.shape[1]]
        for block in self._blocks():
            tokens, _ = block(tokens, block.modulate(conditions))
        features: Tensor = self.norm(tokens)
        return features

    def _blocks(self) -> list[ConditionalBlock]:
        return cast(list[ConditionalBlock], list(self.blocks))

    def modulations(self, conditions: Float[Tensor, "*batch W"]) -> list[Float[Tensor, "*batch M"]]:
        """What each layer needs of the conditions."""
        return [block.modulate(conditions) for block in self._blocks()]

    def extend(
        self, latents: Float[Tensor, "R T D"], modulations: list[Float[Tensor, "R T M"]], seen: list[KeysValues] | None = None
    ) -> tuple[Float[Tensor, "R W"], list[KeysValues]]:
        """The feature of the last of some new steps, and what every layer has seen by then.

        ``seen`` is what an earlier call returned for the steps before these; nothing of them is computed again.
        """
        start = seen[0][0].shape[2] if seen else 0
        tokens = self.input(latents) + self.positions[:, start : start + latents.shape[1]]
        now_seen = []
        for index, block in enumerate(self._blocks()):
            is_last = index == len(self.blocks) - 1
            tokens, keys_values = block(tokens, modulations[index], seen[index] if seen else None, only_last=is_last)
            now_seen.append(keys_values)
        return self.norm(tokens[:, -1]), now_seen
