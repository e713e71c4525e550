"""SIGReg, forward and backward, against its formula as written.

Axes: T time step, B batch, D latent, M direction.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lewm.bench.references import literal_sigreg
from lewm.bench.timing import MEBIBYTE, Contender, Row, Spread, milliseconds, peak_bytes, relative_difference, take_turns
from lewm.objectives.sigreg import random_directions, sigreg

REFERENCE = "the formula as written: every cosine and sine [T, B, M, 17] in memory, torch's own gradient"
Statistic = Callable[[Tensor, Tensor], Tensor]


def measure(*, is_quick: bool) -> list[Row]:
    """Time and memory of the statistic with its gradient in the latents."""
    num_frames, batch, dimension, num_directions = (2, 8, 6, 16) if is_quick else (4, 128, 192, 1024)
    latents = torch.randn(num_frames, batch, dimension, generator=torch.Generator().manual_seed(0)).requires_grad_()
    directions = random_directions(dimension, num_directions, seed=0)
    sizes = f"T={num_frames} B={batch} D={dimension} M={num_directions}"

    def run(statistic: Statistic) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(statistic(latents, directions), latents)[0]

    contenders = {"eager": run(sigreg), "reference": run(literal_sigreg)}
    seconds = take_turns({name: Contender(function) for name, function in contenders.items()}, num_rounds=3 if is_quick else 15, num_warmups=2)
    memory = {name: peak_bytes(function) / MEBIBYTE for name, function in contenders.items()}
    return [
        Row(
            case=f"forward + backward, {sizes}",
            unit="ms",
            better="lower",
            ours=milliseconds(seconds["eager"]),
            reference=milliseconds(seconds["reference"]),
            reference_is=REFERENCE,
            target_must=4,
            target_aim=6,
            max_difference=relative_difference(contenders["eager"](), contenders["reference"]()),
        ),
        Row(
            case=f"peak memory, {sizes}",
            unit="MiB",
            better="lower",
            ours=Spread.of([memory["eager"]]),
            reference=Spread.of([memory["reference"]]),
            reference_is=REFERENCE,
            target_must=8,
        ),
    ]
