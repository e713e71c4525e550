"""What every stage on frozen latents does the same way: the loop over optimiser steps, and the checkpoint that holds the new head.

A stage takes minutes and is a pure function of (settings, base, dataset); one that was stopped is started again.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lewm.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from lewm.errors import TrainingError
from lewm.models.heads import Head
from lewm.run_directory import MetricsLog
from lewm.training import Progress
from lewm.versions import hardware, versions

WARMUP_FRACTION = 0.02
GRADIENT_CLIP = 1.0
LOG_EVERY_STEPS = 20


def fit_head(
    head: Head,
    loss_at: Callable[[int], Tensor],
    metrics: MetricsLog,
    progress: Progress | None,
    *,
    describe: Callable[[float], dict[str, float]],
) -> None:
    """Follow the gradient of ``loss_at(step)`` for ``num_steps``; ``describe`` turns the loss into what is logged.

    ``TrainingError`` if it is not finite.
    """
    settings = head.settings
    optimizer = torch.optim.AdamW(head.network.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    start_s = time.monotonic()
    head.network.train()
    try:
        for step in range(settings.num_steps):
            optimizer.param_groups[0]["lr"] = settings.learning_rate * schedule(step, settings.num_steps)
            loss = loss_at(step)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(head.network.parameters(), GRADIENT_CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % LOG_EVERY_STEPS == 0 or step + 1 == settings.num_steps:
                value = float(loss.detach())
                if not math.isfinite(value):
                    name = settings.NAME
                    raise TrainingError(f"the {name}'s loss is {value:g} at step {step}; lower {name}.learning_rate")
                values = describe(value) | {"seconds": round(time.monotonic() - start_s, 3)}
                metrics.write(step, values)
                if progress is not None:
                    progress.update(step + 1, settings.num_steps, values)
    finally:
        head.network.eval()
        if progress is not None:
            progress.close()


def save_with_head(out: Path, checkpoint: Checkpoint, head: Head, origin: dict[str, Any]) -> None:
    """A new, complete checkpoint: the base bit for bit, its other heads, and this one in place of an older one of its name."""
    name = head.settings.NAME
    origin = {"base_checkpoint_sha256": checkpoint.sha256} | origin | {"versions": versions(), "hardware": hardware(head.settings.device)}
    save_checkpoint(
        checkpoint_path(out, checkpoint.step),
        checkpoint.model,
        checkpoint.config,
        step=checkpoint.step,
        env=checkpoint.env,
        provenance=checkpoint.provenance | {"heads": checkpoint.provenance.get("heads", {}) | {name: origin}},
        heads=checkpoint.heads | {name: head},
    )


def schedule(step: int, num_steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(WARMUP_FRACTION * num_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))
