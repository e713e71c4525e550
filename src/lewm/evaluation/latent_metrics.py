"""What a set of latents looks like: pure measures of spread, rank, shape, order in time and what they can be told from.

Axes: n latent (whatever order), C clip, T model step, D latent, f feature, s label, k neighbour.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

RIDGE = 1e-3
"""Of fits on standardised features."""
NUM_RANDOM_DIRECTIONS = 256
NUM_KNOTS, DIRECTIONS_AT_ONCE = 17, 8
TIME_POWERS = 3
"""Latents are fitted by the frame's number and its powers up to this."""
NUM_NEIGHBOURS, MAX_COMPARED = 10, 2000
"""Neighbours are compared for at most so many latents, among themselves."""


def effective_rank(latents: Float[Tensor, "n D"]) -> float:
    """exp(entropy of the normalised singular values) of the centred latents (Roy & Vetterli 2007): 1..D, blind to scale, 0 for a single point."""
    shares = _shares(_singular_values(latents))
    return 0.0 if shares is None else float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def participation_ratio(latents: Float[Tensor, "n D"]) -> float:
    """(sum v)^2 / sum v^2 of the eigenvalues v of the covariance: 1..D, blind to scale, 0 for a single point."""
    shares = _shares(_singular_values(latents) ** 2)
    return 0.0 if shares is None else float(1 / (shares**2).sum())


@dataclass(frozen=True, kw_only=True)
class DirectionShape:
    """How latents are spread along one direction."""

    kind: str
    """``axis i``, ``principal i`` or ``random i``."""
    std: float
    skewness: float
    excess_kurtosis: float
    distance: float
    """From a Gaussian of the same mean and std: the weighted squared difference of the characteristic functions, 0 for a perfect match."""


def worst_directions(latents: Float[Tensor, "n D"], count: int = 3, *, seed: int = 0) -> list[DirectionShape]:
    """The directions along which latents are least Gaussian, whatever their scale, among axes, principal axes and 256 random ones.

    Sampling alone gives distances of about 1 / n. A direction along which nothing varies is left out: it has no shape.
    """
    latents = latents.detach().double()
    centred = latents - latents.mean(0)
    dimension = latents.shape[1]
    principal = torch.linalg.svd(centred, full_matrices=False).Vh.T
    random = torch.randn(dimension, NUM_RANDOM_DIRECTIONS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions = torch.cat([torch.eye(dimension, dtype=torch.float64), principal, random / random.norm(dim=0)], dim=1)
    kinds = [f"{kind} {index}" for kind, size in (("axis", dimension), ("principal", principal.shape[1]), ("random", 256)) for index in range(size)]
    projections = centred @ directions
    std = projections.std(0, correction=0)
    is_varied = std > 1e-6 * std.max().clamp(min=1e-12)
    standard = projections / torch.where(is_varied, std, torch.ones_like(std))
    distances = torch.where(is_varied, _gaussian_distance(standard), torch.full_like(std, -1.0))
    found = []
    for index in distances.topk(min(count, int(is_varied.sum()))).indices.tolist():
        values = standard[:, index]
        found.append(
            DirectionShape(
                kind=kinds[index],
                std=float(std[index]),
                skewness=float((values**3).mean()),
                excess_kurtosis=float((values**4).mean() - 3),
                distance=float(distances[index]),
            )
        )
    return found


def straightness(latents: Float[Tensor, "C T D"]) -> float | None:
    """Mean cosine between consecutive changes of the latent: 1 on straight lines. None where clips are too short or nothing moves."""
    steps = latents.detach().double().diff(dim=1)
    if steps.shape[1] < 2:
        return None
    norms = steps.norm(dim=-1)
    lengths = norms[:, :-1] * norms[:, 1:]
    is_moving = lengths > 1e-12
    if not bool(is_moving.any()):
        return None
    return float(((steps[:, :-1] * steps[:, 1:]).sum(-1)[is_moving] / lengths[is_moving]).mean())


def explained_share(latents: Float[Tensor, "n D"], features: Float[Tensor, "n f"], groups: Int[Tensor, " n"]) -> float:
    """Share of the latents' variance that a linear fit on standardised features explains, on groups that it was not fitted on; at least 0.

    Groups (episodes) with even rank are fitted on, the others scored, and the other way round; the mean of both. 0 with fewer than two groups.
    """
    latents, features = latents.detach().double(), features.detach().double()
    ranks = torch.unique(groups, return_inverse=True)[1]
    shares = []
    for side in (0, 1):
        is_fit = ranks % 2 == side
        if not bool(is_fit.any()) or bool(is_fit.all()):
            return 0.0
        mean, std = features[is_fit].mean(0), features[is_fit].std(0, correction=0)
        inputs = (features - mean) / torch.where(std > 1e-9, std, torch.ones_like(std))
        centre = latents[is_fit].mean(0)
        gram = inputs[is_fit].T @ inputs[is_fit] + RIDGE * int(is_fit.sum()) * torch.eye(features.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram, inputs[is_fit].T @ (latents[is_fit] - centre))
        left = (latents[~is_fit] - centre - inputs[~is_fit] @ weights).square().sum()
        total = (latents[~is_fit] - centre).square().sum()
        shares.append(1 - float(left / total) if float(total) > 1e-12 else 0.0)
    return max(0.0, sum(shares) / 2)


def time_share(latents: Float[Tensor, "n D"], env_steps: Int[Tensor, " n"], episodes: Int[Tensor, " n"]) -> float:
    """Share of the variance that follows from the frame's number in its episode alone."""
    position = env_steps.double() / env_steps.max().clamp(min=1)
    return explained_share(latents, torch.stack([position**power for power in range(1, TIME_POWERS + 1)], dim=1), episodes)


def episode_share(latents: Float[Tensor, "n D"], episodes: Int[Tensor, " n"]) -> float:
    """Share of the variance that lies between episodes: 1 where latents never change within one, about 0 where all episodes are alike.

    The variance between episodes is estimated without the part that means of few latents owe to chance.
    """
    latents = latents.detach().double()
    names, ranks, counts = torch.unique(episodes, return_inverse=True, return_counts=True)
    if len(names) < 2 or len(latents) <= len(names):
        return 0.0
    sums = torch.zeros(len(names), latents.shape[1], dtype=torch.float64).index_add_(0, ranks, latents)
    means = sums / counts[:, None]
    within = (latents - means[ranks]).square().sum() / (len(latents) - len(names))
    between = (counts[:, None] * (means - latents.mean(0)).square()).sum() / (len(names) - 1)
    size = (len(latents) - float(counts.square().sum()) / len(latents)) / (len(names) - 1)
    own = max(0.0, float(between - within) / size)
    return own / (own + float(within)) if own + float(within) > 1e-12 else 0.0


def neighbour_overlap(latents: Float[Tensor, "n D"], labels: Float[Tensor, "n s"], *, count: int = NUM_NEIGHBOURS, seed: int = 0) -> float:
    """Share of each latent's nearest neighbours that are among the nearest by true state too (labels standardised); count / n by chance."""
    if len(latents) > MAX_COMPARED:
        chosen = torch.randperm(len(latents), generator=torch.Generator().manual_seed(seed))[:MAX_COMPARED]
        latents, labels = latents[chosen], labels[chosen]
    std = labels.double().std(0, correction=0)
    states = (labels.double() / torch.where(std > 1e-9, std, torch.full_like(std, torch.inf))).float()
    count = min(count, len(latents) - 1)
    nearest = [_nearest(rows.detach().float(), count) for rows in (latents, states)]
    shared = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(-1)
    return float(shared.float().mean())


def directions_as_json(directions: list[DirectionShape]) -> list[dict[str, Any]]:
    """Plain values, rounded to what matters."""
    return [
        {
            name: value if isinstance(value, str) else float(np.format_float_positional(value, 5, fractional=False))
            for name, value in vars(one).items()
        }
        for one in directions
    ]


def _nearest(rows: Tensor, count: int) -> Tensor:
    distances = torch.cdist(rows, rows)
    distances.fill_diagonal_(torch.inf)
    return distances.topk(count, largest=False).indices


def _gaussian_distance(standard: Float[Tensor, "n m"]) -> Float[Tensor, " m"]:
    """Weighted squared difference between the empirical characteristic function and the unit Gaussian's, on 17 knots in [0, 3] (as in SIGReg)."""
    return torch.cat([_gaussian_distance_of_few(part) for part in torch.split(standard.T, DIRECTIONS_AT_ONCE)])


def _gaussian_distance_of_few(projections: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """The knots are evenly spaced, so that one cosine and sine and their powers make all the others."""
    step = 3 / (NUM_KNOTS - 1)
    angles = step * projections.contiguous()
    cosine, sine = torch.cos(angles), torch.sin(angles)
    real, imaginary = torch.ones_like(cosine), torch.zeros_like(sine)
    total = torch.zeros(len(projections), dtype=torch.float64)
    for knot in range(1, NUM_KNOTS):  # at 0 both functions are 1
        real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        weight = math.exp(-((knot * step) ** 2) / 2)
        total += weight * ((real.mean(1) - weight).square() + imaginary.mean(1).square())
    return total * 2 * step


def _singular_values(latents: Tensor) -> Tensor:
    latents = latents.detach().double()
    values: Tensor = torch.linalg.svdvals(latents - latents.mean(0))
    return values


def _shares(values: Tensor) -> Tensor | None:
    """Values as shares of their sum; None if there is nothing but rounding."""
    total = values.sum()
    return None if float(total) < 1e-12 else values / total
