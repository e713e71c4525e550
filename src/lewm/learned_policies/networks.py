"""What learned policies are made of: an encoder as a world model has it, and small networks on pairs of latents.

Axes: B batch, D latent, A action block, W width.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lewm.config import Config
from lewm.learned_policies.goals import GoalBatch, GoalMixture
from lewm.models.observation_encoder import ObservationEncoder
from lewm.planning.base import BlockSpace
from lewm.policy_config import PolicyConfig
from lewm.schema import ActionSpec, ObservationSpec


class PairNetwork(nn.Module):
    """Linear, LayerNorm, GELU, as often as there are hidden layers, and a last Linear: on latents, goals and what else is given side by side."""

    def __init__(self, input_width: int, hidden_width: int, num_layers: int, output_width: int) -> None:
        super().__init__()
        widths = [input_width, *[hidden_width] * num_layers]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.output = nn.Linear(hidden_width, output_width)

    def forward(self, *inputs: Float[Tensor, "B _"]) -> Float[Tensor, "B W"]:
        """Each row on its own."""
        features = torch.cat(inputs, dim=-1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features = functional.gelu(norm(layer(features)))
        result: Tensor = self.output(features)
        return result


class LearnedPolicy(nn.Module, ABC):
    """A policy for goals given as frames, with whatever else is trained beside it; the encoder is shared by all of its networks.

    Blocks are z-scored by the training actions' statistics inside (discrete ones stay one-hot): the last layer speaks that unit.
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, config: Config, settings: PolicyConfig, observation_spec: ObservationSpec, action_spec: ActionSpec) -> None:
        super().__init__()
        self.action_spec = action_spec
        self.action_block = settings.action_block or config.data.action_block
        self.encoder = ObservationEncoder(config, observation_spec)
        self.latent_dimension = config.model.latent_dimension
        self.block_dimension = action_spec.block_dimension(self.action_block)
        self.policy = PairNetwork(2 * self.latent_dimension, settings.hidden_width, settings.num_layers, self.block_dimension)
        self.register_buffer("action_mean", torch.zeros(action_spec.dimension))
        self.register_buffer("action_std", torch.ones(action_spec.dimension))

    @property
    def observation_spec(self) -> ObservationSpec:
        """What it looks at."""
        return self.encoder.observation_spec

    @classmethod
    @abstractmethod
    def mixtures(cls, settings: PolicyConfig, action_block: int) -> tuple[GoalMixture, GoalMixture | None]:
        """Where the goals of the policy and of its value come from."""

    @abstractmethod
    def loss(self, batch: GoalBatch[Tensor]) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss of a batch and its terms by name, detached: what ``metrics.jsonl`` shows."""

    def after_step(self) -> None:
        """Called after each optimiser step: where target networks follow."""

    def set_action_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take over mean and standard deviation of the continuous training actions, per dimension [a]; one that never varies is only shifted."""
        stds = torch.tensor(tuple(std))
        self.action_mean.copy_(torch.tensor(tuple(mean)))
        self.action_std.copy_(torch.where(stds > 0, stds, torch.ones_like(stds)))

    def normalised(self, blocks: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """Blocks in env units, z-scored per dimension."""
        return (blocks - self.action_mean.repeat(self.action_block)) / self.action_std.repeat(self.action_block)

    @property
    def space(self) -> BlockSpace:
        """What the world takes."""
        mean, std = tuple(self.action_mean.tolist()), tuple(self.action_std.tolist())
        return BlockSpace(action_spec=self.action_spec, action_block=self.action_block, mean=mean, std=std)

    def decide(self, latents: Float[Tensor, "B D"], goals: Float[Tensor, "B D"]) -> Float[Tensor, "B A"]:
        """The block to execute, in env units and within the world's bounds (discrete: one-hot, the most probable choices)."""
        output = self.policy(latents, goals)
        return self.space.executable(output * self.action_std.repeat(self.action_block) + self.action_mean.repeat(self.action_block))


def imitation_loss(output: Float[Tensor, "B A"], blocks: Float[Tensor, "B A"], action_spec: ActionSpec) -> Float[Tensor, " B"]:
    """How improbable what was done is, per decision: -log p up to a constant.

    Continuous: a Gaussian of standard deviation 1 around the output, half the squared error summed over the block (blocks z-scored). Discrete: the
    cross-entropy of each env step's choice, summed; the output are its logits.
    """
    if action_spec.kind == "discrete":
        logits = output.view(len(output), -1, action_spec.num_choices)  # B A -> B step choice
        return -(functional.log_softmax(logits, dim=-1) * blocks.view_as(logits)).sum((-2, -1))
    return 0.5 * (output - blocks).square().sum(-1)
