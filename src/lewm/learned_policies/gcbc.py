"""Goal-conditioned behaviour cloning (Ding et al., NeurIPS 2019; Ghosh et al., ICLR 2021), as OGBench has it (arXiv 2410.20092).

Axes: B batch, D latent, A action block.
"""

from jaxtyping import Float
from torch import Tensor

from lewm.learned_policies.goals import GoalBatch, GoalMixture
from lewm.learned_policies.networks import LearnedPolicy, imitation_loss
from lewm.policy_config import GcbcConfig, PolicyConfig


class GCBC(LearnedPolicy):
    """Does what was done in the data where the goal was seen later in the episode: no value, no planning, no stitching."""

    @classmethod
    def mixtures(cls, settings: PolicyConfig, action_block: int) -> tuple[GoalMixture, None]:
        """Goals from later in the episode only."""
        assert isinstance(settings, GcbcConfig)
        discount = settings.discount**action_block if settings.goals == "geometric" else None
        return GoalMixture(geometric_discount=discount, max_ahead=max_ahead(settings, action_block)), None

    def loss(self, batch: GoalBatch[Tensor]) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Mean over the batch of how improbable the data's blocks are."""
        latents, goals = self.encoder.encode_together([batch.observations, batch.goals])
        loss = imitation_loss(self.policy(latents, goals), self.normalised(batch.blocks), self.action_spec).mean()
        return loss, {"imitation": loss.detach()}


def max_ahead(settings: PolicyConfig, action_block: int) -> int | None:
    """How many decisions ahead the policy's goals may lie: at least one."""
    return None if settings.max_goal_env_steps is None else max(1, settings.max_goal_env_steps // action_block)
