"""From normalised pixels to one feature vector per observation.

Axes: R row (observations, flattened), c channel (3 per view), Y X image, F feature.
An encoder is built from its configuration and an observation spec and says how wide its features are; to add one, add its line to
``registry.ENCODERS`` and its settings to ``config.ENCODER_CONFIGS``.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lewm.config import ConvEncoderConfig, ViTEncoderConfig
from lewm.errors import ConfigError
from lewm.models.layers import ViTBlock
from lewm.schema import ObservationSpec


class ConvEncoder(nn.Module):
    """Strided convolutions, flattened: keeps where things are, and is the fastest encoder on a CPU.

    GroupNorm, unlike BatchNorm, makes the features of a frame independent of its batch mates. A wide first stride halves the cost of training.
    """

    def __init__(self, config: ConvEncoderConfig, spec: ObservationSpec) -> None:
        super().__init__()
        inputs = (3 * spec.num_views, *config.channels[:-1])
        layers = zip(inputs, config.channels, config.kernel_sizes, config.strides, strict=True)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride=stride, padding=(kernel - stride) // 2) for before, after, kernel, stride in layers
        )
        self.norms = nn.ModuleList(nn.GroupNorm(_num_groups(channels), channels) for channels in config.channels)
        self.feature_width = config.channels[-1] * self._side(spec.height_px) * self._side(spec.width_px)
        if self.feature_width == 0:
            size = f"{spec.height_px} x {spec.width_px} px"
            raise ConfigError(
                f"{len(config.channels)} strided convolutions leave nothing of {size} frames; use fewer encoder.channels or smaller strides"
            )

    def _side(self, length_px: int) -> int:
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv2d)
            length_px = max(0, (length_px + 2 * int(convolution.padding[0]) - convolution.kernel_size[0]) // convolution.stride[0] + 1)
        return length_px

    def forward(self, pixels: Float[Tensor, "R c Y X"]) -> Float[Tensor, "R F"]:
        """One feature vector per observation."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            pixels = functional.relu(norm(convolution(pixels)))
        return pixels.flatten(1)


class ViTEncoder(nn.Module):
    """A vision transformer with learned positions; its feature is the class token after the final LayerNorm.

    With the default configuration and 224 px frames it is the paper's ViT-Tiny (Dosovitskiy et al., arXiv 2010.11929).
    """

    def __init__(self, config: ViTEncoderConfig, spec: ObservationSpec) -> None:
        super().__init__()
        patch_px = config.patch_px
        if spec.height_px % patch_px or spec.width_px % patch_px:
            raise ConfigError(f"encoder.patch_px ({patch_px}) must divide the frame size, got {spec.height_px} x {spec.width_px} px")
        num_patches = (spec.height_px // patch_px) * (spec.width_px // patch_px)
        self.feature_width = config.width
        self.class_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.positions = nn.Parameter(torch.empty(1, 1 + num_patches, config.width))
        self.patches = nn.Conv2d(3 * spec.num_views, config.width, patch_px, stride=patch_px)
        self.blocks = nn.ModuleList(ViTBlock(config.width, config.num_heads, config.mlp_width) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self._initialise()

    def _initialise(self) -> None:
        for parameter in (self.class_token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Float[Tensor, "R c Y X"]) -> Float[Tensor, "R F"]:
        """One feature vector per observation."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(pixels), -1, -1), patches], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        feature: Tensor = self.norm(tokens[:, 0])
        return feature


def _num_groups(channels: int) -> int:
    """Groups of eight channels where they divide evenly, one group otherwise."""
    return channels // 8 if channels % 8 == 0 else 1
