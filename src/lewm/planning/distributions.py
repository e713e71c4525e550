"""What a sampling search draws its candidates from: one Gaussian per number of a block, or one categorical distribution per env step.

Both are immutable and speak of samples, which are blocks in the search's own units: ``sample`` draws them, the first of them the mode, as a function
of (episode seed, plan index) and the iteration; ``refit`` moves the distribution towards some of them; ``env_units`` and ``normalise`` translate.
``RETURNS_BEST`` says whether a search ends with the best candidate that it tried or with the mode.

Axes: E episode, S candidate, K elite, P proposal, T model step, A action block, N env step, a env action.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.planning.base import BlockSpace, one_hot_choices
from lewm.planning.noise import smoothed_noise, uniform_choices


def start_distribution(
    config: PlannerConfig, space: BlockSpace, num_episodes: int, num_steps: int, initial: Float[Tensor, "E T A"] | None, device: torch.device
) -> "GaussianBlocks | CategoricalBlocks":
    """Where a search begins: around ``initial`` or, without it, around the mean of the training actions (discrete: all choices alike)."""
    shape = (num_episodes, num_steps, space.block_dimension)
    if space.action_spec.kind == "discrete":
        weights = torch.ones(shape, device=device) if initial is None else initial
        return CategoricalBlocks(config=config, space=space, probabilities=_as_probabilities(weights, space.action_spec.num_choices))
    gaussian = GaussianBlocks(
        config=config, space=space, centre=torch.zeros(shape, device=device), std=torch.full(shape, config.initial_std, device=device)
    )
    return gaussian if initial is None else replace(gaussian, centre=gaussian.normalise(initial))


@dataclass(frozen=True, kw_only=True)
class GaussianBlocks:
    """A diagonal Gaussian over continuous actions, in standard deviations of the training actions.

    With ``use_bounds`` samples are clamped to the world's bounds, in env units only: refitting on clamped ones would shrink the Gaussian at the
    bounds, where the best plans are.
    """

    RETURNS_BEST: ClassVar[bool] = False
    config: PlannerConfig
    space: BlockSpace
    centre: Float[Tensor, "E T A"]
    std: Float[Tensor, "E T A"]

    @property
    def mode(self) -> Float[Tensor, "E T A"]:
        """The mean in env units, within the bounds if ``use_bounds``."""
        return self.env_units(self.centre)

    @property
    def mean(self) -> Float[Tensor, "E T A"]:
        """The same."""
        return self.mode

    def sample(self, seeds: Sequence[tuple[int, int]], iteration: int) -> Float[Tensor, "E S T A"]:
        """Centre + std * noise, of which the share ``noise_smoothing`` of the variance moves slowly over env steps; the first noise is 0."""
        num_episodes, num_steps, block = self.centre.shape
        noise = smoothed_noise(
            seeds,
            iteration,
            num_candidates=self.config.num_candidates,
            num_env_steps=num_steps * self.space.action_block,
            action_dimension=self.space.action_spec.dimension,
            smoothing=self.config.noise_smoothing,
            window_env_steps=self.config.smoothing_window_env_steps,
        )
        noise = noise.reshape(num_episodes, self.config.num_candidates, num_steps, block).to(self.centre.device)  # N a -> T A
        noise[:, 0] = 0
        return self.centre[:, None] + self.std[:, None] * noise

    def refit(self, elites: Float[Tensor, "E K T A"]) -> "GaussianBlocks":
        """Mean and standard deviation of the elites, mixed with the old ones by ``momentum``; never below ``std_floor``."""
        kept = self.config.momentum
        centre = kept * self.centre + (1 - kept) * elites.mean(1)
        std = kept * self.std + (1 - kept) * elites.std(1, correction=0)
        return replace(self, centre=centre, std=std.clamp_min(self.config.std_floor))

    def env_units(self, samples: Float[Tensor, "*E T A"]) -> Float[Tensor, "*E T A"]:
        """Blocks in env units, within the bounds if ``use_bounds``."""
        blocks = samples * self._per_block(self.space.std) + self._per_block(self.space.mean)
        if not self.config.use_bounds:
            return blocks
        return blocks.clamp(self._per_block(self.space.action_spec.low), self._per_block(self.space.action_spec.high))

    def normalise(self, blocks: Float[Tensor, "*E T A"]) -> Float[Tensor, "*E T A"]:
        """The inverse of ``env_units``, but for what it clamped."""
        return (blocks - self._per_block(self.space.mean)) / self._per_block(self.space.std)

    def _per_block(self, values: Sequence[float]) -> Float[Tensor, " A"]:
        return self.space.per_block(values, self.centre.device)


@dataclass(frozen=True, kw_only=True)
class CategoricalBlocks:
    """A categorical distribution over the choices of each env step, independent of the other env steps; samples are one-hot.

    A search over it ends with the best candidate that it tried: the mode combines the most probable choice of each env step and may be a sequence
    that nobody ever tried ("left, left" and "right, right" are good, "left, right" is neither).
    """

    RETURNS_BEST: ClassVar[bool] = True
    config: PlannerConfig
    space: BlockSpace
    probabilities: Float[Tensor, "E T A"]
    """Per env step they sum to 1 over its choices."""

    @property
    def mode(self) -> Float[Tensor, "E T A"]:
        """The most probable choice of each env step, one-hot; the lowest-numbered one if several are."""
        return one_hot_choices(self.probabilities, self.space.action_spec.num_choices)

    @property
    def mean(self) -> Float[Tensor, "E T A"]:
        """The probabilities: the mean of one-hot samples."""
        return self.probabilities

    @property
    def std(self) -> Float[Tensor, "E T A"]:
        """Standard deviation of each one-hot number."""
        return (self.probabilities * (1 - self.probabilities)).sqrt()

    def sample(self, seeds: Sequence[tuple[int, int]], iteration: int) -> Float[Tensor, "E S T A"]:
        """One-hot sequences; an env step after the first repeats the choice before it with probability ``noise_smoothing``.

        Otherwise it is drawn from its own probabilities. Repeats let held actions be tried, which independent draws hardly ever contain.
        """
        num_episodes, num_steps, block = self.probabilities.shape
        num_candidates, num_choices = self.config.num_candidates, self.space.action_spec.num_choices
        uniform, source = uniform_choices(
            seeds,
            iteration,
            num_candidates=num_candidates,
            num_env_steps=num_steps * self.space.action_block,
            repeat_probability=self.config.noise_smoothing,
        )
        device = self.probabilities.device
        limits = self.probabilities.reshape(num_episodes, 1, -1, num_choices).cumsum(-1)[..., :-1]  # T A -> N a
        drawn = (uniform.to(device)[..., None] >= limits).sum(-1)  # E S N
        choices = drawn.gather(-1, source.to(device))
        samples = torch.nn.functional.one_hot(choices, num_choices).float()
        samples = samples.reshape(num_episodes, num_candidates, num_steps, block)  # N a -> T A
        samples[:, 0] = self.mode
        return samples

    def refit(self, elites: Float[Tensor, "E K T A"]) -> "CategoricalBlocks":
        """How often the elites took each choice, mixed with the old probabilities by ``momentum`` and then with ``probability_floor`` of uniform."""
        kept, floor = self.config.momentum, self.config.probability_floor
        probabilities = kept * self.probabilities + (1 - kept) * elites.mean(1)
        return replace(self, probabilities=(1 - floor) * probabilities + floor / self.space.action_spec.num_choices)

    def env_units(self, samples: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S T A"]:
        """The same."""
        return samples

    def normalise(self, blocks: Float[Tensor, "E P T A"]) -> Float[Tensor, "E P T A"]:
        """The largest number of each env step becomes 1, the others 0."""
        return one_hot_choices(blocks, self.space.action_spec.num_choices)


def _as_probabilities(weights: Float[Tensor, "E T A"], num_choices: int) -> Float[Tensor, "E T A"]:
    """Weights of at least 0, scaled so that each env step's sum to 1; where all are 0, all choices are alike."""
    per_step = weights.clamp_min(0).reshape(*weights.shape[:-1], -1, num_choices)
    total = per_step.sum(-1, keepdim=True)
    return torch.where(total > 0, per_step / total, torch.full_like(per_step, 1 / num_choices)).flatten(-2)
