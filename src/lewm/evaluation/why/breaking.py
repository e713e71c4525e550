"""Agents with one part broken on purpose, so that the diagnosis can be checked: it should name the part that was broken.

Axes: n sample, D latent, F feature.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lewm.config import PlannerConfig
from lewm.errors import ConfigError
from lewm.evaluation.why.coalitions import PARTS
from lewm.evaluation.why.oracles import Parts
from lewm.planning.terms import Distance

NOISE_STD = 3.0
"""Of a broken encoder, in units of the latents' own standard deviation of about 1."""
NOISE_FREQUENCY = 100.0
NOISE_SEED = 0


class NoisyLatents(nn.Module):
    """A projector whose output has noise added that is a function of the latent alone: the same frame always gets the same wrong latent."""

    def __init__(self, projector: nn.Module, dimension: int) -> None:
        super().__init__()
        self.projector = projector
        mixing = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(NOISE_SEED)) / math.sqrt(dimension)
        self.register_buffer("mixing", mixing)

    def forward(self, features: Tensor) -> Tensor:
        """Latents [n, D] of features [n, F]."""
        latents: Tensor = self.projector(features)
        return latents + NOISE_STD * math.sqrt(2) * torch.sin(NOISE_FREQUENCY * latents @ self.mixing.to(latents))  # type: ignore[operator]


class ReversedActions(nn.Module):
    """An action encoder that is told the opposite of every action (of choices: another one)."""

    def __init__(self, action_encoder: nn.Module, *, is_discrete: bool) -> None:
        super().__init__()
        self.action_encoder, self.is_discrete = action_encoder, is_discrete

    def forward(self, blocks: Tensor) -> Tensor:
        """Embedded blocks."""
        wrong = blocks.flip(-1) if self.is_discrete else -blocks
        embedded: Tensor = self.action_encoder(wrong)
        return embedded


def break_part(parts: Parts, name: str) -> Parts:
    """The same agent with one part broken, beyond use but not beyond recognition; ``ConfigError`` for a part that there is not."""
    breaks: dict[str, Callable[[Parts], Parts]] = {
        "encoder": _with_broken_encoder,
        "predictor": _with_broken_predictor,
        "cost": lambda whole: replace(whole, metric=half_negative(whole.metric)),
        "search": lambda whole: replace(whole, planner=hardly_searching(whole.planner)),
    }
    if name not in breaks:
        raise ConfigError(f"--break takes one of {', '.join(PARTS)}, got {name!r}")
    return breaks[name](parts)


def half_negative(metric: Distance) -> Distance:
    """A distance in which every other dimension counts negatively: it wants to be far from the goal there."""

    def distance(latents: Tensor, goals: Tensor) -> Tensor:
        return metric(latents[..., 1::2], goals[..., 1::2]) - metric(latents[..., ::2], goals[..., ::2])

    return distance


def hardly_searching(planner: PlannerConfig) -> PlannerConfig:
    """One round of two candidates (the fewest that have elites) that hardly differ."""
    changes: dict[str, object] = {"num_candidates": 2, "num_elites": 2, "num_iterations": 1, "initial_std": 0.02, "candidate_schedule": ()}
    changes |= {"std_floor": 0.0, "proposals": ""}
    return replace(planner, **{name: value for name, value in changes.items() if planner.knows(name)})  # type: ignore[arg-type]


def _with_broken_encoder(parts: Parts) -> Parts:
    model = copy.deepcopy(parts.model)
    model.projector = NoisyLatents(model.projector, model.latent_dimension)  # type: ignore[assignment]
    return replace(parts, model=model)


def _with_broken_predictor(parts: Parts) -> Parts:
    model = copy.deepcopy(parts.model)
    model.action_encoder = ReversedActions(model.action_encoder, is_discrete=model.action_spec.kind == "discrete")  # type: ignore[assignment]
    return replace(parts, model=model)
