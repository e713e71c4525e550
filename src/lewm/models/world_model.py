"""The world model: observations to latents, latents and actions to the next latents.

Axes: B batch, E episode, S candidate, H context, T model step, V view, Y X image, P proprioception, D latent, A action block, a env action,
W width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import Config
from lewm.errors import ConfigError, DataError
from lewm.models.layers import KeysValues, Projector
from lewm.models.observation_encoder import IMAGENET_MEAN as IMAGENET_MEAN
from lewm.models.observation_encoder import IMAGENET_STD as IMAGENET_STD
from lewm.models.observation_encoder import ObservationEncoder
from lewm.models.predictors import ActionEncoder, Predictor
from lewm.schema import ActionSpec, ObservationSpec


class WorldModel(ObservationEncoder):
    """LeWorldModel (arXiv 2603.19312): an encoder, an action encoder and a causal predictor in latent space.

    All preprocessing is inside: frames come as uint8 and actions in env units, and the statistics that normalise them are buffers, saved with
    the weights. In eval mode every method is a pure function of its arguments.
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, config: Config, observation_spec: ObservationSpec, action_spec: ActionSpec) -> None:
        super().__init__(config, observation_spec)
        model = config.model
        self.action_spec = action_spec
        self.action_block = config.data.action_block
        self.history_model_steps = model.history_model_steps
        self.action_encoder = ActionEncoder(
            action_spec.block_dimension(self.action_block), model.action_channels, model.action_embedding_width, config.predictor.width
        )
        self.predictor = Predictor(config.predictor, model.latent_dimension, model.history_model_steps)
        self.prediction_projector = Projector(config.predictor.width, model.projector_width, model.latent_dimension)
        self.register_buffer("action_mean", torch.zeros(action_spec.dimension))
        self.register_buffer("action_std", torch.ones(action_spec.dimension))

    def set_action_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take over the mean and standard deviation of the training actions, per raw dimension [a], in env units.

        A dimension that never varies (std 0) is only shifted. One-hot columns are never z-scored: discrete actions keep 0 and 1.
        """
        if self.action_spec.kind != "continuous":
            return
        if not len(mean) == len(std) == self.action_spec.dimension:
            raise DataError(f"action statistics need {self.action_spec.dimension} means and standard deviations, got {len(mean)} and {len(std)}")
        self.action_mean.copy_(torch.as_tensor(mean))
        stds = torch.as_tensor(std).to(self.action_std)
        self.action_std.copy_(torch.where(stds > 0, stds, torch.ones_like(stds)))

    def action_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training actions, per raw dimension [a], in env units."""
        return tuple(self.action_mean.tolist()), tuple(self.action_std.tolist())

    def predict(self, latents: Float[Tensor, "B T D"], blocks: Float[Tensor, "B T A"]) -> Float[Tensor, "B T D"]:
        """Output t estimates latent t + 1 from the latents and action blocks (env units) up to t; at most ``history_model_steps`` of them."""
        if latents.shape[1] > self.history_model_steps:
            raise ConfigError(
                f"the predictor sees at most {self.history_model_steps} model steps (model.history_model_steps), got {latents.shape[1]}"
            )
        predicted: Tensor = self.prediction_projector(self.predictor(latents, self.embed_blocks(blocks)))
        return predicted

    def rollout(
        self, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], candidates: Float[Tensor, "E S T A"]
    ) -> Float[Tensor, "E S T D"]:
        """Imagine the latents that S candidate sequences of blocks lead to, each from the same H context latents.

        ``past_blocks`` were executed between the context latents. The window of the predictor grows to ``history_model_steps`` and then slides;
        differentiable in every argument.
        """
        num_episodes, num_candidates, num_steps, _ = candidates.shape
        size = self.history_model_steps
        if past_blocks.shape[1] != context.shape[1] - 1:
            raise DataError(
                f"{context.shape[1]} context latents have {context.shape[1] - 1} blocks between them, got {past_blocks.shape[1]} past blocks"
            )
        shared = context[:, -size:]
        num_shared = shared.shape[1] - 1  # the newest context latent meets a candidate's own action
        past_conditions = self.embed_blocks(past_blocks[:, past_blocks.shape[1] - num_shared :])
        past = [self.predictor.modulations(past_conditions[:, i]) for i in range(num_shared)]
        rows = num_episodes * num_candidates
        conditions = self.embed_blocks(candidates).reshape(rows, num_steps, -1)
        latents = [shared[:, -1].repeat_interleave(num_candidates, dim=0)]
        modulations: list[list[Tensor]] = []
        seen: list[KeysValues] | None = None
        for step in range(num_steps):
            modulations.append(self.predictor.modulations(conditions[:, step]))
            first = max(0, num_shared + step + 1 - size)  # first step of the window, counted from the start of the context
            if step == 0 or first > 0:  # the window is new or has moved, and with it every position
                kept = slice(min(first, num_shared), num_shared)
                seen = self._seen_context(shared[:, kept], past[kept], num_candidates)
                own = slice(max(0, first - num_shared), step + 1)
            else:
                own = slice(step, step + 1)
            features, seen = self.predictor.extend(torch.stack(latents[own], dim=1), _stack_layers(modulations[own]), seen)
            latents.append(self.prediction_projector(features))
            if first > num_shared:
                modulations[first - num_shared - 1] = []  # outside every later window: free its memory
        return torch.stack(latents[1:], dim=1).view(num_episodes, num_candidates, num_steps, -1)

    def embed_blocks(self, blocks: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch W"]:
        """What conditions the predictor: action blocks in env units, normalised (missing values become the mean) and embedded."""
        embedded: Tensor = self.action_encoder(torch.nan_to_num(self.normalised_blocks(blocks), nan=0.0))
        return embedded

    def normalised_blocks(self, blocks: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Action blocks in env units, z-scored per raw dimension; missing values stay NaN."""
        mean, std = self.action_mean.repeat(self.action_block), self.action_std.repeat(self.action_block)
        if blocks.shape[-1] != len(mean):
            per_step = f"{self.action_spec.dimension} per env step x {self.action_block} env steps"
            raise DataError(f"an action block has {len(mean)} numbers ({per_step}), got {blocks.shape[-1]}")
        return (blocks.to(mean.dtype) - mean) / std

    def _seen_context(self, latents: Tensor, modulations: list[list[Tensor]], num_candidates: int) -> list[KeysValues] | None:
        """What the predictor keeps of context steps: computed once per episode and then repeated for each candidate."""
        if not modulations:
            return None
        _, seen = self.predictor.extend(latents, _stack_layers(modulations))
        return [(key.repeat_interleave(num_candidates, dim=0), value.repeat_interleave(num_candidates, dim=0)) for key, value in seen]


def _stack_layers(steps: list[list[Tensor]]) -> list[Tensor]:
    """Modulations per step and layer [R, M] -> per layer [R, T, M]."""
    return [torch.stack(layer, dim=1) for layer in zip(*steps, strict=True)]
