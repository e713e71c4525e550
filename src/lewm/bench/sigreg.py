"""SIGReg, forward and backward, against its formula as written.

Axes: T time step, B batch, D latent, M direction.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lewm.bench.compiler import require_compiler
from lewm.bench.memory import peak_growth_bytes, peak_growth_bytes_on_gpu
from lewm.bench.references import literal_sigreg
from lewm.bench.suite import BenchOptions
from lewm.bench.timing import MEBIBYTE, Contender, Row, Spread, milliseconds, relative_difference, take_turns
from lewm.objectives.sigreg import random_directions, sigreg

REFERENCE = "the formula as written: every cosine and sine [T, B, M, 17] in memory, torch's own gradient"
TARGETS: dict[str, tuple[float | None, float | None]] = {"eager": (4, 6), "compiled": (None, 10)}
"""Times faster on a CPU: must, aim."""
Statistic = Callable[[Tensor, Tensor], Tensor]


def measure(options: BenchOptions) -> list[Row]:
    """Time and memory of the statistic with its gradient in the latents.

    ``use_compile`` adds rows for ``torch.compile(sigreg)``; the quick form traces it without generating code.
    """
    sizes = num_frames, batch, dimension, num_directions = (2, 64, 32, 256) if options.is_quick else (4, 128, 192, 1024)
    latents = torch.randn(num_frames, batch, dimension, generator=torch.Generator().manual_seed(0)).to(options.device).requires_grad_()
    directions = random_directions(dimension, num_directions, seed=0, device=options.device)

    def with_gradient(statistic: Statistic) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(statistic(latents, directions), latents)[0]

    functions = {"reference": with_gradient(literal_sigreg), "eager": with_gradient(sigreg)}
    if options.use_compile:
        require_compiler(options.device)
        functions["compiled"] = with_gradient(torch.compile(sigreg, dynamic=False, backend="eager" if options.is_quick else "inductor"))
    is_held_to_targets, num_rounds = not options.is_quick and options.device == "cpu", 3 if options.is_quick else 15
    contenders = {name: Contender(function) for name, function in functions.items()}
    seconds = take_turns(contenders, num_rounds=num_rounds, num_warmups=2, device=options.device)  # the warm-up also compiles
    case = f"T={num_frames} B={batch} D={dimension} M={num_directions}"
    expected = functions["reference"]()
    rows = []
    for name in list(functions)[1:]:
        ours, reference = milliseconds(seconds[name]), milliseconds(seconds["reference"])
        must, aim = TARGETS[name] if is_held_to_targets else (None, None)
        rows.append(_row(f"{name}, forward + backward, {case}", "ms", ours, reference, must, aim, relative_difference(functions[name](), expected)))
    eager, reference = (
        Spread.of([(peak_growth_bytes(name, sizes) if options.device == "cpu" else peak_growth_bytes_on_gpu(functions[name])) / MEBIBYTE])
        for name in ("eager", "reference")
    )
    return [*rows, _row(f"eager, peak memory, {case}", "MiB", eager, reference, 8 if is_held_to_targets else None, None, None)]


def _row(case: str, unit: str, ours: Spread, reference: Spread, must: float | None, aim: float | None, difference: float | None) -> Row:
    return Row(
        case=case,
        unit=unit,
        better="lower",
        ours=ours,
        reference=reference,
        reference_is=REFERENCE,
        target_must=must,
        target_aim=aim,
        max_difference=difference,
    )
