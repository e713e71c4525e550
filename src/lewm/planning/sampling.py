"""Search by sampling: draw candidates around a Gaussian, imagine them, move the Gaussian towards the good ones.

Axes: E episode, S candidate, P proposal, T model step, A action block, N env step, a env action.
"""

import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.config import PlannerConfig
from lewm.errors import PlanningError
from lewm.planning.base import BlockSpace, Cost, Plan, Trace, deadline_passed
from lewm.planning.noise import smoothed_noise


class CEM:
    """Cross-entropy method: refit a diagonal Gaussian on the elites, a fixed number of times, and return its mean.

    The Gaussian lives in standard deviations of the training actions. Candidates are clamped to the bounds when they are imagined and when they are
    returned, but the Gaussian is refitted on the unclamped samples: refitting on clamped ones shrinks it at the bounds, where the best plans are.
    Candidate 0 is the mean itself. Candidates whose cost is NaN are never elites.
    """

    def __init__(self, config: PlannerConfig) -> None:
        self.config = config

    def plan(
        self,
        cost: Cost,
        space: BlockSpace,
        *,
        horizon_model_steps: int,
        seeds: Sequence[tuple[int, int]],
        initial: Float[Tensor, "E T A"] | None = None,
        proposals: Float[Tensor, "E P T A"] | None = None,
        deadline_s: float | None = None,
        trace: Trace | None = None,
        device: torch.device | None = None,
    ) -> Plan:
        """See ``Planner.plan``."""
        start_s = time.monotonic()
        device = device or torch.device("cpu")
        if space.action_spec.kind != "continuous":
            raise PlanningError(f"planner 'cem' searches continuous actions; this model's are {space.action_spec.kind}")
        units = _Units(space, self.config.use_bounds, device)
        shape = (len(seeds), horizon_model_steps, space.block_dimension)
        mean = torch.zeros(shape, device=device) if initial is None else units.normalise(initial)
        std = torch.full(shape, self.config.initial_std, device=device)
        extra = None if proposals is None else units.normalise(proposals)
        num_iterations = 0
        for iteration in range(self.config.num_iterations):
            samples = self._sample(mean, std, extra, seeds, iteration, space)
            costs = _without_nan(cost(units.env_units(samples)))
            mean, std = self._refit(mean, std, samples, costs)
            num_iterations += 1
            if trace is not None:
                trace.best_cost.append(costs.amin(1))
                trace.mean.append(units.env_units(mean))
                trace.std.append(std)
            if deadline_passed(start_s, deadline_s):
                break
        blocks = units.env_units(mean)
        return Plan(blocks=blocks, cost=cost(blocks[:, None])[:, 0], num_iterations=num_iterations)

    def _sample(
        self,
        mean: Float[Tensor, "E T A"],
        std: Float[Tensor, "E T A"],
        proposals: Float[Tensor, "E P T A"] | None,
        seeds: Sequence[tuple[int, int]],
        iteration: int,
        space: BlockSpace,
    ) -> Float[Tensor, "E S T A"]:
        noise = smoothed_noise(
            seeds,
            iteration,
            num_candidates=self.config.num_candidates,
            num_env_steps=mean.shape[1] * space.action_block,
            action_dimension=space.action_spec.dimension,
            smoothing=self.config.noise_smoothing,
            window_env_steps=self.config.smoothing_window_env_steps,
        )
        noise = noise.reshape(len(seeds), self.config.num_candidates, *mean.shape[1:]).to(mean.device)  # N a -> T A
        noise[:, 0] = 0
        samples = mean[:, None] + std[:, None] * noise
        if proposals is not None and iteration == 0:
            samples[:, 1 : 1 + proposals.shape[1]] = proposals[:, : self.config.num_candidates - 1]
        return samples

    def _refit(
        self, mean: Float[Tensor, "E T A"], std: Float[Tensor, "E T A"], samples: Float[Tensor, "E S T A"], costs: Float[Tensor, "E S"]
    ) -> tuple[Float[Tensor, "E T A"], Float[Tensor, "E T A"]]:
        best = costs.topk(self.config.num_elites, dim=1, largest=False).indices
        elites = samples.take_along_dim(best[:, :, None, None], dim=1)
        kept = self.config.momentum
        new_mean = kept * mean + (1 - kept) * elites.mean(1)
        new_std = kept * std + (1 - kept) * elites.std(1, correction=0)
        return new_mean, new_std.clamp_min(self.config.std_floor)


class _Units:
    """Between the search's units (standard deviations of the training actions) and the world's."""

    def __init__(self, space: BlockSpace, use_bounds: bool, device: torch.device) -> None:
        self.mean = space.per_block(space.mean, device)
        self.std = space.per_block(space.std, device)
        self.low = space.per_block(space.action_spec.low, device) if use_bounds else None
        self.high = space.per_block(space.action_spec.high, device) if use_bounds else None

    def normalise(self, blocks: Tensor) -> Tensor:
        return (blocks - self.mean) / self.std

    def env_units(self, samples: Tensor) -> Tensor:
        blocks = samples * self.std + self.mean
        return blocks if self.low is None else blocks.clamp(self.low, self.high)


def _without_nan(costs: Float[Tensor, "E S"]) -> Float[Tensor, "E S"]:
    is_nan = costs.isnan()
    if bool(is_nan.all(1).any()):
        raise PlanningError("every candidate has a cost that is not a number: the model's weights or its input are damaged")
    return costs.masked_fill(is_nan, torch.inf)
