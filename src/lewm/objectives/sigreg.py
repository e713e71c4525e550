"""SIGReg: how far latents are from an isotropic unit Gaussian.

Axes: B batch, D latent, M direction, K knot.
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from lewm.objectives.base import Reduce


def random_directions(dimension: int, count: int, *, seed: int, step: int = 0, device: torch.device | str = "cpu") -> Float[Tensor, "D M"]:
    """Random unit vectors, one per column: a function of (seed, step), the same on every device and in every process."""
    digest = hashlib.sha256(f"sigreg directions {seed} {step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    directions = torch.randn(dimension, count, generator=generator)
    return (directions / directions.norm(dim=0)).to(device)


def sigreg(
    latents: Float[Tensor, "*batch B D"], directions: Float[Tensor, "D M"], *, knots: int = 17, reduce: Reduce | None = None
) -> Float[Tensor, ""]:
    """placeholder"""
    t = torch.linspace(0, 3, knots, dtype=latents.dtype)
    dt = 3 / (knots - 1)
    w = torch.full_like(t, 2 * dt)
    w[[0, -1]] = dt
    phi = torch.exp(-t * t / 2)
    x = (latents @ directions.to(latents.dtype))[..., None] * t
    err = (x.cos().mean(-3) - phi) ** 2 + x.sin().mean(-3) ** 2
    return ((err @ (w * phi)) * latents.shape[-2]).mean()
