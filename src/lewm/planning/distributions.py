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
from jaxtyping import Bool, Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.planning.base import BlockSpace, one_hot_choices
from lewm.planning.noise import coloured_noise, on_device, smoothed_noise, uniform_choices


def start_distribution(
    config: PlannerConfig, space: BlockSpace, num_episodes: int, num_steps: int, initial: Float[Tensor, "E T A"] | None, device: torch.device
) -> "GaussianBlocks | CategoricalBlocks":
    """Where a search begins: around ``initial`` or, without it, around the mean of the training actions (discrete: all choices alike)."""
    shape = (num_episodes, num_steps, space.block_dimension)
    dtype = search_dtype(config)
    if space.action_spec.kind == "discrete":
        weights = torch.ones(shape, device=device, dtype=dtype) if initial is None else initial.to(dtype)
        return CategoricalBlocks(config=config, space=space, probabilities=_as_probabilities(weights, space.action_spec.num_choices))
    std = torch.full(shape, config.initial_std, device=device, dtype=dtype)
    gaussian = GaussianBlocks(config=config, space=space, centre=torch.zeros_like(std), std=std)
    return gaussian if initial is None else replace(gaussian, centre=gaussian.normalise(initial.to(dtype)))


def search_dtype(config: PlannerConfig) -> torch.dtype:
    """In which a search is carried out: single precision also where the model imagines in half."""
    return torch.float64 if config.precision == "64-true" else torch.float32


def merged(
    is_done: Bool[Tensor, " E"], old: "GaussianBlocks | CategoricalBlocks", new: "GaussianBlocks | CategoricalBlocks"
) -> "GaussianBlocks | CategoricalBlocks":
    """The old distribution for the episodes that are done, the new one for the others."""
    done = is_done[:, None, None]
    if isinstance(old, GaussianBlocks):
        assert isinstance(new, GaussianBlocks)
        return replace(new, centre=torch.where(done, old.centre, new.centre), std=torch.where(done, old.std, new.std))
    assert isinstance(new, CategoricalBlocks)
    return replace(new, probabilities=torch.where(done, old.probabilities, new.probabilities))


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

    def sample(self, seeds: Sequence[tuple[int, int]], iteration: int, num_candidates: int | None = None) -> Float[Tensor, "E S T A"]:
        """Centre + std * noise; the first noise is 0. The noise is smooth over env steps or coloured, whichever the planner knows."""
        num_episodes, num_steps, block = self.centre.shape
        num_candidates = num_candidates or self.config.num_candidates
        noise = self._noise(seeds, iteration, num_candidates, num_steps * self.space.action_block)
        noise = on_device(noise.reshape(num_episodes, num_candidates, num_steps, block), self.centre.device).to(self.centre)  # N a -> T A
        noise[:, 0] = 0
        return self.centre[:, None] + self.std[:, None] * noise

    def _noise(self, seeds: Sequence[tuple[int, int]], iteration: int, num_candidates: int, num_env_steps: int) -> Float[Tensor, "E S N a"]:
        sizes = {"num_candidates": num_candidates, "num_env_steps": num_env_steps, "action_dimension": self.space.action_spec.dimension}
        if self.config.name == "icem":
            return coloured_noise(seeds, iteration, exponent=self.config.noise_exponent, **sizes)
        smoothing, window = self.config.noise_smoothing, self.config.smoothing_window_env_steps
        return smoothed_noise(seeds, iteration, smoothing=smoothing, window_env_steps=window, **sizes)

    def refit(self, elites: Float[Tensor, "E K T A"], weights: Float[Tensor, "E K"] | None = None) -> "GaussianBlocks":
        """Weighted mean and standard deviation of the elites, mixed with the old ones by ``momentum``; never below ``std_floor``.

        ``weights`` sum to 1; without them all elites count the same.
        """
        kept, shares = self.config.momentum, _shares(weights, elites)
        mean = (shares * elites).sum(1)
        centre = kept * self.centre + (1 - kept) * mean
        std = kept * self.std + (1 - kept) * (shares * (elites - mean[:, None]).square()).sum(1).sqrt()
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
        return self.space.per_block(values, self.centre.device).to(self.centre)


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

    def sample(self, seeds: Sequence[tuple[int, int]], iteration: int, num_candidates: int | None = None) -> Float[Tensor, "E S T A"]:
        """One-hot sequences; an env step after the first repeats the choice before it with probability ``noise_smoothing``.

        Otherwise it is drawn from its own probabilities. Repeats let held actions be tried, which independent draws hardly ever contain.
        """
        num_episodes, num_steps, block = self.probabilities.shape
        num_candidates, num_choices = num_candidates or self.config.num_candidates, self.space.action_spec.num_choices
        uniform, source = uniform_choices(
            seeds,
            iteration,
            num_candidates=num_candidates,
            num_env_steps=num_steps * self.space.action_block,
            repeat_probability=self.config.noise_smoothing,
        )
        device = self.probabilities.device
        limits = self.probabilities.reshape(num_episodes, 1, -1, num_choices).cumsum(-1)[..., :-1]  # T A -> N a
        drawn = (on_device(uniform, device)[..., None] >= limits).sum(-1)  # E S N
        choices = drawn.gather(-1, on_device(source, device))
        samples = torch.nn.functional.one_hot(choices, num_choices).to(self.probabilities)
        samples = samples.reshape(num_episodes, num_candidates, num_steps, block)  # N a -> T A
        samples[:, 0] = self.mode
        return samples

    def refit(self, elites: Float[Tensor, "E K T A"], weights: Float[Tensor, "E K"] | None = None) -> "CategoricalBlocks":
        """How often the elites took each choice (by ``weights`` that sum to 1, if given), mixed with the old probabilities by ``momentum``.

        Then with ``probability_floor`` of uniform.
        """
        kept, floor = self.config.momentum, self.config.probability_floor
        probabilities = kept * self.probabilities + (1 - kept) * (_shares(weights, elites) * elites).sum(1)
        return replace(self, probabilities=(1 - floor) * probabilities + floor / self.space.action_spec.num_choices)

    def env_units(self, samples: Float[Tensor, "E S T A"]) -> Float[Tensor, "E S T A"]:
        """The same."""
        return samples

    def normalise(self, blocks: Float[Tensor, "E P T A"]) -> Float[Tensor, "E P T A"]:
        """The largest number of each env step becomes 1, the others 0."""
        return one_hot_choices(blocks, self.space.action_spec.num_choices)


def _shares(weights: Float[Tensor, "E K"] | None, elites: Float[Tensor, "E K T A"]) -> Float[Tensor, "#E K 1 1"]:
    if weights is None:
        return elites.new_full((1, elites.shape[1], 1, 1), 1 / elites.shape[1])
    return weights[:, :, None, None]


def _as_probabilities(weights: Float[Tensor, "E T A"], num_choices: int) -> Float[Tensor, "E T A"]:
    """Weights of at least 0, scaled so that each env step's sum to 1; where all are 0, all choices are alike."""
    per_step = weights.clamp_min(0).reshape(*weights.shape[:-1], -1, num_choices)
    total = per_step.sum(-1, keepdim=True)
    return torch.where(total > 0, per_step / total, torch.full_like(per_step, 1 / num_choices)).flatten(-2)
