"""From observations to latents: the part of a world model that a policy of the same size can have too.

Axes: R row (observations, flattened), V view, Y X image, P proprioception, D latent.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lewm.config import Config
from lewm.errors import DataError
from lewm.models.layers import Projector
from lewm.registry import ENCODERS
from lewm.schema import Observation, ObservationSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PROPRIOCEPTION_WIDTH = 32
"""Size of the embedding of the proprioception, which joins the encoder's features."""


class ObservationEncoder(nn.Module):
    """The encoder that the configuration names, proprioception beside its features, and the projector to the latent.

    Frames come as uint8: what scales and normalises them is inside, saved with the weights.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: Config, observation_spec: ObservationSpec) -> None:
        super().__init__()
        self.observation_spec, self.latent_dimension = observation_spec, config.model.latent_dimension
        self.encoder = ENCODERS.load(config.encoder.name)(config.encoder, observation_spec)
        feature_width = self.encoder.feature_width
        if observation_spec.proprioception:
            self.proprioception = nn.Linear(len(observation_spec.proprioception), PROPRIOCEPTION_WIDTH)
            feature_width += PROPRIOCEPTION_WIDTH
        self.projector = Projector(feature_width, config.model.projector_width, config.model.latent_dimension)
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN))
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD))

    def encode(self, observation: Observation[Tensor]) -> Float[Tensor, "*batch D"]:
        """Latents of observations with any leading axes: frames uint8 [..., V, Y, X, 3] (and proprioception [..., P] if the spec has it).

        ``DataError`` if they are not what the observation spec says.
        """
        self._check(observation)
        frames = observation.frames
        leading = frames.shape[:-4]
        features = self.encoder(self._normalised_pixels(frames.flatten(0, -5) if leading else frames[None]))
        if observation.proprioception is not None and self.observation_spec.proprioception:
            proprioception = observation.proprioception.to(self.pixel_mean.dtype).reshape(len(features), -1)
            features = torch.cat([features, self.proprioception(proprioception)], dim=-1)
        latents: Tensor = self.projector(features)
        return latents.view(*leading, -1)

    def encode_together(self, observations: Sequence[Observation[Tensor]]) -> list[Float[Tensor, "_ D"]]:
        """Latents of several batches of observations, with one set of BatchNorm statistics for all of them."""
        frames = torch.cat([each.frames for each in observations])
        proprioception = [each.proprioception for each in observations if each.proprioception is not None]
        latents = self.encode(Observation(frames, torch.cat(proprioception) if proprioception else None))
        return list(torch.split(latents, [len(each.frames) for each in observations]))

    def _normalised_pixels(self, frames: Tensor) -> Tensor:
        """uint8 [R, V, Y, X, 3] -> [R, 3 V, Y, X], with the channels last in memory where there is one view."""
        scale = 1.0 / (255.0 * self.pixel_std)
        pixels = torch.addcmul(-self.pixel_mean / self.pixel_std, frames.to(scale.dtype), scale)
        return pixels.permute(0, 1, 4, 2, 3).flatten(1, 2)

    def _check(self, observation: Observation[Tensor]) -> None:
        frames, shape = observation.frames, self.observation_spec.frame_shape
        if frames.dtype != torch.uint8 or tuple(frames.shape[-4:]) != shape:
            raise DataError(
                f"frames must be uint8 [..., {', '.join(map(str, shape))}] (views, height, width, RGB), got {frames.dtype} {list(frames.shape)}"
            )
        names, proprioception = self.observation_spec.proprioception, observation.proprioception
        if names and (proprioception is None or proprioception.shape != (*frames.shape[:-4], len(names))):
            got = "none" if proprioception is None else list(proprioception.shape)
            raise DataError(f"proprioception must be [..., {len(names)}] ({', '.join(names)}) beside the frames, got {got}")
