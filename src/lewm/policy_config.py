"""Settings of the policies that are learnt from the same data as a world model: `lewm train --policy NAME`. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from lewm.config import MOST_LAYERS
from lewm.setting_checks import Device, at_least, at_most, fraction, require, seed


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What every learned policy is set by."""

    action_block: int | None = None
    """Env steps of one decision, executed without looking; default: data.action_block, as a world model of the preset decides."""
    max_goal_env_steps: int | None = None
    """H: how far ahead of an observation, at most, the goals of the policy lie in its own episode; default: up to its end."""
    hidden_width: int = 256
    """Width of the networks on the two latents."""
    num_layers: int = 2
    """Hidden layers of each of them."""
    num_steps: int = 3000
    """Optimiser steps."""
    batch_size: int = 64
    """B: decisions per optimiser step, each with its goals."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW: linear warm-up over a fiftieth of the steps, then a cosine to zero."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of AdamW."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    log_every_steps: int = 20
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every_steps: int = 1000
    """Steps between two checkpoints; the last step is always kept."""
    seed: int = 0
    """Seed of initialisation and batches."""
    device: Device = "cpu"
    """Where to train."""
    num_threads: int | None = None
    """CPU threads of torch; default: all cores."""

    def __post_init__(self) -> None:
        names = ("action_block", "max_goal_env_steps", "hidden_width", "num_layers", "num_steps", "log_every_steps", "checkpoint_every_steps")
        for name in (*names, "num_threads"):
            value = getattr(self, name)
            at_least(1, **{name: 1 if value is None else value})
        at_most(MOST_LAYERS, num_layers=self.num_layers)
        require(self.batch_size >= 2, f"batch_size must be at least 2 (BatchNorm needs two samples), got {self.batch_size}")
        require(0 < self.learning_rate < 1, f"learning_rate must be positive and below 1, got {self.learning_rate:g}")
        require(self.gradient_clip > 0, f"gradient_clip must be positive, got {self.gradient_clip:g}")
        at_least(0, weight_decay=self.weight_decay)
        seed(seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class GcbcConfig(PolicyConfig):
    """Goal-conditioned behaviour cloning: do what was done where the goal was reached afterwards."""

    goals: Literal["uniform", "geometric"] = "uniform"
    """How the goal is chosen among what came later in the episode (OGBench: uniform)."""
    discount: float = 0.99
    """With geometric goals: share of them that lies further ahead than one more env step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(discount=self.discount)


@dataclass(frozen=True, kw_only=True)
class GciqlConfig(PolicyConfig):
    """Goal-conditioned implicit Q-learning; discounts and mixtures of goals are OGBench's, sizes and step counts are for runs of minutes."""

    discount: float = 0.99
    """Of the value, per env step; also of the geometric goals that the value is learnt for."""
    expectile: float = 0.9
    """Which expectile of the Q-values of the data's actions the value is: near 1, that of the best of them."""
    target_rate: float = 0.02
    """Share of the critics that their targets take over at each step; OGBench has 0.005, for 500,000 steps."""
    current_goals: float = 0.2
    """Share of the value's goals that are the observation itself."""
    random_goals: float = 0.3
    """Share of the value's goals that are an observation of any episode; the rest lies ahead in its own."""
    policy_random_goals: float = 0.0
    """The same of the policy's goals: OGBench has 0.5 for data of short pieces that must be put together (stitch)."""
    bc_weight: float = 0.3
    """Continuous actions (DDPG+BC): weight of imitation beside the critics' gradient; OGBench has 0.003 to 1, by task."""
    temperature: float = 3.0
    """Discrete actions (AWR): imitation is weighted by the exponential of so many times the advantage, at most 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = ("discount", "current_goals", "random_goals", "policy_random_goals")
        fraction(**{name: getattr(self, name) for name in shares})
        require(0.5 <= self.expectile < 1, f"expectile must be in [0.5, 1), got {self.expectile:g}")
        require(0 < self.target_rate <= 1, f"target_rate must be in (0, 1], got {self.target_rate:g}")
        total = self.current_goals + self.random_goals
        require(total < 1, f"current_goals and random_goals must leave a share for goals ahead, got {total:g} together")
        at_least(0, bc_weight=self.bc_weight, temperature=self.temperature)


POLICY_CONFIGS: dict[str, type[PolicyConfig]] = {"gcbc": GcbcConfig, "gciql": GciqlConfig}
"""By the names of ``registry.LEARNERS``."""
