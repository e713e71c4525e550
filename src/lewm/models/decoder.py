"""From a latent back to the frame that it was made of: for looking at what latents hold, and for the objective that asks them to hold everything.

Axes: R row (latents, flattened), D latent, Q query (a patch of a view), W width, V view, Y X image, p pixel of a patch.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lewm.errors import ConfigError
from lewm.head_config import DecoderConfig
from lewm.models.layers import MLP
from lewm.models.world_model import WorldModel
from lewm.schema import ObservationSpec

LARGEST_PATCH_PX, PATCHES_PER_SIDE = 16, 8
NUM_TOKENS = 8
"""A latent is spread over so many tokens that the queries attend to."""


class LatentDecoder(nn.Module):
    """Learned queries, one per patch, attend to a latent and become the patch's pixels (after LeWorldModel's visualisation decoder).

    There keys and values come from the latent after the projector, with 196 queries for 16 px patches of 224 px frames. Frames are 0 to 1. With
    ``has_background`` they are drawn upon a learned image, and at first nothing is drawn: begun as the mean frame, it leaves only what differs.
    """

    def __init__(
        self,
        latent_dimension: int,
        spec: ObservationSpec,
        *,
        patch_px: int = 8,
        width: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        has_background: bool = False,
    ) -> None:
        super().__init__()
        if spec.height_px % patch_px or spec.width_px % patch_px:
            raise ConfigError(f"the decoder's patch_px ({patch_px}) must divide the frame size, got {spec.height_px} x {spec.width_px} px")
        self.spec, self.patch_px, self.num_heads = spec, patch_px, num_heads
        self.rows, self.columns = spec.height_px // patch_px, spec.width_px // patch_px
        num_queries = spec.num_views * self.rows * self.columns
        self.queries = nn.Parameter(torch.randn(1, num_queries, width) / math.sqrt(width))
        self.tokens = nn.Linear(latent_dimension, NUM_TOKENS * width)
        self.layers = nn.ModuleList(_DecoderLayer(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, 3 * patch_px * patch_px)
        self.background = nn.Parameter(torch.zeros(spec.frame_shape)) if has_background else None
        if has_background:
            nn.init.zeros_(self.pixels.weight)
            nn.init.zeros_(self.pixels.bias)

    def forward(self, latents: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch V Y X 3"]:
        """Frames, not clamped to 0..1."""
        rows = latents.reshape(-1, latents.shape[-1])
        tokens = self.tokens(rows).view(len(rows), NUM_TOKENS, -1)
        features = self.queries.expand(len(rows), -1, -1)
        for layer in self.layers:
            features = layer(features, tokens)
        patches: Tensor = self.pixels(self.norm(features))  # [R, Q, p p 3]
        views, size = self.spec.num_views, self.patch_px
        grid = patches.view(len(rows), views, self.rows, self.columns, size, size, 3).permute(0, 1, 2, 4, 3, 5, 6)
        frames = grid.reshape(len(rows), views, self.rows * size, self.columns * size, 3)
        frames = frames if self.background is None else frames + self.background
        return frames.view(*latents.shape[:-1], *frames.shape[1:])


def decoder_for(model: WorldModel, settings: DecoderConfig) -> LatentDecoder:
    """A freshly initialised decoder of a model's latents."""
    spec = model.observation_spec
    patch_px = settings.patch_px or default_patch_px(spec)
    return LatentDecoder(
        model.latent_dimension,
        spec,
        patch_px=patch_px,
        width=settings.width,
        num_heads=settings.num_heads,
        num_layers=settings.num_layers,
        has_background=True,
    )


def default_patch_px(spec: ObservationSpec) -> int:
    """An eighth of the frame's shorter side, at most 16 px, less until it divides both sides: 16 for 224 px, 8 for 64 px."""
    largest = max(1, min(LARGEST_PATCH_PX, min(spec.height_px, spec.width_px) // PATCHES_PER_SIDE))
    return next(size for size in range(largest, 0, -1) if spec.height_px % size == spec.width_px % size == 0)


class _DecoderLayer(nn.Module):
    """Attention of the queries to the latent's tokens, then an MLP, each added to its input."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.mlp = MLP(width, 2 * width)

    def forward(self, features: Float[Tensor, "R Q W"], tokens: Float[Tensor, "R T W"]) -> Float[Tensor, "R Q W"]:
        """One layer."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(self.attention_norm(features)), self.key(tokens), self.value(tokens))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        features = features + self.output(mixed)
        added: Tensor = features + self.mlp(self.mlp_norm(features))
        return added
