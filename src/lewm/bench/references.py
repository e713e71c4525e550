"""Plain ways to do what lewm does fast: what a benchmark compares with and a test checks against. Each follows its formula word by word.

Axes: T time step, B batch, D latent, M direction, K knot, Y X image, E episode, S candidate, H context, A action block.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from lewm.models.world_model import WorldModel


def literal_sigreg(latents: Float[Tensor, "*batch B D"], directions: Float[Tensor, "D M"], knots: int = 17) -> Float[Tensor, ""]:
    """SIGReg as the formula is written (LeJEPA, arXiv 2511.08544, eq. 12), with every cosine and sine in memory and torch's own gradient.

    In float32 at least, also under autocast.
    """
    with torch.autocast(latents.device.type, enabled=False):
        latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
        positions = torch.linspace(0, 3, knots, dtype=latents.dtype, device=latents.device)  # [K]
        spacing = 3 / (knots - 1)
        trapezoid = torch.full_like(positions, 2 * spacing)
        trapezoid[0] = trapezoid[-1] = spacing
        gaussian = torch.exp(-positions.square() / 2)
        angles = (latents @ directions).unsqueeze(-1) * positions  # [..., B, M, K]
        real_error = angles.cos().mean(-3) - gaussian
        imaginary_error = angles.sin().mean(-3)
        statistic: Tensor = (real_error.square() + imaginary_error.square()) @ (trapezoid * gaussian) * latents.shape[-2]  # [..., M]
        return statistic.mean()


def plain_two_room_frame(moment: np.void, size_px: int) -> np.ndarray:
    """float64 [Y, X, 3]: walls by exact overlap of each pixel with each rectangle, then the whole Gaussian blended over everything."""
    scale = size_px / 224
    low_edges = np.arange(size_px) / scale

    def overlap(low: float, high: float) -> np.ndarray:
        covered: np.ndarray = np.maximum(np.minimum(low_edges + 1 / scale, high) - np.maximum(low_edges, low), 0) * scale
        return covered

    half, door, opening = float(moment["wall_thickness_px"]) / 2, float(moment["door_y_px"]), float(moment["door_half_size_px"])
    inner = [(0, 10), (14, 210), (214, 224)]
    free = sum((overlap(*span) for span in inner), np.zeros(size_px))
    floor = np.outer(free, free)
    for low, high in (*inner[::2], (14, door - opening), (door + opening, 210)):
        floor -= np.outer(overlap(low, high), overlap(112 - half, 112 + half))
    frame = floor[..., None] * moment["background_color"].astype(np.float64)
    center = (np.arange(size_px) + 0.5) / scale
    x, y = moment["position_px"]
    dot = np.exp(-((center[None, :] - x) ** 2 + (center[:, None] - y) ** 2) / (2 * float(moment["agent_radius_px"]) ** 2))[..., None]
    blended: np.ndarray = frame * (1 - dot) + dot * moment["agent_color"]
    return blended


def straight_rollout(
    model: WorldModel, context: Float[Tensor, "E H D"], past_blocks: Float[Tensor, "E H-1 A"], candidates: Float[Tensor, "E S T A"]
) -> Float[Tensor, "E S T D"]:
    """Imagined latents by predicting the whole window of every candidate anew at every step and keeping the last output."""
    num_episodes, num_candidates, num_steps, _ = candidates.shape
    size = model.history_model_steps
    latents = context.repeat_interleave(num_candidates, dim=0)  # [E*S, H, D]
    blocks = torch.cat([past_blocks.repeat_interleave(num_candidates, dim=0), candidates.flatten(0, 1)], dim=1)
    num_context = context.shape[1]
    for step in range(num_steps):
        now = num_context + step
        predicted = model.predict(latents[:, max(0, now - size) : now], blocks[:, max(0, now - size) : now])
        latents = torch.cat([latents, predicted[:, -1:]], dim=1)
    return latents[:, num_context:].reshape(num_episodes, num_candidates, num_steps, -1)


def float_pixels(frames: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "R 3 Y X"]:
    """uint8 [..., Y, X, 3] -> normalised float32, made on the CPU before the model sees it."""
    pixels = torch.from_numpy(frames.reshape(-1, *frames.shape[-3:]).astype(np.float32) / np.float32(255))
    return (pixels.permute(0, 3, 1, 2) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def float_pixels_there(frames: UInt8[Tensor, "*R Y X 3"], mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "_ 3 Y X"]:
    """The same on the device where the frames are."""
    pixels = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2).float() / 255
    shift, scale = torch.tensor([mean, std], device=frames.device)[:, :, None, None].unbind()
    return (pixels - shift) / scale


def plain_lewm_loss(
    model: WorldModel, pixels: Float[Tensor, "R 3 Y X"], blocks: Float[Tensor, "B T A"], directions: Float[Tensor, "D M"], weight: float
) -> Float[Tensor, ""]:
    """LeWorldModel's loss (arXiv 2603.19312, eq. 1) of frames that are floats already (R = B * (T+1)), with the literal SIGReg."""
    latents: Tensor = model.projector(model.encoder(pixels)).view(len(blocks), -1, model.latent_dimension)  # [B, T+1, D]
    prediction_loss = functional.mse_loss(model.predict(latents[:, :-1], blocks), latents[:, 1:])
    return prediction_loss + weight * literal_sigreg(latents.transpose(0, 1), directions)
