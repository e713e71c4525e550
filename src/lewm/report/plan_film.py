"""A film of a plan: the start, the imagined way as a run's decoder draws it, and the goal.

Axes: T model step, D latent, V view, Y X image.
"""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from lewm.report.films import PAPER_COLOR, enlarged
from lewm.schema import ObservationSpec

NUM_HELD_FRAMES = 4
"""How often each model step is repeated."""


@torch.no_grad()
def plan_film(
    decoder: nn.Module, spec: ObservationSpec, start: np.ndarray, latents: Float[Tensor, "1 T D"], goal: np.ndarray | None, *, side_px: int = 192
) -> list[Image.Image]:
    """Start, imagined frame and, if it is a frame, goal side by side; ``start`` and ``goal`` are uint8 [1, V, Y, X, 3]."""
    newest = len(spec.stack_offsets_env_steps) - 1  # the stack of the first camera comes first, oldest first
    drawn = decoder(latents.float())[0, :, newest].clamp(0, 1).mul(255).round().byte().cpu().numpy()  # T Y X 3
    images = []
    for frame in (start[0, newest], *drawn):
        shown = [start[0, newest], frame, *([] if goal is None else [goal[0, newest]])]
        images += [_side_by_side([enlarged(part, side_px) for part in shown])] * NUM_HELD_FRAMES
    return images


def _side_by_side(parts: list[Image.Image], gutter: int = 8) -> Image.Image:
    width, height = parts[0].size
    image = Image.new("RGB", (len(parts) * (width + gutter) - gutter, height), PAPER_COLOR)
    for number, part in enumerate(parts):
        image.paste(part, (number * (width + gutter), 0))
    return image
