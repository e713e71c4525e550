"""SIGReg: how far latents are from an isotropic unit Gaussian, at the cost of one sine and one cosine per projection.

Axes: L leading (any batch axes, flattened), B batch, D latent, M direction, m direction within a chunk, K knot, J knot but the first,
W wave (0 cosine, 1 sine).

The knots are equispaced, so cos(k a) and sin(k a) of every projection follow from those of a = x dt by Chebyshev's recurrence
``cos((k+1) a) = 2 cos(a) cos(k a) - cos((k-1) a)`` (the same for the sine). Sums over the batch and gradients accumulate knot by knot in a few
buffers, for a chunk of directions at a time: memory depends neither on the number of knots nor, beyond a chunk, on that of directions. On a GPU,
where starting so many small operations takes longer than doing them, all knots of a (smaller) chunk are handled at once.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lewm.errors import ConfigError

KnotIndex = int | slice
"""Picks one of the knots, or all of them with ``slice(None)``, along the axis J of a tensor: index 0 is the second knot, for the first has no part
in the statistic."""
Reduce = Callable[[Tensor], Tensor]
"""Adds up a tensor over all processes, in a way that autograd sees."""

LAST_KNOT = 3.0
"""The characteristic function is compared on [0, 3]."""
CHUNK_PROJECTIONS = 2**18
"""Projections [L, B, m] handled at once on a CPU: few enough for the buffers to stay in its caches."""
CHUNK_ANGLES = 2**24
"""Angles [J, L, B, m] handled at once elsewhere, whatever K is (of 2**20 projections at 17 knots): with a cosine and a sine, 3 floats of each."""


def random_directions(dimension: int, count: int, *, seed: int, step: int = 0, device: torch.device | str = "cpu") -> Float[Tensor, "D M"]:
    """Random unit vectors, one per column: a function of (seed, step), the same on every device and in every process."""
    digest = hashlib.sha256(f"sigreg directions {seed} {step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    directions = torch.randn(dimension, count, generator=generator)
    return functional.normalize(directions, dim=0).to(device)


def sigreg(
    latents: Float[Tensor, "*batch B D"], directions: Float[Tensor, "D M"], *, knots: int = 17, reduce: Reduce | None = None
) -> Float[Tensor, ""]:
    """How far ``latents`` are from an isotropic unit Gaussian.

    Epps-Pulley statistic of each 1-D projection, averaged over directions and leading axes (LeJEPA, arXiv 2511.08544, eq. 12; knots on [0, 3],
    trapezoid rule, Gaussian window). Multiplied by the sample count B, so that a perfect match scores about 1.05 for any B, and a collapse to
    a point at 0 scores 0.402 B. Half precision is promoted to float32; differentiable once, in ``latents`` only.

    With ``reduce``, an autograd-aware sum over processes, B is the global count and every process gets the statistic of the global batch.
    """
    if knots < 2:
        raise ConfigError(f"SIGReg needs at least 2 knots, got {knots}")
    dtype = torch.promote_types(latents.dtype, torch.float32)
    rows = latents.to(dtype).reshape(-1, *latents.shape[-2:]).contiguous()  # [L, B, D]
    rows = rows if torch.is_grad_enabled() else rows.detach()  # a custom function would still see requires_grad
    directions = directions.detach().to(dtype)
    with torch.autocast(rows.device.type, enabled=False):
        if reduce is None:
            function = _FusedStatistic if torch.compiler.is_compiling() else _Statistic
            value: Tensor = function.apply(rows, directions, knots)  # type: ignore[no-untyped-call]
            return value
        sums: Tensor = _WaveSums.apply(rows, directions, knots)  # type: ignore[no-untyped-call]
        packed = reduce(torch.cat([sums.flatten(), sums.new_full((1,), rows.shape[1])]))
        errors = packed[:-1].view_as(sums) / packed[-1] - _targets(knots, sums)
        return (errors.square().sum(1).mean((1, 2)) * _weights(knots, sums)).sum() * packed[-1]


class _Statistic(torch.autograd.Function):
    """The statistic of one process's batch, with its gradient accumulated in the same pass."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, directions: Tensor, knots: int) -> Tensor:
        num_leading, count, _ = latents.shape
        weights, targets = _weights(knots, latents), _targets(knots, latents)
        scale = count / (num_leading * directions.shape[1])
        slopes = (2 * scale / count * weights * _positions(knots, latents)).view(-1, 1, 1, 1)
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(latents) if needs_gradient else None
        total = latents.new_zeros(())
        for columns in _chunks(latents, directions, knots):
            chunk = directions[:, columns]
            sums = latents.new_empty(knots - 1, 2, num_leading, chunk.shape[1])

            def coefficient(knot: KnotIndex, sums: Tensor = sums) -> Tensor:
                cosine, sine = (sums[knot] / count - targets[knot]).unbind(-3)
                return torch.stack([sine, -cosine], dim=-3) * slopes[knot]  # d cos = -sin, d sin = cos

            pulled = _sweep(latents @ chunk, knots, sums, coefficient if needs_gradient else None)
            total += ((sums / count - targets).square().sum((1, 2, 3)) * weights).sum()
            if gradient is not None and pulled is not None:
                gradient += pulled @ chunk.T
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (saved,) = ctx.saved_tensors
        return saved * gradient, None, None


class _FusedStatistic(torch.autograd.Function):
    """The same for torch.compile, which fuses plain expressions into two passes over the projections and would unroll ``_Statistic`` for minutes."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, directions: Tensor, knots: int) -> Tensor:
        num_leading, count, _ = latents.shape
        weights, targets = _weights(knots, latents), _targets(knots, latents)
        slopes = 2 * weights * _positions(knots, latents) / (num_leading * directions.shape[1])
        total, gradient = latents.new_zeros(()), latents.new_zeros(())
        waves = _products_of_waves((latents @ directions) * (LAST_KNOT / (knots - 1)), knots)
        for index, (cosine, sine) in enumerate(waves):
            real_error = cosine.mean(-2, keepdim=True) - targets[index, 0]
            imaginary_error = sine.mean(-2, keepdim=True)
            total = total + weights[index] * (real_error.square() + imaginary_error.square()).sum()
            gradient = gradient + slopes[index] * (imaginary_error * cosine - real_error * sine)
        ctx.save_for_backward(gradient @ directions.T)
        return total * (count / (num_leading * directions.shape[1]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (saved,) = ctx.saved_tensors
        return saved * gradient, None, None


class _WaveSums(torch.autograd.Function):
    """Sums over the batch of the cosine and sine of each projection at each knot but the first (where they are B and 0): [J, W, L, M]."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, directions: Tensor, knots: int) -> Tensor:
        ctx.save_for_backward(latents, directions)
        ctx.knots = knots
        sums = latents.new_empty(knots - 1, 2, latents.shape[0], directions.shape[1])
        for columns in _chunks(latents, directions, knots):
            _sweep(latents @ directions[:, columns], knots, sums[..., columns], None)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        latents, directions = ctx.saved_tensors
        slopes = _positions(ctx.knots, latents).view(-1, 1, 1)
        # Row k - 1 multiplies (cos, sin) of knot k: the derivative of the sine's sum is a cosine, that of the cosine's a negative sine.
        coefficients = torch.stack([gradient[:, 1] * slopes, -gradient[:, 0] * slopes], dim=1)
        pulled = torch.zeros_like(latents)
        with torch.autocast(latents.device.type, enabled=False):
            for columns in _chunks(latents, directions, ctx.knots):
                chunk, own = directions[:, columns], coefficients[..., columns]
                part = _sweep(latents @ chunk, ctx.knots, None, lambda knot, own=own: own[knot])  # type: ignore[misc]
                assert part is not None
                pulled += part @ chunk.T
        return pulled, None, None


def _sweep(
    projections: Float[Tensor, "L B m"],
    knots: int,
    sums: Float[Tensor, "J W L m"] | None,
    coefficient: Callable[[KnotIndex], Tensor] | None,
) -> Float[Tensor, "L B m"] | None:
    """One pass over all knots: fill ``sums`` with the batch sums of the waves and return the sum over knots of coefficient * wave.

    ``coefficient`` gives [W, L, m] for a knot, or [J, W, L, m] for all of them; it is asked right after these knots' sums are there.
    """
    if projections.device.type != "cpu":
        return _sweep_at_once(projections, knots, sums, coefficient)
    gradient = torch.zeros_like(projections).repeat(2, 1, 1, 1) if coefficient else None
    for knot, sign, wave in _waves(projections, knots):
        if sums is not None:
            torch.sum(wave, dim=-2, out=sums[knot - 1])
            if sign < 0:
                sums[knot - 1].neg_()
        if gradient is not None and coefficient is not None:
            gradient.addcmul_(wave, coefficient(knot - 1)[:, :, None], value=sign)
    return gradient[0].add_(gradient[1]) if gradient is not None else None


def _sweep_at_once(
    projections: Float[Tensor, "L B m"],
    knots: int,
    sums: Float[Tensor, "J W L m"] | None,
    coefficient: Callable[[KnotIndex], Tensor] | None,
) -> Float[Tensor, "L B m"] | None:
    """``_sweep`` in few operations and much memory: every wave is there at the same time."""
    angles = projections * _positions(knots, projections).view(-1, 1, 1, 1)
    waves = angles.new_empty(knots - 1, 2, *projections.shape)  # [J, W, L, B, m]
    torch.cos(angles, out=waves[:, 0])
    torch.sin(angles, out=waves[:, 1])
    if sums is not None:
        torch.sum(waves, dim=-2, out=sums)
    return waves.mul_(coefficient(slice(None)).unsqueeze(-2)).sum((0, 1)) if coefficient else None


def _waves(projections: Tensor, knots: int) -> Iterator[tuple[int, int, Tensor]]:
    """For each knot k >= 1: k, a sign, and sign * (cos, sin)(k dt x) as [W, L, B, m], in a buffer that the next but one overwrites.

    The recurrence subtracts the wave before the last. With signs +, +, -, -, ... it becomes an addition into that wave's own buffer: one
    operation per knot.
    """
    angles = projections * (LAST_KNOT / (knots - 1))
    before, wave = angles.new_empty(2, *angles.shape), angles.new_empty(2, *angles.shape)
    torch.cos(angles, out=wave[0])
    torch.sin(angles, out=wave[1])
    before[0], before[1] = 1.0, 0.0  # knot 0
    twice_cosine = torch.mul(wave[0], 2, out=angles)
    last_sign = 1
    yield 1, last_sign, wave
    for knot in range(2, knots):
        sign = 1 if knot % 4 < 2 else -1
        before.addcmul_(twice_cosine, wave, value=sign * last_sign)
        before, wave, last_sign = wave, before, sign
        yield knot, sign, wave


def _products_of_waves(angles: Tensor, knots: int) -> list[tuple[Tensor, Tensor]]:
    """cos(k a) and sin(k a) for k >= 1, each from the two half as far: expressions log2(knots) deep, where a recurrence's would be knots deep."""
    waves = [(angles.cos(), angles.sin())]
    for knot in range(2, knots):
        (cosine, sine), (other_cosine, other_sine) = waves[knot // 2 - 1], waves[knot - knot // 2 - 1]
        waves.append((cosine * other_cosine - sine * other_sine, sine * other_cosine + cosine * other_sine))
    return waves


def _chunks(latents: Tensor, directions: Tensor, knots: int) -> Iterator[slice]:
    projections = CHUNK_PROJECTIONS if latents.device.type == "cpu" else CHUNK_ANGLES // (knots - 1)
    size = max(1, projections // max(1, latents.shape[0] * latents.shape[1]))
    for start in range(0, directions.shape[1], size):
        yield slice(start, start + size)


def _positions(knots: int, like: Tensor) -> Float[Tensor, " J"]:
    """The knots but the first, at which every characteristic function is 1."""
    return torch.linspace(0, LAST_KNOT, knots, dtype=like.dtype, device=like.device)[1:]


def _targets(knots: int, like: Tensor) -> Float[Tensor, "J 2 1 1"]:
    """The Gaussian's characteristic function: real and imaginary part."""
    real = torch.exp(-_positions(knots, like).square() / 2)
    return torch.stack([real, torch.zeros_like(real)], dim=1)[:, :, None, None]


def _weights(knots: int, like: Tensor) -> Float[Tensor, " J"]:
    """Trapezoid rule on [-3, 3] folded onto [0, 3], times the Gaussian window."""
    weights = 2 * LAST_KNOT / (knots - 1) * torch.exp(-_positions(knots, like).square() / 2)
    weights[-1] /= 2
    return weights
