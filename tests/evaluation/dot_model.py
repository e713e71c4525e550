"""A world model of two-room that needs no training: it sees where the dot is, and knows how actions move it, but not that there are walls.

Axes: E episode, S candidate, H context, T model step, D latent, A action block.
"""

import torch
from torch import Tensor, nn

from lewm.models.world_model import WorldModel
from lewm.schema import ActionSpec, Observation, ObservationSpec

ARENA_PX, SPEED_PX, SCALE_PX = 224.0, 5.0, 20.0
LATENT_DIMENSION = 6


class DotModel(WorldModel):
    """Latents are six mixtures of the dot's x and y; a block moves them by the sum of its actions."""

    def __init__(self, observation_spec: ObservationSpec, action_spec: ActionSpec, action_block: int) -> None:
        nn.Module.__init__(self)
        self.observation_spec, self.action_spec, self.action_block = observation_spec, action_spec, action_block
        self.latent_dimension, self.history_model_steps = LATENT_DIMENSION, 1
        generator = torch.Generator().manual_seed(0)
        mixing = torch.linalg.qr(torch.randn(LATENT_DIMENSION, 2, generator=generator)).Q  # keeps distances
        self.projector = nn.Linear(2, LATENT_DIMENSION, bias=False)
        self.action_encoder = nn.Linear(2 * action_block, 2, bias=False)
        self.register_buffer("mixing", mixing)
        self.register_buffer("action_mean", torch.zeros(2))
        self.register_buffer("action_std", torch.ones(2))
        with torch.no_grad():
            self.projector.weight.copy_(mixing)
            self.action_encoder.weight.copy_(torch.eye(2).repeat(1, action_block) * SPEED_PX / SCALE_PX)

    def encode(self, observation: Observation[Tensor]) -> Tensor:
        frames = observation.frames.float()
        redness = (frames[..., 0] - frames[..., 1]).clamp_min(0).sum(-3)  # views: Y X
        centres = (torch.arange(redness.shape[-1]) + 0.5) * ARENA_PX / redness.shape[-1]
        total = redness.sum((-1, -2))
        places = torch.stack([(redness.sum(-2) * centres).sum(-1), (redness.sum(-1) * centres).sum(-1)], dim=-1) / total[..., None]
        return self.projector((places - ARENA_PX / 2) / SCALE_PX)

    def rollout(self, context: Tensor, past_blocks: Tensor, candidates: Tensor) -> Tensor:
        moves = self.action_encoder(candidates) @ self.mixing.T  # E S T D
        return context[:, -1, None, None] + moves.cumsum(dim=2)
