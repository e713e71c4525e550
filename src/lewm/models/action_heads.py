"""What the heads that act on latents share: the scales of latents and actions, and layers.

Axes: D latent, A action block, a env action, W width.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lewm.errors import ConfigError
from lewm.models.world_model import WorldModel

NUM_FREQUENCIES = 8
"""Of the sines and cosines that a number of env steps becomes."""


class LatentHead(nn.Module):
    """A network on a model's latents that keeps, as buffers, the scales of latents and actions that it was trained with."""

    latent_mean: Tensor
    latent_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.action_spec, self.action_block, self.latent_dimension = model.action_spec, model.action_block, model.latent_dimension
        self.register_buffer("latent_mean", torch.zeros(model.latent_dimension))
        self.register_buffer("latent_std", torch.ones(model.latent_dimension))
        self.register_buffer("action_mean", model.action_mean.detach().clone())
        self.register_buffer("action_std", model.action_std.detach().clone())

    def set_latent_statistics(self, mean: Float[Tensor, " D"], std: Float[Tensor, " D"]) -> None:
        """Take over the mean and standard deviation of the training latents; a dimension that never varies is only shifted."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def standardised(self, latents: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Latents with mean 0 and standard deviation 1 over the training frames."""
        return (latents - self.latent_mean) / self.latent_std

    def normalised(self, actions: Float[Tensor, "*batch a"]) -> Float[Tensor, "*batch a"]:
        """Env actions z-scored as the model sees them; one-hot ones stay as they are."""
        return (actions - self.action_mean) / self.action_std

    def env_units(self, outputs: Float[Tensor, "*batch a"]) -> Float[Tensor, "*batch a"]:
        """The inverse of ``normalised``; of logits the largest becomes 1, the others 0."""
        if self.action_spec.kind == "discrete":
            return functional.one_hot(outputs.argmax(-1), self.action_spec.num_choices).to(outputs)
        return outputs * self.action_std + self.action_mean


class ConditionedLayers(nn.Module):
    """Hidden layers, each shifted, scaled and gated by a condition (AdaLN-zero): a new one adds nothing."""

    def __init__(self, width: int, num_layers: int, condition_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        self.modulations = nn.ModuleList(nn.Linear(condition_width, 3 * width) for _ in range(num_layers))
        for modulation in self.modulations:
            assert isinstance(modulation, nn.Linear)
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)

    def forward(self, hidden: Float[Tensor, "*batch W"], condition: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch W"]:
        """Each layer added to its input."""
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            shift, scale, gate = modulation(condition).chunk(3, dim=-1)
            normed = functional.layer_norm(hidden, hidden.shape[-1:])
            hidden = hidden + gate * functional.gelu(layer(normed * (1 + scale) + shift))
        return hidden


def plain_layers(num_inputs: int, width: int, num_layers: int, num_outputs: int) -> nn.Sequential:
    """``num_layers`` hidden layers of linear map, LayerNorm and GELU, and a linear map to the outputs."""
    layers: list[nn.Module] = []
    for layer in range(num_layers):
        layers += [nn.Linear(num_inputs if layer == 0 else width, width), nn.LayerNorm(width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))


def step_features(env_steps: Float[Tensor, "*batch"], most_env_steps: int) -> Float[Tensor, "*batch F"]:
    """A number of env steps, as a share of the most and as sines and cosines of it."""
    share = (env_steps / most_env_steps).clamp(0, 1)[..., None]
    angles = share * math.pi * 2.0 ** torch.arange(NUM_FREQUENCIES, device=env_steps.device)
    return torch.cat([share, angles.sin(), angles.cos()], dim=-1)


def check_has_actions(model: WorldModel, name: str) -> None:
    """``ConfigError`` for a model of video without actions."""
    if model.action_spec.kind == "none":
        raise ConfigError(f"head {name!r} needs actions to learn, and this run was trained on video without actions")
