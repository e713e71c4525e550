"""Goal-conditioned implicit Q-learning: IQL (Kostrikov et al., arXiv 2110.06169) with relabelled goals, as OGBench has it (arXiv 2410.20092).

Axes: B batch, D latent, A action block, C critic.
"""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from lewm.config import Config
from lewm.learned_policies.gcbc import max_ahead
from lewm.learned_policies.goals import GoalBatch, GoalMixture
from lewm.learned_policies.networks import LearnedPolicy, PairNetwork, imitation_loss
from lewm.policy_config import GciqlConfig, PolicyConfig
from lewm.schema import ActionSpec, ObservationSpec

NUM_CRITICS = 2
LARGEST_WEIGHT = 100.0
"""Of a decision in AWR."""


class GCIQL(LearnedPolicy):
    """Learns how many decisions a goal is away, from the data's own actions, and a policy that goes where it is near.

    The reward is -1 for every decision until the observation is the goal. V(s, g) is an expectile of Q(s, a, g) over the data's actions, so that no
    action outside the data is ever asked about; Q follows r + discount V(s', g). The policy is extracted by DDPG+BC from continuous actions (the
    critics' gradient beside imitation) and by AWR from discrete ones (imitation weighted by the advantage). All three losses train the one encoder,
    except through the critics that the policy follows.
    """

    def __init__(self, config: Config, settings: PolicyConfig, observation_spec: ObservationSpec, action_spec: ActionSpec) -> None:
        super().__init__(config, settings, observation_spec, action_spec)
        assert isinstance(settings, GciqlConfig)
        self.settings = settings
        self.discount = settings.discount**self.action_block
        shape = (settings.hidden_width, settings.num_layers, 1)
        pair = 2 * self.latent_dimension
        self.value = PairNetwork(pair, *shape)
        self.critics = nn.ModuleList(PairNetwork(pair + self.block_dimension, *shape) for _ in range(NUM_CRITICS))
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)

    @classmethod
    def mixtures(cls, settings: PolicyConfig, action_block: int) -> tuple[GoalMixture, GoalMixture]:
        """The policy's goals lie ahead, uniformly, the value's are current, ahead (geometric) or random."""
        assert isinstance(settings, GciqlConfig)
        value_goals = GoalMixture(current=settings.current_goals, random=settings.random_goals, geometric_discount=settings.discount**action_block)
        return GoalMixture(random=settings.policy_random_goals, max_ahead=max_ahead(settings, action_block)), value_goals

    def loss(self, batch: GoalBatch[Tensor]) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The sum of the value's, the critics' and the policy's loss."""
        assert batch.next_observations is not None
        assert batch.value_goals is not None
        assert batch.is_reached is not None
        blocks = self.normalised(batch.blocks)
        looks = [batch.observations, batch.goals, batch.next_observations, batch.value_goals]
        latents, goals, next_latents, value_goals = self.encoder.encode_together(looks)
        with torch.no_grad():
            target_q = evaluate(self.target_critics, latents, value_goals, blocks).amin(0)
            next_value = self.value(next_latents, value_goals)[:, 0]
        value = self.value(latents, value_goals)[:, 0]
        value_loss = expectile_loss(target_q - value, self.settings.expectile).mean()
        targets = temporal_targets(next_value, batch.is_reached, self.discount)
        critic_loss = (evaluate(self.critics, latents, value_goals, blocks) - targets).square().sum(0).mean()
        policy_loss, imitation = self._policy_loss(latents, goals, blocks)
        terms = {"value": value_loss, "critic": critic_loss, "policy": policy_loss, "imitation": imitation, "mean_value": value.mean()}
        return value_loss + critic_loss + policy_loss, {name: term.detach() for name, term in terms.items()}

    def after_step(self) -> None:
        """The targets follow the critics."""
        follow(self.target_critics, self.critics, self.settings.target_rate)

    def _policy_loss(
        self, latents: Float[Tensor, "B D"], goals: Float[Tensor, "B D"], blocks: Float[Tensor, "B A"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss of the policy, and how far it is from the data."""
        output = self.policy(latents, goals)
        improbability = imitation_loss(output, blocks, self.action_spec)
        fixed = (latents.detach(), goals.detach())
        if self.action_spec.kind == "discrete":
            with torch.no_grad():
                advantage = evaluate(self.critics, *fixed, blocks).amin(0) - self.value(*fixed)[:, 0]
            return (advantage_weights(advantage, self.settings.temperature) * improbability).mean(), improbability.mean()
        judged = judge(self.critics, *fixed, self._within_bounds(output)).amin(0)
        return climbing_loss(judged) + self.settings.bc_weight * improbability.mean(), improbability.mean()

    def _within_bounds(self, blocks: Float[Tensor, "B A"]) -> Float[Tensor, "B A"]:
        """Blocks, z-scored, as the world would execute them; without a gradient beyond the bounds."""
        bounds = (torch.tensor(side, dtype=blocks.dtype, device=blocks.device) for side in (self.action_spec.low, self.action_spec.high))
        low, high = (self.normalised(bound.repeat(self.action_block)) for bound in bounds)
        return blocks.clamp(low, high)


def evaluate(
    critics: nn.ModuleList, latents: Float[Tensor, "B D"], goals: Float[Tensor, "B D"], blocks: Float[Tensor, "B A"]
) -> Float[Tensor, "C B"]:
    """Q of each critic."""
    return torch.stack([critic(latents, goals, blocks)[:, 0] for critic in critics])


def judge(critics: nn.ModuleList, latents: Float[Tensor, "B D"], goals: Float[Tensor, "B D"], blocks: Float[Tensor, "B A"]) -> Float[Tensor, "C B"]:
    """Q of each critic, as a function of the blocks: no gradient reaches the critics' weights."""
    return torch.stack([functional_call(critic, _fixed(critic), (latents, goals, blocks))[:, 0] for critic in critics])


def _fixed(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def expectile_loss(difference: Float[Tensor, "*B"], expectile: float) -> Float[Tensor, "*B"]:
    """Squared differences, weighted by ``expectile`` where the value is too low and by the rest where it is too high (IQL, eq. 5)."""
    return torch.where(difference >= 0, expectile, 1 - expectile) * difference.square()


def temporal_targets(next_value: Float[Tensor, " B"], is_reached: Bool[Tensor, " B"], discount: float) -> Float[Tensor, " B"]:
    """What Q should be: 0 where the observation is the goal, elsewhere -1 for the decision and the discounted value of what follows."""
    return torch.where(is_reached, 0.0, -1 + discount * next_value)


def climbing_loss(judged: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Minus the mean Q of the policy's own blocks, in units of its mean size (DDPG+BC: Fujimoto and Gu, arXiv 2106.06860)."""
    return -judged.mean() / (judged.abs().mean().detach() + 1e-6)


def advantage_weights(advantage: Float[Tensor, " B"], temperature: float) -> Float[Tensor, " B"]:
    """How much each decision is imitated (AWR: Peng et al., arXiv 1910.00177)."""
    return (temperature * advantage).exp().clamp(max=LARGEST_WEIGHT)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Move every weight of the target by ``rate`` of the way to the source."""
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.lerp_(fast, rate)
